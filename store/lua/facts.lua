-- Changes the VMs of one host. A read that began before the one that a VM's facts come from changes nothing of that VM. The
-- host's digest always matches its VMs, and the host is marked if anything has changed.
-- ARGV: host, asof (µs), mode, then
--   upsert, replace: for each VM: VM, digest (16 hex digits), text; replace also removes VMs that are not named, and what is
--     damaged, and sums up anew
--   remove: VMs
-- Answers {1 if anything has changed, the VMs that were removed}. Fails, with DAMAGED or WRONGTYPE in its error, where what is
-- kept of the host is not valid and only replace may write it.
local P, host, mode = KEYS[1], ARGV[1], ARGV[3]
local asof = tonumber(ARGV[2])
local H, V = P .. 'fact:' .. host, P .. 'vms:' .. host
local changed, removed = false, {}
if mode == 'replace' then
  for _, key in ipairs({H, V}) do
    local kind = redis.call('TYPE', key)
    kind = kind.ok or kind
    if kind ~= 'hash' and kind ~= 'none' then
      redis.call('DEL', key)
      changed = true
    end
  end
end
local gone = tonumber(redis.call('HGET', H, 'gone') or '0')
if gone > asof then return {0, {}} end
local complete = tonumber(redis.call('HGET', H, 'vmasof') or '0')

local high, low, count = 0, 0, 0
local sum = redis.call('HGET', P .. 'digests', host)
if sum and mode ~= 'replace' then
  high, low, count = string.match(sum, '^(%d+)|(%d+)|(%d+)$')
  if not high then error('DAMAGED: the digest is not valid') end
  high, low, count = tonumber(high), tonumber(low), tonumber(count)
end
-- Digests are 64 bits wide and Lua's numbers 53, so two halves are added with a carry.
local function add(digest, sign)
  low = low + sign * tonumber(string.sub(digest, 1 + 8, 16), 16)
  high = high + sign * tonumber(string.sub(digest, 1, 8), 16)
  if low >= 4294967296 then low, high = low - 4294967296, high + 1 end
  if low < 0 then low, high = low + 4294967296, high - 1 end
  high = high % 4294967296
  count = count + sign
end

-- split returns when an entry was read, its digest, and where its text begins; nothing if it is not valid.
local function split(old)
  local at, digest, from = string.match(old, '^(%d+)|(%x+)|()')
  if at and #digest == 16 then return at, digest, from end
end

local function parse(vm, old)
  local at, digest, from = split(old)
  if not at then error('DAMAGED: the entry of VM ' .. vm .. ' is not valid') end
  return at, digest, from
end

local function remove(vm, old)
  local at, digest = parse(vm, old)
  if tonumber(at) <= asof then
    redis.call('HDEL', V, vm)
    add(digest, -1)
    removed[#removed + 1] = vm
    changed = true
  end
end

if mode == 'remove' then
  for i = 4, #ARGV do
    local old = redis.call('HGET', V, ARGV[i])
    if old then remove(ARGV[i], old) end
  end
else
  if mode == 'replace' then
    local all = redis.call('HGETALL', V)
    for i = 1, #all, 2 do
      local _, digest = split(all[i + 1])
      if digest then
        add(digest, 1)
      else
        redis.call('HDEL', V, all[i])
        changed = true
      end
    end
  end
  local named = {}
  for i = 4, #ARGV, 3 do
    local vm, digest, text = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    named[vm] = true
    local old = redis.call('HGET', V, vm)
    if old then
      local at, was, from = parse(vm, old)
      if tonumber(at) <= asof then
        if was ~= digest or string.sub(old, from) ~= text then
          add(was, -1)
          add(digest, 1)
          changed = true
        end
        redis.call('HSET', V, vm, ARGV[2] .. '|' .. digest .. '|' .. text)
      end
    elseif complete <= asof then
      add(digest, 1)
      redis.call('HSET', V, vm, ARGV[2] .. '|' .. digest .. '|' .. text)
      changed = true
    end
  end
  if mode == 'replace' and complete <= asof then
    for _, vm in ipairs(redis.call('HKEYS', V)) do
      if not named[vm] then remove(vm, redis.call('HGET', V, vm)) end
    end
    redis.call('HSET', H, 'vmasof', ARGV[2])
  end
  if gone > 0 and #ARGV > 3 then
    redis.call('HDEL', H, 'gone')
    redis.call('PERSIST', H)
  end
end
if tonumber(redis.call('HGET', H, 'read') or '0') < asof then redis.call('HSET', H, 'read', ARGV[2]) end

if changed or mode == 'replace' then
  if count == 0 then
    redis.call('HDEL', P .. 'digests', host)
  else
    redis.call('HSET', P .. 'digests', host, string.format('%.0f|%.0f|%.0f', high, low, count))
  end
end
if not changed then return {0, removed} end
mark(P, '', host, false, millis())
wake(P)
return {1, removed}
