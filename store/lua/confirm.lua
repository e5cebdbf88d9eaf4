-- Ends what notes of a read began, when its facts are written.
-- ARGV: asof (µs), then for each VM: VM, host ('' gone)
-- Answers for each VM '!' when a newer note stands, else ''.
local P, asof = KEYS[1], tonumber(ARGV[1])
local out = {}
for i = 2, #ARGV, 2 do
  local note = redis.call('HGET', P .. 'vmhost', ARGV[i])
  local at = note and tonumber(string.match(note, '^%d+')) or 0
  if note == ARGV[1] .. '|' .. ARGV[i + 1] then redis.call('HDEL', P .. 'vmleft', ARGV[i]) end
  out[#out + 1] = at > asof and '!' or ''
end
return out
