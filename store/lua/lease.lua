-- Takes a lease that nobody has, or extends the holder's own. At most one holder has it at a time. One that has longer to live
-- than leases of its name are taken for is from before the clock was set back, and is free.
-- ARGV: name, holder, time to live in ms. Answers 1 if the holder has it now.
local key = KEYS[1] .. 'lease:' .. ARGV[1]
local has = redis.call('GET', key)
if has and has ~= ARGV[2] and redis.call('PTTL', key) <= tonumber(ARGV[3]) then return 0 end
redis.call('SET', key, ARGV[2], 'PX', ARGV[3])
return 1
