-- Makes sessions the agents of their hosts. They are told in the order in which they begin. Each beginning has a number that is
-- greater than those of all before it, also of those that were lost with the store's last writes: it is made of the clock.
-- ARGV: for each: host, session, the number of an earlier beginning of it or 0. With one it begins again only where that was lost
--       and none that is later stands.
-- Answers for each its number, '0' if it has not begun; or {'ERR', why} where what is kept of the host is not valid.
local P = KEYS[1]
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local seen, out = {}, {}

local function begin(i)
  local host, session, held = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local H = P .. 'fact:' .. host
  local v = redis.call('HMGET', H, 'session', 'begun')
  local last = tonumber(v[2] or '0')
  if held > 0 and last >= held then return v[1] == session and v[2] or '0' end
  local number = string.format('%.0f', math.max(t[1] * 1000000 + t[2], last + 1, held + 1))
  if v[1] == session then
    redis.call('HSET', H, 'begun', number)
  else
    redis.call('HSET', H, 'session', session, 'seq', '-1', 'begun', number)
  end
  seen[#seen + 1] = now
  seen[#seen + 1] = host
  announce(host, 'superseded', '', '0', '', session)
  return number
end

for i = 1, #ARGV, 3 do out[#out + 1] = try(begin, i) end
if #seen > 0 then redis.call('ZADD', P .. 'seen', unpack(seen)) end
publish(P)
return out
