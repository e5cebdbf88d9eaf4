-- Part of other scripts: how many sources of one instrumentation run, wait and have failed on one host, and the sums of that.
-- For every host running + pending + failed = expected, so it holds for the sums too. A host where all that it says is of
-- sources that run, and which has something to say of them, is marked: its counts end with ',n'.

-- noted tells whether what is kept of a status begins with a message.
local function noted(json) return string.sub(json, 1, 5) == '{"m":' end

-- counts works it out from the revision and the number of sources that the document has (a revision below zero: refused for
-- want of room), the zones (16 bytes each), those of them that no applied document has had yet, and what was reported.
local function counts(rev, expected, zones, added, status)
  if rev < 0 then return 0, 0, expected end
  if not status then return 0, expected, 0 end
  local at, word, n, from = string.match(status, '^%d+|(%d+)|([%u_]+)|(%d+)|()')
  if tonumber(at) ~= rev then return 0, expected, 0 end
  local new = #added / 16
  local rest, by = expected - new, {r = 0, p = 0, f = 0}
  if tonumber(n) > 0 then
    local fares = {}
    for i = 1, #zones, 16 do fares[string.sub(zones, i, i + 15)] = true end
    for i = 1, #added, 16 do fares[string.sub(added, i, i + 15)] = nil end
    for i = from, from + n * 17 - 1, 17 do
      local zone = string.sub(status, i, i + 15)
      if fares[zone] then
        fares[zone] = nil
        local class = string.sub(status, i + 16, i + 16)
        by[class] = by[class] + 1
        rest = rest - 1
      end
    end
  end
  local class = 'f'
  if word == 'RUNNING' then class = 'r' elseif word == 'PENDING' or word == 'OFFLINE' then class = 'p' end
  by[class] = by[class] + rest
  return by.r, by.p + new, by.f, word == 'RUNNING' and noted(string.sub(status, from + n * 17))
end

-- put stores the counts of a host, 'x' for a removal that is not acknowledged, or '' for nothing, keeps the sums, and tells
-- whether that was a change.
local function put(P, id, host, value)
  local key, t = P .. 'p:' .. id, P .. 'tot'
  local old = redis.call('HGET', key, host) or ''
  if old == value then return false end
  local function parse(v)
    local e, r, p, f = string.match(v, '^(%d+),(%d+),(%d+),(%d+)')
    if not e then return {e = 0, r = 0, p = 0, f = 0, h = 0} end
    return {e = tonumber(e), r = tonumber(r), p = tonumber(p), f = tonumber(f), h = 1}
  end
  if value == '' then redis.call('HDEL', key, host) else redis.call('HSET', key, host, value) end
  local was, is = parse(old), parse(value)
  for name, n in pairs(is) do
    if n ~= was[name] then redis.call('HINCRBY', t, id .. ':' .. name, string.format('%.0f', n - was[name])) end
  end
  if was.h > is.h and redis.call('HGET', t, id .. ':h') == '0' then
    redis.call('HDEL', t, id .. ':e', id .. ':r', id .. ':p', id .. ':f', id .. ':h')
  end
  return true
end

local function pack(expected, r, p, f, notice)
  return string.format('%.0f,%.0f,%.0f,%.0f', expected, r, p, f) .. (notice and ',n' or '')
end
