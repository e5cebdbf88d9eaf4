-- Tells which hosts are still as dirty as they were at a time, claimed or not. One that was marked only later is not.
-- ARGV: time (ms), hosts. Answers those hosts.
local P, since = KEYS[1], tonumber(ARGV[1])
local out = {}
for i = 2, #ARGV do
  local score = redis.call('ZSCORE', P .. 'dirty', ARGV[i])
  if not score then
    local claim = redis.call('HGET', P .. 'claims', ARGV[i])
    score = claim and string.match(claim, '|(%d+)$')
  end
  score = tonumber(score or 'none')
  if score and score % 1e15 <= since then out[#out + 1] = ARGV[i] end
end
return out
