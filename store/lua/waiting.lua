-- Tells which hosts are still as dirty as they were at a time, claimed or not. One that was marked only later is not.
-- ARGV: time (ms), up to 500 hosts. Answers those hosts.
local P, since = KEYS[1], tonumber(ARGV[1])
local out = {}
local dirty = redis.call('ZMSCORE', P .. 'dirty', unpack(ARGV, 2))
local claims = redis.call('HMGET', P .. 'claims', unpack(ARGV, 2))
for i, score in ipairs(dirty) do
  if not score then score = claims[i] and string.match(claims[i], '|(%d+)$') end
  score = tonumber(score or 'none')
  if score and score % 1e15 <= since then out[#out + 1] = ARGV[i + 1] end
end
return out
