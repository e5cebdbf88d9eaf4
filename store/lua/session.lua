-- Makes sessions the agents of their hosts. They are told in the order in which they begin.
-- ARGV: for each: host, session. Answers 1 for each.
local P = KEYS[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local seen, out = {}, {}
for i = 1, #ARGV, 2 do
  local host, session = ARGV[i], ARGV[i + 1]
  local H = P .. 'fact:' .. host
  if redis.call('HGET', H, 'session') ~= session then redis.call('HSET', H, 'session', session, 'seq', '-1') end
  seen[i], seen[i + 1] = now, host
  out[#out + 1] = 1
  announce(host, 'superseded', '', '0', '', session)
end
redis.call('ZADD', P .. 'seen', unpack(seen))
publish(P)
return out
