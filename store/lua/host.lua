-- Notes what the inventory says of a host. An older read changes nothing. The host is marked if its name or traits differ.
-- ARGV: host, asof (µs), JSON without the status, status
-- Answers 1 if the host has changed.
local P, host, asof = KEYS[1], ARGV[1], tonumber(ARGV[2])
local H = P .. 'fact:' .. host
if tonumber(redis.call('HGET', H, 'asof') or '0') > asof then return 0 end
if tonumber(redis.call('HGET', H, 'gone') or '0') > asof then return 0 end
local was = redis.call('HGET', H, 'host')
redis.call('HSET', H, 'asof', ARGV[2], 'host', ARGV[3], 'status', ARGV[4])
if tonumber(redis.call('HGET', H, 'read') or '0') < asof then redis.call('HSET', H, 'read', ARGV[2]) end
redis.call('HDEL', H, 'gone')
redis.call('PERSIST', H)
redis.call('ZADD', P .. 'hosts', '0', host)
if was == ARGV[3] then return 0 end
mark(P, '', host, false, millis())
wake(P)
return 1
