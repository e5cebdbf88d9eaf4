-- Begins a new epoch for a host, if its version is still the one that was read.
-- ARGV: host, standing epoch, generation, hash; new epoch
-- Answers 1, or 0 when the version has moved on.
local P, host = KEYS[1], ARGV[1]
local H = P .. 'fact:' .. host
local v = redis.call('HMGET', H, 'epoch', 'gen', 'hash')
if (v[1] or '') ~= ARGV[2] or (v[2] or '0') ~= ARGV[3] or (v[3] or '') ~= ARGV[4] then return 0 end
if v[3] then
  redis.call('HSET', H, 'epoch', ARGV[5], 'gen', '1')
  announce(P, host, '', ARGV[5], '1', v[3], '')
else
  -- No document yet: the first one will be in the new epoch.
  redis.call('HSET', H, 'epoch', ARGV[5], 'gen', '0')
  mark(P, '', host, false, millis())
  wake(P)
end
return 1
