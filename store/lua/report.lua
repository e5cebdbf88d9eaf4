-- Stores how a host fares, whole, unless it comes too late: from a session that is not the host's agent, or not newer than
-- the last of its session. A silent session gives way to another, but not one that was revoked. What the agent has applied acknowledges removals and new
-- zones; counts and sums follow.
-- ARGV: host, session, sequence, agent version, capabilities, applied epoch, generation, hash, targets, how long a session
--       may be silent (ms), then for each instrumentation: id, revision, status, count and list of zones that fare otherwise
--       (17 bytes each: the zone, r, p or f), JSON
-- Answers {accepted, superseded, ids whose counts have changed}.
local P, host = KEYS[1], ARGV[1]
local H, on, st, add, rm = P .. 'fact:' .. host, P .. 'on:' .. host, P .. 'st:' .. host, P .. 'add:' .. host, P .. 'rm:' .. host
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local v = redis.call('HMGET', H, 'session', 'seq', 'epoch', 'gen', 'hash')
local seq = tonumber(v[2] or '-1')
if v[1] ~= ARGV[2] then
  local seen = tonumber(redis.call('ZSCORE', P .. 'seen', host) or '0')
  if v[1] and (seen > now - ARGV[10] or v[1] == 'ffffffff-ffff-ffff-ffff-ffffffffffff') then return {0, 1, {}} end
  seq = -1
end
redis.call('ZADD', P .. 'seen', string.format('%.0f', now), host)
if tonumber(ARGV[3]) <= seq then return {0, 0, {}} end
redis.call('HSET', H, 'session', ARGV[2], 'seq', ARGV[3], 'agent', ARGV[4], 'caps', ARGV[5],
  'aepoch', ARGV[6], 'agen', ARGV[7], 'ahash', ARGV[8], 'targets', ARGV[9])

local judge = {}
local function count(id, value)
  if put(P, id, host, value) then judge[#judge + 1] = id end
end

local function all(key)
  local flat, out = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do out[flat[i]] = flat[i + 1] end
  return out
end
local old, new = all(st), all(add)

-- What an instrumentation counts for depends on its place, on the zones that no applied document has had, and on its status.
-- Commits count when a place changes; recount has those whose zones or status change here.
local is, recount = {}, {}
for i = 11, #ARGV, 6 do
  local id, status = ARGV[i], ARGV[i + 2]
  local fares = '|' .. ARGV[i + 1] .. '|' .. status .. '|' .. ARGV[i + 3] .. '|' .. ARGV[i + 4]
  local since, was = nil, old[id]
  if was then
    local from, word = string.match(was, '^(%d+)|%d+|([%u_]+)|')
    if word == status then since = from end
  end
  if not since or string.sub(was, #since + 1, #since + #fares) ~= fares or noted(string.sub(was, #since + #fares + 1)) ~= noted(ARGV[i + 5]) then
    recount[id] = true
  end
  is[id] = (since or string.format('%.0f', now)) .. fares .. ARGV[i + 5]
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
for from = 1, #asked, 1000 do
  for k, v in ipairs(redis.call('HMGET', on, unpack(asked, from, math.min(from + 999, #asked)))) do
    places[asked[from + k - 1]] = v
  end
end

local epoch, gen, agen = v[3] or '', tonumber(v[4] or '0'), tonumber(ARGV[7])
local current = ARGV[6] == epoch and agen == gen and ARGV[8] == (v[5] or '') and epoch ~= ''
if current then
  local removed = redis.call('SMEMBERS', rm)
  for _, id in ipairs(removed) do count(id, '') end
  for id in pairs(new) do recount[id] = true end
  if removed[1] or next(new) then redis.call('DEL', rm, add) end
  new = {}
end
-- A version that is greater than ours belongs to a history that we have lost, and says nothing of our places.
local earlier = not current and ARGV[6] == epoch and agen < gen
if earlier then
  for id in pairs(new) do
    local cepoch, cgen = string.match(places['m' .. id] or '', '|(%x+)|(%d+)|')
    -- Epochs before ours are behind every document of this one.
    if cepoch and (cepoch < epoch or agen >= tonumber(cgen)) then
      redis.call('HDEL', add, id)
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
for from = 1, #flat, 1000 do redis.call('HSET', st, unpack(flat, from, math.min(from + 999, #flat))) end
for from = 1, #dropped, 1000 do redis.call('HDEL', st, unpack(dropped, from, math.min(from + 999, #dropped))) end

for id in pairs(recount) do
  local rev, expected = string.match(places['m' .. id] or '', '^(-?%d+)|%x+|%d+|(%d+)$')
  if rev then
    expected = tonumber(expected)
    count(id, pack(expected, counts(tonumber(rev), expected, places['v' .. id] or '', new[id] or '', is[id])))
  end
end
return {1, 0, judge}
