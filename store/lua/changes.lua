-- Part of other scripts: appends to the stream of changed documents. Its ids are dense, so that a reader sees what it missed.
local function announce(P, host, kind, epoch, gen, hash, session)
  local n = redis.call('INCR', P .. 'changeseq')
  redis.call('XADD', P .. 'change', 'MAXLEN', '~', '4096', string.format('%.0f-0', n),
    'h', host, 'k', kind, 'e', epoch, 'g', gen, 'd', hash, 's', session)
end
