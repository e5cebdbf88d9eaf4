-- Removes what a shard keeps for one instrumentation.
-- ARGV: id
local P, id = KEYS[1], ARGV[1]
for _, host in ipairs(redis.call('HKEYS', P .. 'p:' .. id)) do
  redis.call('SREM', P .. 'rm:' .. host, id)
  redis.call('HDEL', P .. 'on:' .. host, 'm' .. id, 'v' .. id)
  redis.call('HDEL', P .. 'add:' .. host, id)
  redis.call('HDEL', P .. 'st:' .. host, id)
end
redis.call('DEL', P .. 'p:' .. id)
redis.call('HDEL', P .. 'tot', id .. ':e', id .. ':r', id .. ':p', id .. ':f', id .. ':h')
return 1
