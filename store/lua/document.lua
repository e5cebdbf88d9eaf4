-- Commits the documents of hosts, each all of it, or nothing when the claim is lost, or the facts or the document have moved
-- on since they were read. Two commits never make the same version. The marks that led here are removed.
-- ARGV: for each: host, token, wanted, standing epoch, generation, hash; new epoch, generation, hash, body; kind of the change;
--       how many places have changed, how many are removed; for each that has changed: id, revision, expected, zones, zones
--       that are new; then removed ids
-- Answers for each {'OK', ids whose counts have changed}, {'MOVED', epoch, generation, hash}, {'LOST'}, or {'ERR', why} where
-- what is kept of the host is not valid.
local P = KEYS[1]
local hosts, heads = {}, {}
local head = 1
while head <= #ARGV do
  hosts[#hosts + 1], heads[#heads + 1] = ARGV[head], head
  head = head + 13 + 5 * ARGV[head + 11] + ARGV[head + 12]
end
local claims, wanted = fields(P .. 'claims', hosts), fields(P .. 'wanted', hosts)
local ended, done, present = {}, {}, {}

local function commit(k)
  local host, head = hosts[k], heads[k]
  if ended[host] or not held(claims[k], ARGV[head + 1]) then return {'LOST'} end
  local H, on, st, add, rm = P .. 'fact:' .. host, P .. 'on:' .. host, P .. 'st:' .. host, P .. 'add:' .. host, P .. 'rm:' .. host
  local v = redis.call('HMGET', H, 'epoch', 'gen', 'hash', 'gone', 'session')
  local epoch, gen, hash = v[1] or '', v[2] or '0', v[3] or ''
  if (wanted[k] or '0') ~= ARGV[head + 2] or epoch ~= ARGV[head + 3] or gen ~= ARGV[head + 4] or hash ~= ARGV[head + 5] then
    return {'MOVED', epoch, gen, hash}
  end

  local judge = {}
  local function drop(id, value)
    if put(P, id, host, value) then judge[#judge + 1] = id end
  end

  -- Each kind of write is one command for all that it concerns.
  local first = head + 13
  local removed = first + 5 * ARGV[head + 11]
  local version = '|' .. ARGV[head + 6] .. '|' .. ARGV[head + 7] .. '|'
  if removed > first then
    local ids, set, known, news = {}, {}, {}, {}
    for i = first, removed - 1, 5 do
      local id = ARGV[i]
      ids[#ids + 1] = id
      set[#set + 1] = 'm' .. id
      set[#set + 1] = ARGV[i + 1] .. version .. ARGV[i + 2]
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
    local status = fields(st, ids)
    for n, id in ipairs(ids) do
      local i = first + 5 * (n - 1)
      local expected = tonumber(ARGV[i + 2])
      if place(P, id, host, expected, counts(tonumber(ARGV[i + 1]), expected, ARGV[i + 3], ARGV[i + 4], status[n])) then
        judge[#judge + 1] = id
      end
    end
  end
  local last = removed + ARGV[head + 12] - 1
  if last >= removed then
    local ids, places = {}, {}
    for i = removed, last do
      local id = ARGV[i]
      ids[#ids + 1] = id
      places[#places + 1] = 'm' .. id
      places[#places + 1] = 'v' .. id
      drop(id, v[5] and 'x' or '')
    end
    some('HDEL', on, places)
    some('HDEL', add, ids)
    some('HDEL', st, ids)
    if v[5] then some('SADD', rm, ids) end -- an agent was there, so it may run them
  end

  if gen ~= ARGV[head + 7] or epoch ~= ARGV[head + 6] then
    redis.call('HSET', H, 'epoch', ARGV[head + 6], 'gen', ARGV[head + 7], 'hash', ARGV[head + 8], 'body', ARGV[head + 9])
    announce(host, ARGV[head + 10], ARGV[head + 6], ARGV[head + 7], ARGV[head + 8], '')
  end
  if v[4] then -- the host has left the inventory: nobody waits for its agent
    for _, id in ipairs(redis.call('SMEMBERS', rm)) do drop(id, '') end
    redis.call('DEL', rm)
    if redis.call('EXISTS', on) == 0 then
      redis.call('DEL', st, add)
      redis.call('ZREM', P .. 'seen', host)
      redis.call('HDEL', P .. 'wanted', host)
      redis.call('PEXPIRE', H, '691200000')
    end
  else
    present[#present + 1] = '0'
    present[#present + 1] = host
  end
  ended[host] = true
  done[#done + 1] = host
  return {'OK', judge}
end

local out = {}
for k = 1, #hosts do
  local fine, answer = pcall(commit, k)
  if not fine then answer = {'ERR', type(answer) == 'table' and answer.err or tostring(answer)} end
  out[k] = answer
end
some('ZREM', P .. 'leased', done)
some('HDEL', P .. 'claims', done)
if #present > 0 then redis.call('ZADD', P .. 'seen', 'NX', unpack(present)) end
flush(P)
publish(P)
return out
