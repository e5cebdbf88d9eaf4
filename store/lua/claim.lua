-- Claims members of the queue that nobody has claimed. Each member is claimed by one token at most.
-- ARGV: kind, token, lease in ms, ids
-- Answers the claimed ids, each followed by its count of marks.
local P, kind = KEYS[1], ARGV[1]
local dirty, leased, claims, wanted = P .. kind .. 'dirty', P .. kind .. 'leased', P .. kind .. 'claims', P .. kind .. 'wanted'
local lapses = string.format('%.0f', millis() + ARGV[3])
local out = {}
for from = 4, #ARGV, 500 do
  local last = math.min(from + 499, #ARGV)
  local ids, leases, claimed = {}, {}, {}
  for i, score in ipairs(redis.call('ZMSCORE', dirty, unpack(ARGV, from, last))) do
    if score then
      local id = ARGV[from + i - 1]
      ids[#ids + 1] = id
      leases[#leases + 1] = lapses
      leases[#leases + 1] = id
      claimed[#claimed + 1] = id
      claimed[#claimed + 1] = ARGV[2] .. '|' .. string.format('%.0f', tonumber(score))
    end
  end
  if #ids > 0 then
    redis.call('ZREM', dirty, unpack(ids))
    redis.call('ZADD', leased, unpack(leases))
    redis.call('HSET', claims, unpack(claimed))
    for i, n in ipairs(redis.call('HMGET', wanted, unpack(ids))) do
      out[#out + 1] = ids[i]
      out[#out + 1] = n or '0'
    end
  end
end
return out
