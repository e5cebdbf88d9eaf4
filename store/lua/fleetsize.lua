-- Counts the hosts of the inventory in this shard whose agents were heard of after a time.
-- ARGV: cut (ms)
local P, n = KEYS[1], 0
for _, host in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', '(' .. ARGV[1], '+inf')) do
  if redis.call('ZSCORE', P .. 'hosts', host) then n = n + 1 end
end
return n
