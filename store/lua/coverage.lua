-- Sums up how instrumentations fare in this shard. Sources on hosts that were last heard of before `cut` count as offline,
-- whatever they were before, so the four kinds always add up to what is expected.
-- ARGV: cut (ms), ids
-- Answers for each id: expected, running, pending, failed, offline.
local P = KEYS[1]
local off, out, away = nil, {}, nil
for i = 2, #ARGV do
  local id = ARGV[i]
  local v = redis.call('HMGET', P .. 'tot', id .. ':e', id .. ':r', id .. ':p', id .. ':f', id .. ':h')
  local e, r, p, f, o = tonumber(v[1] or '0'), tonumber(v[2] or '0'), tonumber(v[3] or '0'), tonumber(v[4] or '0'), 0
  local function move(entry)
    local he, hr, hp, hf = string.match(entry, '^(%d+),(%d+),(%d+),(%d+)$')
    if he then o, r, p, f = o + he, r - hr, p - hp, f - hf end
  end
  if e > 0 then
    off = off or redis.call('ZRANGEBYSCORE', P .. 'seen', '-inf', ARGV[1])
    if #off > tonumber(v[5] or '0') then
      if not away then
        away = {}
        for _, host in ipairs(off) do away[host] = true end
      end
      local all = redis.call('HGETALL', P .. 'p:' .. id)
      for j = 1, #all, 2 do
        if away[all[j]] then move(all[j + 1]) end
      end
    else
      for from = 1, #off, 500 do
        local hosts = {}
        for j = from, math.min(from + 499, #off) do hosts[#hosts + 1] = off[j] end
        for _, entry in ipairs(redis.call('HMGET', P .. 'p:' .. id, unpack(hosts))) do
          if entry then move(entry) end
        end
      end
    end
  end
  for _, n in ipairs({e, r, p, f, o}) do out[#out + 1] = n end
end
return out
