-- entry appends an audit entry, written as how many are kept, a bar and the entry. Journals may have it without the number.
local function entry(P, text)
  local keep, e = string.match(text, '^(%d+)|(.*)$')
  local n = redis.call('INCR', P .. 'auditseq')
  redis.call('XADD', P .. 'audit', 'MAXLEN', '~', keep or '100000', string.format('%.0f-0', n), 'e', e or text)
end
