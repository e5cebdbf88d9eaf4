-- Stores how hosts fare, each whole, unless it comes too late: from a session that is not the host's agent, or not newer than
-- the last of its session. A silent session gives way to another, but not one that was revoked. What the agent has applied
-- acknowledges removals and new zones; counts and sums follow.
-- ARGV: how long a session may be silent (ms), then for each report: host, session, sequence, agent version, capabilities,
--       applied epoch, generation, hash, targets, number of instrumentations; and for each: id; revision, status, count and
--       list of zones that fare otherwise (17 bytes each: the zone, r, p or f), with a bar before each; JSON
-- Answers for each {accepted, superseded, ids whose counts have changed}, or {'ERR', why} where what is kept of the host is not
-- valid.
local P = KEYS[1]
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local when = string.format('%.0f', now)
local silent = now - ARGV[1]
local heard, seen = {}, {}
redis.call('ZCARD', P .. 'seen') -- it is written last: if that cannot be, nothing is

local function all(key)
  local flat, out = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
  return out
end

local function hear(host)
  if heard[host] then return end
  heard[host] = true
  seen[#seen + 1] = when
  seen[#seen + 1] = host
end

-- All is read and worked out before anything is written, so that a report that fails has changed nothing and can come again.
local function report(head)
  local host, session, sequence = ARGV[head], ARGV[head + 1], ARGV[head + 2]
  begin(host)
  local H, on, st, add, rm = P .. 'fact:' .. host, P .. 'on:' .. host, P .. 'st:' .. host, P .. 'add:' .. host, P .. 'rm:' .. host
  local v = redis.call('HMGET', H, 'session', 'seq', 'epoch', 'gen', 'hash')
  local seq = tonumber(v[2] or '-1')
  if v[1] ~= session then
    local last = heard[host] and now or tonumber(redis.call('ZSCORE', P .. 'seen', host) or '0')
    if v[1] and (last > silent or v[1] == 'ffffffff-ffff-ffff-ffff-ffffffffffff') then return {0, 1, {}} end
    seq = -1
  end
  if tonumber(sequence) <= seq then
    hear(host)
    return {0, 0, {}}
  end
  local aepoch, agen, ahash = ARGV[head + 5], ARGV[head + 6], ARGV[head + 7]

  local judge = {}
  local old, new = all(st), all(add)

  -- What an instrumentation counts for depends on its place, on the zones that no applied document has had, and on its
  -- status. Commits count when a place changes; recount has those whose zones or status change here.
  local is, recount = {}, {}
  for i = head + 10, head + 7 + 3 * ARGV[head + 9], 3 do
    local id, fares, json = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    local since, was = nil, old[id]
    if was then
      since = string.match(was, '^%d+')
      local rest = #since + #fares
      if string.sub(was, #since + 1, rest) ~= fares then
        recount[id] = true
        if string.match(was, '^|%d+(|[%u_]+|)', #since + 1) ~= string.match(fares, '^|%d+(|[%u_]+|)') then since = nil end
      elseif noted(string.sub(was, rest + 1)) ~= noted(json) then
        recount[id] = true
      end
    else
      recount[id] = true
    end
    is[id] = (since or when) .. fares .. json
  end
  for id in pairs(old) do
    if not is[id] then recount[id] = true end
  end

  -- The places are read of these alone: there are many, and most reports change nothing.
  local places, asked = {}, {}
  local function ask(id)
    asked[#asked + 1] = 'm' .. id
    asked[#asked + 1] = 'v' .. id
  end
  for id in pairs(recount) do ask(id) end
  for id in pairs(new) do
    if not recount[id] then ask(id) end
  end
  local found = fields(on, asked)
  for i, name in ipairs(asked) do places[name] = found[i] end

  local epoch, gen = v[3] or '', tonumber(v[4] or '0')
  agen = tonumber(agen)
  local current = aepoch == epoch and agen == gen and ahash == (v[5] or '') and epoch ~= ''
  local acknowledged, had = false, {}
  if current then
    local removed = redis.call('SMEMBERS', rm)
    for _, id in ipairs(removed) do
      if put(P, id, host, '') then judge[#judge + 1] = id end
    end
    for id in pairs(new) do recount[id] = true end
    acknowledged = removed[1] or next(new)
    new = {}
  end
  -- A version that is greater than ours belongs to a history that we have lost, and says nothing of our places.
  local earlier = not current and aepoch == epoch and agen < gen
  if earlier then
    for id in pairs(new) do
      local cepoch, cgen = string.match(places['m' .. id] or '', '|(%x+)|(%d+)|')
      -- Epochs before ours are behind every document of this one.
      if cepoch and (cepoch < epoch or agen >= tonumber(cgen)) then
        had[#had + 1] = id
        new[id] = nil
        recount[id] = true
      end
    end
  end

  -- What has a status has a place, for a commit that takes the place takes the status too.
  local flat, dropped = {}, {}
  for id, value in pairs(is) do
    if not old[id] and not places['m' .. id] then
      is[id] = nil
    elseif value ~= old[id] then
      flat[#flat + 1] = id
      flat[#flat + 1] = value
    end
  end
  for id in pairs(old) do
    if not is[id] then dropped[#dropped + 1] = id end
  end

  for id in pairs(recount) do
    local rev, expected = string.match(places['m' .. id] or '', '^(-?%d+)|%x+|%d+|(%d+)$')
    if rev then
      expected = tonumber(expected)
      if place(P, id, host, expected, counts(tonumber(rev), expected, places['v' .. id] or '', new[id] or '', is[id])) then
        judge[#judge + 1] = id
      end
    end
  end

  if acknowledged then redis.call('DEL', rm, add) end
  some('HDEL', add, had)
  some('HSET', st, flat)
  some('HDEL', st, dropped)
  redis.call('HSET', H, 'session', session, 'seq', sequence, 'agent', ARGV[head + 3], 'caps', ARGV[head + 4],
    'aepoch', aepoch, 'agen', agen, 'ahash', ahash, 'targets', ARGV[head + 8])
  hear(host)
  return {1, 0, judge}
end

local out, head = {}, 2
while head <= #ARGV do
  out[#out + 1] = try(report, head, undo)
  head = head + 10 + 3 * ARGV[head + 9]
end
flush(P)
some('ZADD', P .. 'seen', seen)
return out
