-- Notes that agents were heard of now, by the server's clock.
-- ARGV: hosts
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
for _, host in ipairs(ARGV) do redis.call('ZADD', KEYS[1] .. 'seen', now, host) end
return 1
