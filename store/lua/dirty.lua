-- Marks hosts or VMs as dirty and wakes a worker.
-- ARGV: kind, urgent (1), ids
local now = millis()
for i = 3, #ARGV do mark(KEYS[1], ARGV[1], ARGV[i], ARGV[2] == '1', now) end
wake(KEYS[1], ARGV[1])
return 1
