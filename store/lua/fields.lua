-- Sets or removes fields of hashes if other fields still have the values that the caller has read, else changes nothing.
-- ARGV: now, force, audit entry ('' none), number of conditions, then for each: hash, field, value ('' absent);
--       then for each change: hash, field, value ('' remove)
-- Answers {'OK', seq} or {'MOVED'}.
local P = KEYS[1]
local n = tonumber(ARGV[4])
if ARGV[2] ~= '1' then
  for i = 5, 4 + 3 * n, 3 do
    if (redis.call('HGET', P .. ARGV[i], ARGV[i + 1]) or '') ~= ARGV[i + 2] then return {'MOVED'} end
  end
end
for i = 5 + 3 * n, #ARGV, 3 do
  if ARGV[i + 2] == '' then
    redis.call('HDEL', P .. ARGV[i], ARGV[i + 1])
  else
    redis.call('HSET', P .. ARGV[i], ARGV[i + 1], ARGV[i + 2])
  end
end
if ARGV[3] ~= '' then entry(P, ARGV[3]) end
return {'OK', redis.call('INCR', P .. 'seq')}
