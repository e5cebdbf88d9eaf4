-- Notes that a host has left the inventory, with the VMs that older reads have put there, and marks it urgently, so that it
-- gets an empty document. A newer read that shows the host or a VM stands.
-- ARGV: host, asof (µs)
-- Answers the VMs that were removed.
local P, host, asof = KEYS[1], ARGV[1], tonumber(ARGV[2])
local H, V = P .. 'fact:' .. host, P .. 'vms:' .. host
if redis.call('EXISTS', H) == 0 then return {} end
if tonumber(redis.call('HGET', H, 'asof') or '0') > asof then return {} end
local vms, all = {}, redis.pcall('HGETALL', V) -- what is damaged goes as well
for i = 1, all.err and 0 or #all, 2 do
  if tonumber(string.match(all[i + 1], '^(%d+)|') or '0') > asof then return {} end
  vms[#vms + 1] = all[i]
end
redis.call('DEL', V)
redis.call('HDEL', P .. 'digests', host)
redis.call('HDEL', H, 'host', 'status')
redis.call('HSET', H, 'gone', ARGV[2], 'read', ARGV[2])
redis.call('ZREM', P .. 'hosts', host)
mark(P, '', host, true, millis())
wake(P)
return vms
