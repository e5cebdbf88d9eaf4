-- Ends a claim that the token still holds. With a count of marks, the mark itself is removed if there was none since;
-- otherwise it goes back into the queue.
-- ARGV: kind, id, token, count of marks ('' keep the mark)
-- Answers 1, or 0 when the claim is lost.
local P, kind, id = KEYS[1], ARGV[1], ARGV[2]
if not holds(P, kind, id, ARGV[3]) then return 0 end
if ARGV[4] ~= '' and (redis.call('HGET', P .. kind .. 'wanted', id) or '0') == ARGV[4] then
  redis.call('ZREM', P .. kind .. 'leased', id)
  redis.call('HDEL', P .. kind .. 'claims', id)
  redis.call('HDEL', P .. kind .. 'wanted', id)
  return 1
end
unclaim(P, kind, id)
wake(P, kind)
return 1
