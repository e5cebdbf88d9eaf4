-- Marks instrumentations to be judged, keeping the time of an older mark, and wakes a worker.
-- ARGV: ids
local P = KEYS[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
for _, id in ipairs(ARGV) do redis.call('ZADD', P .. 'judge', 'NX', now, id) end
redis.call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', '1')
return 1
