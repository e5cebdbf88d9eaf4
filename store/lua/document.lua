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
local ended, done, present, gone, documents = {}, {}, {}, {}, {}

-- What can fail does so before the places are written, by which the next commit sees what has changed, and before anything is
-- kept: a host that has failed is committed again, and counts as if nothing had been.
local function commit(k)
  local host, head = hosts[k], heads[k]
  begin(host)
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

  if v[4] then -- the host has left the inventory: nobody waits for its agent
    for _, id in ipairs(redis.call('SMEMBERS', rm)) do drop(id, '') end
  end
  local first = head + 13
  local removed = first + 5 * ARGV[head + 11]
  local last = removed + ARGV[head + 12] - 1
  local version = '|' .. ARGV[head + 6] .. '|' .. ARGV[head + 7] .. '|'
  local placed, set, known, news, dropped, places
  if removed > first then
    placed, set, known, news = {}, {}, {}, {}
    for i = first, removed - 1, 5 do
      local id = ARGV[i]
      placed[#placed + 1] = id
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
    local status = fields(st, placed)
    for n, id in ipairs(placed) do
      local i = first + 5 * (n - 1)
      local expected = tonumber(ARGV[i + 2])
      if place(P, id, host, expected, counts(tonumber(ARGV[i + 1]), expected, ARGV[i + 3], ARGV[i + 4], status[n])) then
        judge[#judge + 1] = id
      end
    end
  end
  if last >= removed then
    dropped, places = {}, {}
    for i = removed, last do
      local id = ARGV[i]
      dropped[#dropped + 1] = id
      places[#places + 1] = 'm' .. id
      places[#places + 1] = 'v' .. id
      drop(id, v[5] and not v[4] and 'x' or '')
    end
  end

  -- Each kind of write is one command for all that it concerns.
  if v[4] then redis.call('DEL', rm) end
  if placed then
    some('HDEL', add, known)
    some('HSET', add, news)
    if not v[4] then some('SREM', rm, placed) end
  end
  if dropped then
    some('HDEL', add, dropped)
    some('HDEL', st, dropped)
    if v[5] and not v[4] then some('SADD', rm, dropped) end -- an agent was there, so it may run them
  end
  if placed then some('HSET', on, set) end
  if dropped then some('HDEL', on, places) end
  if gen ~= ARGV[head + 7] or epoch ~= ARGV[head + 6] then
    documents[#documents + 1] = head
    announce(host, ARGV[head + 10], ARGV[head + 6], ARGV[head + 7], ARGV[head + 8], '')
  end
  if v[4] then
    gone[#gone + 1] = host
  else
    present[#present + 1] = '0'
    present[#present + 1] = host
  end
  ended[host] = true
  done[#done + 1] = host
  return {'OK', judge}
end

local out = {}
for k = 1, #hosts do out[k] = try(commit, k, undo) end

-- Whatever fails here leaves the claims, so that all is done again; and no document stands that nobody was told of.
flush(P)
publish(P)
for _, head in ipairs(documents) do
  redis.call('HSET', P .. 'fact:' .. ARGV[head], 'epoch', ARGV[head + 6], 'gen', ARGV[head + 7], 'hash', ARGV[head + 8],
    'body', ARGV[head + 9])
end
if #present > 0 then redis.call('ZADD', P .. 'seen', 'NX', unpack(present)) end
for _, host in ipairs(gone) do
  if redis.call('EXISTS', P .. 'on:' .. host) == 0 then
    redis.call('DEL', P .. 'st:' .. host, P .. 'add:' .. host)
    redis.call('ZREM', P .. 'seen', host)
    redis.call('HDEL', P .. 'wanted', host)
    redis.call('PEXPIRE', P .. 'fact:' .. host, '691200000')
  end
end
some('ZREM', P .. 'leased', done)
some('HDEL', P .. 'claims', done)
return out
