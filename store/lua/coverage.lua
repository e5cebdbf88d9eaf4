-- Sums up how instrumentations fare in this shard. Sources on hosts that are offline count as that, whatever they were
-- before, so the four kinds always add up to what is expected.
-- ARGV: patience, ceiling (see cut.lua), ids
-- Answers for each id that has sources here: its place in the list, from 0; expected, running, pending, failed, offline.
local P = KEYS[1]
local out, off, away = {}, nil, nil

-- The fields of a hash, in pieces that unpack can take.
local function fields(names)
  local values = {}
  for from = 1, #names, 500 do
    for _, v in ipairs(redis.call('HMGET', P .. 'tot', unpack(names, from, math.min(from + 499, #names)))) do
      values[#values + 1] = v
    end
  end
  return values
end

local names = {}
for i = 3, #ARGV do names[i - 2] = ARGV[i] .. ':e' end
local here, rest, expected = {}, {}, fields(names)
for i, e in ipairs(expected) do
  if e and e ~= '0' then
    here[#here + 1] = i
    for _, kind in ipairs({':r', ':p', ':f', ':h'}) do rest[#rest + 1] = ARGV[i + 2] .. kind end
  end
end
if #here == 0 then return out end
local v = fields(rest)
off = redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', silence(ARGV[1], ARGV[2]))

for n, i in ipairs(here) do
  local id, at = ARGV[i + 2], 4 * (n - 1)
  local r, p, f, o = tonumber(v[at + 1] or '0'), tonumber(v[at + 2] or '0'), tonumber(v[at + 3] or '0'), 0
  local function move(entry)
    local he, hr, hp, hf = string.match(entry, '^(%d+),(%d+),(%d+),(%d+)')
    if he then o, r, p, f = o + he, r - hr, p - hp, f - hf end
  end
  if #off > tonumber(v[at + 4] or '0') then
    if not away then
      away = {}
      for _, host in ipairs(off) do away[host] = true end
    end
    local all = redis.call('HGETALL', P .. 'p:' .. id)
    for j = 1, #all, 2 do
      if away[all[j]] then move(all[j + 1]) end
    end
  else
    for from = 1, #off, 500 do
      for _, entry in ipairs(redis.call('HMGET', P .. 'p:' .. id, unpack(off, from, math.min(from + 499, #off)))) do
        if entry then move(entry) end
      end
    end
  end
  for _, number in ipairs({i - 1, tonumber(expected[i]), r, p, f, o}) do out[#out + 1] = number end
end
return out
