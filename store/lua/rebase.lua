-- Begins a new epoch for a host, if its version is still the one that was read. The host has no document then until it is
-- reconciled: what the store went back to is old, and must not reach the agent under a greater number.
-- ARGV: host, standing epoch, generation, hash; new epoch
-- Answers 1, or 0 when the version has moved on.
local P, host = KEYS[1], ARGV[1]
local H = P .. 'fact:' .. host
local v = redis.call('HMGET', H, 'epoch', 'gen', 'hash')
if (v[1] or '') ~= ARGV[2] or (v[2] or '0') ~= ARGV[3] or (v[3] or '') ~= ARGV[4] then return 0 end
redis.call('HSET', H, 'epoch', ARGV[5], 'gen', '0')
redis.call('HDEL', H, 'hash', 'body')
mark(P, '', host, true, millis())
wake(P)
return 1
