-- Ends the session of a host's agent, whose credential was revoked: no report of it is taken until a session begins.
-- ARGV: host, what is kept in place of the session
local P, host = KEYS[1], ARGV[1]
local H = P .. 'fact:' .. host
local v = redis.call('HMGET', H, 'session', 'epoch', 'gen', 'hash')
if v[1] then redis.call('HSET', H, 'session', ARGV[2], 'seq', '-1') end
announce(host, 'revoke', v[2] or '', v[3] or '0', v[4] or '', '')
publish(P)
return 1
