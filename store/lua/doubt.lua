-- Gives a host a digest that is not that of its VMs, however many they are, so that a sweep finds that they differ.
-- ARGV: host
local digests = KEYS[1] .. 'digests'
local sum = redis.call('HGET', digests, ARGV[1])
redis.call('HSET', digests, ARGV[1], '0|0|' .. (sum and string.match(sum, '|(%d+)$') or '1'))
return 1
