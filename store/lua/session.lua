-- Makes a session the host's agent. Sessions are told in the order in which they begin.
-- ARGV: host, session
local P, host = KEYS[1], ARGV[1]
local H = P .. 'fact:' .. host
if redis.call('HGET', H, 'session') ~= ARGV[2] then redis.call('HSET', H, 'session', ARGV[2], 'seq', '-1') end
local t = redis.call('TIME')
redis.call('ZADD', P .. 'seen', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)), host)
announce(P, host, 'superseded', '', '0', '', ARGV[2])
return 1
