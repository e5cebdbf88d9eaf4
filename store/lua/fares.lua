-- Tells those who follow instrumentations that their sources fare otherwise, while their records stand as they are.
-- ARGV: ids
local P = KEYS[1]
for _, id in ipairs(ARGV) do
  local n = redis.call('INCR', P .. 'faresseq')
  redis.call('XADD', P .. 'fares', 'MAXLEN', '~', '10000', string.format('%.0f-0', n), 'id', id)
end
return 1
