-- Claims members of the queue that nobody has claimed. Each member is claimed by one token at most.
-- ARGV: kind, token, lease in ms, ids
-- Answers the claimed ids, each followed by its count of marks.
local P, kind = KEYS[1], ARGV[1]
local lapses = string.format('%.0f', millis() + ARGV[3])
local out = {}
for i = 4, #ARGV do
  local id = ARGV[i]
  local score = redis.call('ZSCORE', P .. kind .. 'dirty', id)
  if score then
    redis.call('ZREM', P .. kind .. 'dirty', id)
    redis.call('ZADD', P .. kind .. 'leased', lapses, id)
    redis.call('HSET', P .. kind .. 'claims', id, ARGV[2] .. '|' .. string.format('%.0f', tonumber(score)))
    out[#out + 1] = id
    out[#out + 1] = redis.call('HGET', P .. kind .. 'wanted', id) or '0'
  end
end
return out
