-- Puts lapsed claims back into the queue and shows its first members with their scores.
-- ARGV: kind, n
local P, kind = KEYS[1], ARGV[1]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. kind .. 'leased', '-inf', string.format('%.0f', millis()), 'LIMIT', 0, 200)) do
  unclaim(P, kind, id)
end
return redis.call('ZRANGE', P .. kind .. 'dirty', 0, ARGV[2] - 1, 'WITHSCORES')
