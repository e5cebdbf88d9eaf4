-- Compares what was read of the VMs of one host with its facts, and changes nothing.
-- ARGV: host, its VMs in one text (each: VM, 36 characters; digest, 16 hex digits)
-- Answers {the places of those that are not known so, from 0; the VMs that are known and were not read}
local V, now = KEYS[1] .. 'vms:' .. ARGV[1], ARGV[2]
local differ, missing, found = {}, {}, 0
for i = 0, #now / 52 - 1 do
  local from = 52 * i
  local old = redis.call('HGET', V, string.sub(now, from + 1, from + 36))
  if old then found = found + 1 end
  if not old or string.match(old, '^%d+|(%x+)|') ~= string.sub(now, from + 37, from + 52) then
    differ[#differ + 1] = i
  end
end
if redis.call('HLEN', V) > found then
  local read = {}
  for from = 1, #now, 52 do read[string.sub(now, from, from + 35)] = true end
  for _, vm in ipairs(redis.call('HKEYS', V)) do
    if not read[vm] then missing[#missing + 1] = vm end
  end
end
return {differ, missing}
