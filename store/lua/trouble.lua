-- Finds the hosts of instrumentations in this shard on which something does not run, or whose agents have something to say of
-- what does.
-- ARGV: patience, ceiling (see cut.lua), ids
-- Answers for each such host: the instrumentation's place in the list, from 0; the host.
local P, out, away = KEYS[1], {}, nil
for i = 3, #ARGV do
  local all = redis.call('HGETALL', P .. 'p:' .. ARGV[i])
  if #all > 0 and not away then
    away = {}
    for _, host in ipairs(redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', silence(ARGV[1], ARGV[2]))) do away[host] = true end
  end
  for j = 1, #all, 2 do
    local expected, running, rest = string.match(all[j + 1], '^(%d+),(%d+),(.*)')
    if expected and (expected ~= running or away[all[j]] or string.sub(rest, -2) == ',n') then
      out[#out + 1] = i - 3
      out[#out + 1] = all[j]
    end
  end
end
return out
