-- Ends the session of a host's agent, whose credential was revoked: no report of it is taken until a session begins, and it does
-- not begin again for having been lost.
-- ARGV: host, what is kept in place of the session
local P, host = KEYS[1], ARGV[1]
local H = P .. 'fact:' .. host
local v = redis.call('HMGET', H, 'session', 'epoch', 'gen', 'hash', 'begun')
if v[1] then
  local t = redis.call('TIME')
  local number = math.max(t[1] * 1000000 + t[2], tonumber(v[5] or '0') + 1)
  redis.call('HSET', H, 'session', ARGV[2], 'seq', '-1', 'begun', string.format('%.0f', number))
end
announce(host, 'revoke', v[2] or '', v[3] or '0', v[4] or '', '')
publish(P)
return 1
