-- Reads everything: for each key its name, type, remaining time in ms (-1: unlimited) and values. It changes nothing, and
-- nothing changes while it runs. Only the embedded server runs it.
local out = {}
local read = {
  string = function(k) return {redis.call('GET', k)} end,
  hash = function(k) return redis.call('HGETALL', k) end,
  list = function(k) return redis.call('LRANGE', k, 0, -1) end,
  set = function(k) return redis.call('SMEMBERS', k) end,
  zset = function(k) return redis.call('ZRANGE', k, 0, -1, 'WITHSCORES') end,
  stream = function(k)
    local flat = {}
    for _, e in ipairs(redis.call('XRANGE', k, '-', '+')) do
      flat[#flat + 1] = e[1]
      flat[#flat + 1] = #e[2]
      for _, v in ipairs(e[2]) do flat[#flat + 1] = v end
    end
    return flat
  end,
}
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key)
  kind = kind.ok or kind
  local values = read[kind]
  if values then out[#out + 1] = {key, kind, redis.call('PTTL', key), values(key)} end
end
return out
