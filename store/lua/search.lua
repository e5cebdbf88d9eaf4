-- Walks an index, or several whose members it merges, and returns the ids that are in one index of each other group too.
-- One run looks at no more than `budget` members, so it never holds the server for long.
-- ARGV: up (1) or down (0), low, high (as ZRANGEBYLEX takes them), most ids, budget, then each group: count, index names;
--       the first group is the one that is walked
-- Merged indexes are sorted here, by the server's collation: ids are of one length and one case, so it is that of bytes.
-- Answers {the id to go on from, '' at the end; ids}.
local P = KEYS[1]
local up, low, high = ARGV[1] == '1', ARGV[2], ARGV[3]
local most, budget = tonumber(ARGV[4]), tonumber(ARGV[5])
local groups, i = {}, 6
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  local g = {}
  for j = i + 1, i + n do g[#g + 1] = P .. ARGV[j] end
  groups[#groups + 1] = g
  i = i + n + 1
end

local ids = {}
for _, key in ipairs(groups[1]) do
  local part
  if up then
    part = redis.call('ZRANGEBYLEX', key, low, high, 'LIMIT', 0, budget)
  else
    part = redis.call('ZREVRANGEBYLEX', key, high, low, 'LIMIT', 0, budget)
  end
  for _, id in ipairs(part) do ids[#ids + 1] = id end
end
if #groups[1] > 1 then
  if up then
    table.sort(ids)
  else
    table.sort(ids, function(a, b) return a > b end)
  end
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
    if has[n] then kept[#kept + 1] = list[n] end
  end
  return kept
end

local found, looked = {}, math.min(#ids, budget)
for from = 1, looked, 250 do
  local part = {}
  for n = from, math.min(from + 249, looked) do part[#part + 1] = ids[n] end
  for g = 2, #groups do part = within(groups[g], part) end
  for _, id in ipairs(part) do
    found[#found + 1] = id
    if #found == most then return {id, found} end
  end
end
if #ids < budget then return {'', found} end
return {ids[looked], found}
