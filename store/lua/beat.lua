-- Notes that a process serves agents. When nobody did for longer than `gap`, agents could not reach us: until `grace` has passed,
-- what was last heard of them counts as of when we were last there. When one process did not for so long, while others did, and
-- has not said that it leaves, its agents have such a grace too; it is not prolonged by another's end, so that a process that ends
-- again and again keeps nobody online.
-- ARGV: gap (ms), grace (ms), repaired (1: what was noted by a clock that was set back since has been corrected), process
-- Answers 0; or by how many ms the clock was set back, and then nothing is noted until that is repaired.
local key = KEYS[1] .. 'serving'
local gap, grace, mine = tonumber(ARGV[1]), tonumber(ARGV[2]), 'p:' .. ARGV[4]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local flat, v, processes = redis.call('HGETALL', key), {}, {}
for i = 1, #flat, 2 do
  local name, at = flat[i], tonumber(flat[i + 1])
  v[name] = at
  if string.sub(name, 1, 2) == 'p:' and name ~= mine then processes[#processes + 1] = name end
end

local function note(...)
  local pairs = {...}
  for i = 2, #pairs, 2 do pairs[i] = string.format('%.0f', pairs[i]) end
  redis.call('HSET', key, unpack(pairs))
end

local back = v.beat and v.beat - now or 0
if back > gap then
  if ARGV[3] ~= '1' then return back end
  for name, at in pairs(v) do
    if at > now then note(name, at - back) end
  end
elseif v.beat and now - v.beat > gap then
  -- An outage during the grace after another one extends it.
  local from = v.beat
  if v['until'] and v['until'] > v.beat then from = v.from end
  note('from', from, 'until', now + grace)
  for _, name in ipairs(processes) do redis.call('HDEL', key, name) end
else
  local from
  for _, name in ipairs(processes) do
    if now - v[name] > gap then
      from = math.min(from or v[name], v[name])
      redis.call('HDEL', key, name)
    end
  end
  if from then note('partfrom', from, 'partuntil', now + grace) end
end
note('beat', now, mine, now)
return 0
