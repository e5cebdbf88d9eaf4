-- Appends an audit entry.
-- ARGV: now, force, entry (see entry.lua). Answers {'OK', seq}.
entry(KEYS[1], ARGV[3])
return {'OK', redis.call('INCR', KEYS[1] .. 'seq')}
