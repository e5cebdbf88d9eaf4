-- Puts lapsed claims back into the queue.
-- ARGV: kind
local P, kind = KEYS[1], ARGV[1]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. kind .. 'leased', '-inf', string.format('%.0f', millis()), 'LIMIT', 0, 200)) do
  unclaim(P, kind, id)
end
return 1
