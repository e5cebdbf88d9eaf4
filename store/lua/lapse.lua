-- Puts lapsed claims back into the queue, by the clock that has given them.
-- ARGV: kind
-- Answers {how many were put back, in how many ms the next lapses; 0: none}.
local P, kind = KEYS[1], ARGV[1]
local now = millis()
local lapsed = redis.call('ZRANGEBYSCORE', P .. kind .. 'leased', '-inf', string.format('%.0f', now), 'LIMIT', 0, 200)
for _, id in ipairs(lapsed) do unclaim(P, kind, id) end
local next = redis.call('ZRANGE', P .. kind .. 'leased', 0, 0, 'WITHSCORES')
return {#lapsed, next[2] and math.max(1, next[2] - now) or 0}
