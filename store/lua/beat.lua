-- Notes that agents are being served. When nobody did for longer than `gap`, agents could not reach us: until `grace` has
-- passed, what was last heard of them counts as of when we were last there.
-- ARGV: gap (ms), grace (ms)
local key = KEYS[1] .. 'serving'
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local v = redis.call('HMGET', key, 'beat', 'until', 'from')
if v[1] and now - v[1] > tonumber(ARGV[1]) then
  -- An outage during the grace after another one extends it.
  local from = v[1]
  if v[2] and tonumber(v[2]) > tonumber(v[1]) then from = v[3] end
  redis.call('HSET', key, 'from', from, 'until', string.format('%.0f', now + ARGV[2]))
end
redis.call('HSET', key, 'beat', string.format('%.0f', now))
return 1
