-- Notes that agents are being served. When nobody did for longer than `gap`, agents could not reach us: until `grace` has
-- passed, what was last heard of them counts as of when we were last there.
-- ARGV: gap (ms), grace (ms), repaired (1: what was noted by a clock that was set back since has been corrected)
-- Answers 0; or by how many ms the clock was set back, and then nothing is noted until that is repaired.
local key = KEYS[1] .. 'serving'
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local v = redis.call('HMGET', key, 'beat', 'until', 'from')
local back = v[1] and v[1] - now or 0
if back > tonumber(ARGV[1]) then
  if ARGV[3] ~= '1' then return back end
  for i, name in ipairs({'until', 'from'}) do
    if v[i + 1] and tonumber(v[i + 1]) > now then redis.call('HSET', key, name, string.format('%.0f', v[i + 1] - back)) end
  end
elseif v[1] and now - v[1] > tonumber(ARGV[1]) then
  -- An outage during the grace after another one extends it.
  local from = v[1]
  if v[2] and tonumber(v[2]) > tonumber(v[1]) then from = v[3] end
  redis.call('HSET', key, 'from', from, 'until', string.format('%.0f', now + ARGV[2]))
end
redis.call('HSET', key, 'beat', string.format('%.0f', now))
return 0
