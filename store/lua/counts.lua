-- Part of other scripts: how many sources of one instrumentation run, wait and have failed on one host, and the sums of that.
-- For every host running + pending + failed = expected, so it holds for the sums too. A host where all that it says is of
-- sources that run, and which has something to say of them, is marked: its counts end with ',n'.

-- some runs a command for a long list, in pieces that unpack can take.
local function some(command, key, list)
  for from = 1, #list, 1000 do redis.call(command, key, unpack(list, from, math.min(from + 999, #list))) end
end

-- fields reads fields of a hash, in pieces that unpack can take.
local function fields(key, names)
  if #names <= 1000 then return #names > 0 and redis.call('HMGET', key, unpack(names)) or {} end
  local values = {}
  for from = 1, #names, 1000 do
    for _, v in ipairs(redis.call('HMGET', key, unpack(names, from, math.min(from + 999, #names)))) do
      values[#values + 1] = v
    end
  end
  return values
end

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
  n = tonumber(n)
  if n > 0 then
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

-- What is put is gathered: what all hosts of a script put for one instrumentation is written together, by flush. It cannot fail:
-- put has read every key that it writes.
local standing, sums, tot = {}, {}, {}
local kinds = {'e', 'r', 'p', 'f', 'h'}

-- mine is what one host, whose, has put, as pairs: the id, and what stood before.
local mine, whose, last = {}, nil, 0

-- begin is called before anything of a host is read.
local function begin(host) whose, last = host, 0 end

-- sumsOf reads the sums of an instrumentation.
local function sumsOf(P, id)
  local was = redis.call('HMGET', P .. 'tot', id .. ':e', id .. ':r', id .. ':p', id .. ':f', id .. ':h')
  for i, kind in ipairs(kinds) do
    was[kind] = tonumber(was[i] or '0')
    if not was[kind] then error('the sum ' .. id .. ':' .. kind .. ' is not a number', 0) end
  end
  return was
end

-- sumUp adds counts, as they are stored, to a sum, or takes them off (times -1).
local function sumUp(sum, value, times)
  local e, r, p, f = string.match(value, '^(%d+),(%d+),(%d+),(%d+)')
  if not e then return end
  sum.e, sum.r, sum.p, sum.f, sum.h = sum.e + times * e, sum.r + times * r, sum.p + times * p, sum.f + times * f, sum.h + times
end

-- put has the counts of a host stored: those, 'x' for a removal that is not acknowledged, or '' for nothing. It keeps the sums,
-- and tells whether that is a change.
local function put(P, id, host, value, expected, r, p, f)
  local here = standing[id]
  local old = here and here[host] or redis.call('HGET', P .. 'p:' .. id, host) or ''
  if old == value then return false end
  if not tot[id] then tot[id] = sumsOf(P, id) end
  if not here then
    here = {}
    standing[id], sums[id] = here, {e = 0, r = 0, p = 0, f = 0, h = 0}
  end
  here[host] = value
  local sum = sums[id]
  sumUp(sum, old, -1)
  if expected then
    sum.e, sum.r, sum.p, sum.f, sum.h = sum.e + expected, sum.r + r, sum.p + p, sum.f + f, sum.h + 1
  end
  mine[last + 1], mine[last + 2] = id, old
  last = last + 2
  return true
end

-- undo takes back what was put since begin.
local function undo()
  for i = last - 1, 1, -2 do
    local id, old = mine[i], mine[i + 1]
    local here, sum = standing[id], sums[id]
    sumUp(sum, here[whose], -1)
    sumUp(sum, old, 1)
    here[whose] = old
  end
  last = 0
end

local function place(P, id, host, expected, r, p, f, notice)
  local value = string.format('%d,%d,%d,%d', expected, r, p, f) .. (notice and ',n' or '')
  return put(P, id, host, value, expected, r, p, f)
end

-- flush writes what was put.
local function flush(P)
  local now, ended = {}, {}
  for id, here in pairs(standing) do
    local set, gone = {}, {}
    for host, value in pairs(here) do
      if value == '' then
        gone[#gone + 1] = host
      else
        set[#set + 1] = host
        set[#set + 1] = value
      end
    end
    some('HSET', P .. 'p:' .. id, set)
    some('HDEL', P .. 'p:' .. id, gone)
    local sum, was = sums[id], tot[id]
    local empty = sum.h ~= 0 and was.h + sum.h == 0
    for _, kind in ipairs(kinds) do
      if empty then
        ended[#ended + 1] = id .. ':' .. kind
      elseif sum[kind] ~= 0 then
        now[#now + 1] = id .. ':' .. kind
        now[#now + 1] = string.format('%.0f', was[kind] + sum[kind])
      end
    end
  end
  some('HSET', P .. 'tot', now)
  some('HDEL', P .. 'tot', ended)
end
