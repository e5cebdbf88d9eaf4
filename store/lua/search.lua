-- Walks an index, or several whose members it merges, and returns the ids that are in one index of each group too. The
-- smallest group is the one that is walked. It reads no more than it is likely to need, and one run looks at no more than
-- `budget` members, so it never holds the server for long.
-- ARGV: up (1) or down (0), low, high (as ZRANGEBYLEX takes them), most ids, budget,
--       what is wanted (r: ids and records; n: the number of ids),
--       an id to look for in every group ('' none),
--       which group is of states (0 none), the time (ms), whether EXPIRED is one of them; then each group: count, index names
-- What has expired by the time and is not noted as such yet (it is late) counts as EXPIRED, whatever state it is indexed by.
-- Merged indexes are sorted here, by the server's collation: ids are of one length and one case, so it is that of bytes.
-- Answers {the id to go on from, '' at the end; ids, or their number; their records; whether every group has the id to look
-- for}.
local P = KEYS[1]
local up, low, high = ARGV[1] == '1', ARGV[2], ARGV[3]
local most, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local states, now, expired = tonumber(ARGV[8]), ARGV[9], ARGV[10] == '1'
local groups, i = {}, 11
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  local g = {}
  for j = i + 1, i + n do g[#g + 1] = P .. ARGV[j] end
  groups[#groups + 1] = g
  i = i + n + 1
end

-- The late ones matter where states are asked for: either all of them match, or none does. Those that match are few as long
-- as workers run; of more than 10,000 only those are found that have expired first.
local behind = states > 0 and redis.call('ZCOUNT', P .. 'expires', '-inf', now) > 0
local late, islate = {}, {}
if behind and expired then
  late = redis.call('ZRANGEBYSCORE', P .. 'expires', '-inf', now, 'LIMIT', 0, 10000)
  for _, id in ipairs(late) do islate[id] = true end
end
local group_of_states = groups[states]

-- Those of a list that are not late.
local function timely(list)
  if #list == 0 then return list end
  local kept = {}
  for n, score in ipairs(redis.call('ZMSCORE', P .. 'expires', unpack(list))) do
    if not score or tonumber(score) > tonumber(now) then kept[#kept + 1] = list[n] end
  end
  return kept
end

if #groups > 1 then
  local best, least = 1, nil
  for n, g in ipairs(groups) do
    local size = 0
    for _, key in ipairs(g) do size = size + redis.call('ZCARD', key) end
    if g == group_of_states then size = size + #late end
    if not least or size < least then best, least = n, size end
  end
  groups[1], groups[best] = groups[best], groups[1]
end

-- The next n ids of the walk.
local function walk(n)
  local ids = {}
  local more = groups[1] == group_of_states and late or {}
  for _, id in ipairs(more) do
    if (low == '-' or id > string.sub(low, 2)) and (high == '+' or id < string.sub(high, 2)) then ids[#ids + 1] = id end
  end
  for _, key in ipairs(groups[1]) do
    local part
    if up then
      part = redis.call('ZRANGEBYLEX', key, low, high, 'LIMIT', 0, n)
    else
      part = redis.call('ZREVRANGEBYLEX', key, high, low, 'LIMIT', 0, n)
    end
    if #groups[1] == 1 and #more == 0 then return part end
    for _, id in ipairs(part) do ids[#ids + 1] = id end
  end
  if up then
    table.sort(ids)
  else
    table.sort(ids, function(a, b) return a > b end)
  end
  local first = {}
  for _, id in ipairs(ids) do
    if #first == n then break end
    if id ~= first[#first] then first[#first + 1] = id end -- what is late is indexed by another state too
  end
  return first
end

-- Those of a list that are in one index of the group, in their order.
local function within(group, list)
  if #list == 0 then return list end
  local has, kept = {}, {}
  for _, key in ipairs(group) do
    local scores = redis.call('ZMSCORE', key, unpack(list))
    for n = 1, #list do has[n] = has[n] or scores[n] end
  end
  for n = 1, #list do
    if has[n] or (group == group_of_states and islate[list[n]]) then kept[#kept + 1] = list[n] end
  end
  return kept
end

local found, looked, size, from = {}, 0, math.min(most, budget), nil
while not from do
  local ids = walk(size)
  for first = 1, #ids, 250 do
    local part = {}
    for n = first, math.min(first + 249, #ids) do part[#part + 1] = ids[n] end
    for g = 2, #groups do part = within(groups[g], part) end
    if behind and not expired then part = timely(part) end
    for _, id in ipairs(part) do
      if #found < most then
        found[#found + 1] = id
        if #found == most then from = id end
      end
    end
    if from then break end
  end
  looked = looked + #ids
  if not from then
    if #ids < size then
      from = ''
    elseif looked >= budget then
      from = ids[#ids]
    elseif up then
      low = '(' .. ids[#ids]
    else
      high = '(' .. ids[#ids]
    end
    size = math.min(math.max(4 * size, 400), budget - looked)
  end
end

if ARGV[6] == 'n' then return {from, #found} end
local records = {}
for first = 1, #found, 250 do
  for _, r in ipairs(redis.call('HMGET', P .. 'rec', unpack(found, first, math.min(first + 249, #found)))) do
    records[#records + 1] = r or ''
  end
end

local known = 1
if ARGV[7] ~= '' then
  for _, g in ipairs(groups) do
    local has = false
    for _, key in ipairs(g) do has = has or redis.call('ZSCORE', key, ARGV[7]) end
    if not has and not (g == group_of_states and islate[ARGV[7]]) then known = 0 end
  end
  if behind and not expired and #timely({ARGV[7]}) == 0 then known = 0 end
end
return {from, found, records, known}
