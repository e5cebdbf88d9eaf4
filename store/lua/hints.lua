-- Notes on which hosts VMs are. A note that came from a newer read stands. With `expect` the note is removed instead, if it
-- names that host.
-- ARGV: asof (µs), then for each VM: VM, host ('' gone), expect ('' none)
-- Answers for each VM the hosts that it may be on, joined by commas ('' none): that of the note before, and those of notes
-- whose facts were never confirmed to be written; or '!' when a newer note stands.
local P, asof = KEYS[1], tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local out = {}
for i = 2, #ARGV, 3 do
  local vm, host, expect = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = redis.call('HGET', P .. 'vmhost', vm)
  local was, at = '', 0
  if old then
    at, was = string.match(old, '^(%d+)|(.*)$')
    at = tonumber(at)
  end
  if at > asof then
    out[#out + 1] = '!'
  elseif expect ~= '' then
    if was == expect then redis.call('HDEL', P .. 'vmhost', vm) end
    out[#out + 1] = was
  else
    -- Until the facts are written and confirmed, the VM may still be on each host that a note has named.
    local left = redis.call('HGET', P .. 'vmleft', vm) or ''
    if was ~= '' and was ~= host and not string.find(left, was, 1, true) then
      left = left == '' and was or left .. ',' .. was
      redis.call('HSET', P .. 'vmleft', vm, left)
    end
    redis.call('HSET', P .. 'vmhost', vm, ARGV[1] .. '|' .. host)
    if host == '' then
      redis.call('ZADD', P .. 'vmgone', string.format('%.0f', now), vm)
    elseif was == '' then
      redis.call('ZREM', P .. 'vmgone', vm)
    end
    out[#out + 1] = left ~= '' and left or was
  end
end
-- A note that a VM has gone only holds off reads that began before it: an hour is enough.
for _, vm in ipairs(redis.call('ZRANGEBYSCORE', P .. 'vmgone', '-inf', string.format('%.0f', now - 3600000), 'LIMIT', 0, 50)) do
  redis.call('HDEL', P .. 'vmhost', vm)
  redis.call('HDEL', P .. 'vmleft', vm)
  redis.call('ZREM', P .. 'vmgone', vm)
end
return out
