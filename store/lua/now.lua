-- Reads the clock by which reads of the inventory are ordered: the server's, but always later than before. When the server's
-- was set back it goes on from where it was, in the smallest steps.
-- Answers microseconds.
local key = KEYS[1] .. 'clock'
local t = redis.call('TIME')
local now = math.max(t[1] * 1000000 + t[2], tonumber(redis.call('GET', key) or '0') + 1)
local text = string.format('%.0f', now)
redis.call('SET', key, text)
return text
