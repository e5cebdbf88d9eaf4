-- Marks hosts or VMs as dirty and wakes a worker.
-- ARGV: kind, urgent (1), up to 500 ids
local ids = {}
for i = 3, #ARGV do ids[i - 2] = ARGV[i] end
marks(KEYS[1], ARGV[1], ids, ARGV[2] == '1', millis())
wake(KEYS[1], ARGV[1])
return 1
