-- Makes sessions the agents of their hosts. They are told in the order in which they begin.
-- ARGV: for each: host, session. Answers 1 for each, or {'ERR', why} where what is kept of the host is not valid.
local P = KEYS[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local seen, out = {}, {}

local function begin(i)
  local host, session = ARGV[i], ARGV[i + 1]
  local H = P .. 'fact:' .. host
  if redis.call('HGET', H, 'session') ~= session then redis.call('HSET', H, 'session', session, 'seq', '-1') end
  seen[#seen + 1] = now
  seen[#seen + 1] = host
  announce(host, 'superseded', '', '0', '', session)
  return 1
end

for i = 1, #ARGV, 2 do out[#out + 1] = try(begin, i) end
if #seen > 0 then redis.call('ZADD', P .. 'seen', unpack(seen)) end
publish(P)
return out
