-- Part of other scripts: tells of changed documents by their stream. Its ids are dense, so that a reader sees what it missed.
-- All that one script tells is one entry: a line for each change, which publish writes.
local told = {}
local function announce(host, kind, epoch, gen, hash, session)
  told[#told + 1] = host .. '|' .. kind .. '|' .. epoch .. '|' .. gen .. '|' .. session .. '|' .. hash
end

local function publish(P)
  if #told == 0 then return end
  local n = redis.call('INCR', P .. 'changeseq')
  redis.call('XADD', P .. 'change', 'MAXLEN', '~', '1024', string.format('%.0f-0', n), 'c', table.concat(told, '\n'))
end
