-- Part of other scripts: tells of changed documents by their stream. Its ids are dense, so that a reader sees what it missed. The
-- first, of a store that is new or was emptied, is made of the clock and says so: it follows on nothing that anybody has read, and
-- is greater than all that, so nobody waits for it in vain.
-- All that one script tells is one entry: a line for each change, which publish writes.
local told = {}
local function announce(host, kind, epoch, gen, hash, session)
  told[#told + 1] = host .. '|' .. kind .. '|' .. epoch .. '|' .. gen .. '|' .. session .. '|' .. hash
end

local function publish(P)
  if #told == 0 then return end
  local n, first = redis.call('INCR', P .. 'changeseq'), {}
  if n == 1 then
    local t = redis.call('TIME')
    n, first = t[1] * 1000000 + t[2], {'first', '1'}
    redis.call('SET', P .. 'changeseq', string.format('%.0f', n))
  end
  redis.call('XADD', P .. 'change', 'MAXLEN', '~', '1024', string.format('%.0f-0', n), 'c', table.concat(told, '\n'), unpack(first))
end
