-- Gives a lease back if the holder has it.
-- ARGV: name, holder
local key = KEYS[1] .. 'lease:' .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then return redis.call('DEL', key) end
return 0
