-- Commits the document of a host: all of it, or nothing when the claim is lost, or the facts or the document have moved on
-- since they were read. Two commits never make the same version. The mark that led here is removed.
-- ARGV: host, token, wanted, standing epoch, generation, hash; new epoch, generation, hash, body; kind of the change;
--       how many places have changed, and for each: id, revision, expected, zones, zones that are new; then removed ids
-- Answers {'OK', ids whose counts have changed}, {'MOVED', epoch, generation, hash} or {'LOST'}.
local P, host = KEYS[1], ARGV[1]
local H, on, st, add, rm = P .. 'fact:' .. host, P .. 'on:' .. host, P .. 'st:' .. host, P .. 'add:' .. host, P .. 'rm:' .. host
if not holds(P, '', host, ARGV[2]) then return {'LOST'} end
local v = redis.call('HMGET', H, 'epoch', 'gen', 'hash', 'gone', 'session')
local epoch, gen, hash = v[1] or '', v[2] or '0', v[3] or ''
if (redis.call('HGET', P .. 'wanted', host) or '0') ~= ARGV[3] or epoch ~= ARGV[4] or gen ~= ARGV[5] or hash ~= ARGV[6] then
  return {'MOVED', epoch, gen, hash}
end

local judge = {}
local function count(id, value)
  if put(P, id, host, value) then judge[#judge + 1] = id end
end

-- Each kind of write is one command for all that it concerns.
local function some(command, key, list)
  for from = 1, #list, 1000 do redis.call(command, key, unpack(list, from, math.min(from + 999, #list))) end
end
local n = tonumber(ARGV[12])
local ids, set, known, news = {}, {}, {}, {}
for i = 13, 12 + 5 * n, 5 do
  local id = ARGV[i]
  ids[#ids + 1] = id
  set[#set + 1] = 'm' .. id
  set[#set + 1] = ARGV[i + 1] .. '|' .. ARGV[7] .. '|' .. ARGV[8] .. '|' .. ARGV[i + 2]
  set[#set + 1] = 'v' .. id
  set[#set + 1] = ARGV[i + 3]
  if ARGV[i + 4] == '' then
    known[#known + 1] = id
  else
    news[#news + 1] = id
    news[#news + 1] = ARGV[i + 4]
  end
end
some('HSET', on, set)
some('HDEL', add, known)
some('HSET', add, news)
some('SREM', rm, ids)
for k, id in ipairs(ids) do
  local i = 8 + 5 * k
  local expected = tonumber(ARGV[i + 2])
  count(id, pack(expected, counts(tonumber(ARGV[i + 1]), expected, ARGV[i + 3], ARGV[i + 4], redis.call('HGET', st, id))))
end
for i = 13 + 5 * n, #ARGV do
  local id = ARGV[i]
  redis.call('HDEL', on, 'm' .. id, 'v' .. id)
  redis.call('HDEL', add, id)
  redis.call('HDEL', st, id)
  if v[5] then -- an agent was there, so it may run it
    redis.call('SADD', rm, id)
    count(id, 'x')
  else
    count(id, '')
  end
end

if gen ~= ARGV[8] or epoch ~= ARGV[7] then
  redis.call('HSET', H, 'epoch', ARGV[7], 'gen', ARGV[8], 'hash', ARGV[9], 'body', ARGV[10])
  announce(P, host, ARGV[11], ARGV[7], ARGV[8], ARGV[9], '')
end
redis.call('ZREM', P .. 'leased', host)
redis.call('HDEL', P .. 'claims', host)
if v[4] then -- the host has left the inventory: nobody waits for its agent
  for _, id in ipairs(redis.call('SMEMBERS', rm)) do count(id, '') end
  redis.call('DEL', rm)
  if redis.call('EXISTS', on) == 0 then
    redis.call('DEL', st, add)
    redis.call('ZREM', P .. 'seen', host)
    redis.call('HDEL', P .. 'wanted', host)
    redis.call('PEXPIRE', H, '691200000')
  end
else
  redis.call('ZADD', P .. 'seen', 'NX', '0', host)
end
return {'OK', judge}
