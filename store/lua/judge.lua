-- Marks instrumentations to be judged, keeping the time of an older mark, and wakes a worker if one was not marked yet: an
-- older mark has woken it.
-- ARGV: ids
local P = KEYS[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local new = 0
for _, id in ipairs(ARGV) do new = new + redis.call('ZADD', P .. 'judge', 'NX', now, id) end
if new > 0 then redis.call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', 'j') end
return 1
