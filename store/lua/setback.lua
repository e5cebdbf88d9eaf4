-- Corrects times that were noted before the clock was set back: what lies further ahead than anything can is as far ahead as
-- it was then. Repeating it changes nothing.
-- ARGV: by how much (ms), then sorted sets by time
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local back = tonumber(ARGV[1])
for i = 2, #ARGV do
  local key = KEYS[1] .. ARGV[i]
  local ahead = redis.call('ZRANGEBYSCORE', key, string.format('(%.0f', now + back / 2), '+inf', 'WITHSCORES')
  for j = 1, #ahead, 2 do redis.call('ZADD', key, string.format('%.0f', ahead[j + 1] - back), ahead[j]) end
end
return 1
