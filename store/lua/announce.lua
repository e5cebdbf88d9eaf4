-- Appends to the stream of changed documents without changing one.
-- ARGV: kind, hosts
for i = 2, #ARGV do
  local v = redis.call('HMGET', KEYS[1] .. 'fact:' .. ARGV[i], 'epoch', 'gen', 'hash')
  announce(KEYS[1], ARGV[i], ARGV[1], v[1] or '', v[2] or '0', v[3] or '', '')
end
return 1
