-- Appends an audit entry.
-- ARGV: now, force, entry. Answers {'OK', seq}.
local n = redis.call('INCR', KEYS[1] .. 'auditseq')
redis.call('XADD', KEYS[1] .. 'audit', 'MAXLEN', '~', '100000', string.format('%.0f-0', n), 'e', ARGV[3])
return {'OK', redis.call('INCR', KEYS[1] .. 'seq')}
