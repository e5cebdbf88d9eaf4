-- Notes what the inventory says of hosts. An older read changes nothing. A host is marked if its name or traits differ. What
-- is kept in its place and is no hash is replaced.
-- ARGV: asof (µs), then for each host: host, JSON without the status, status
-- Answers the hosts that have changed.
local P, asof = KEYS[1], tonumber(ARGV[1])
local changed = {}
for i = 2, #ARGV, 3 do
  local host = ARGV[i]
  local H = P .. 'fact:' .. host
  local old = redis.pcall('HMGET', H, 'asof', 'gone', 'host', 'read')
  if old.err then
    redis.call('DEL', H)
    old = {}
  end
  if tonumber(old[1] or '0') <= asof and tonumber(old[2] or '0') <= asof then
    redis.call('HSET', H, 'asof', ARGV[1], 'host', ARGV[i + 1], 'status', ARGV[i + 2])
    if tonumber(old[4] or '0') < asof then redis.call('HSET', H, 'read', ARGV[1]) end
    if old[2] then
      redis.call('HDEL', H, 'gone')
      redis.call('PERSIST', H)
    end
    redis.call('ZADD', P .. 'hosts', '0', host)
    if old[3] ~= ARGV[i + 1] then changed[#changed + 1] = host end
  end
end
if #changed > 0 then
  marks(P, '', changed, false, millis())
  wake(P)
end
return changed
