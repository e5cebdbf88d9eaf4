-- Part of other scripts: marks a host (kind '') or a VM (kind 'v') as dirty. The count of marks always grows, so a worker
-- that has read it before cannot remove this mark. The most urgent of all marks decides the place in the queue.
local function millis()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function mark(P, kind, id, urgent, now)
  redis.call('HINCRBY', P .. kind .. 'wanted', id, 1)
  local score = now
  if not urgent then score = score + 1e15 end
  local claim = redis.call('HGET', P .. kind .. 'claims', id)
  if claim then
    local token, was = string.match(claim, '^(.*)|(%d+)$')
    if score < tonumber(was) then
      redis.call('HSET', P .. kind .. 'claims', id, token .. '|' .. string.format('%.0f', score))
    end
  else
    local was = redis.call('ZSCORE', P .. kind .. 'dirty', id)
    if not was or score < tonumber(was) then
      redis.call('ZADD', P .. kind .. 'dirty', string.format('%.0f', score), id)
    end
  end
end

-- wake wakes workers for hosts (no kind, or '') or VMs (kind 'v').
local function wake(P, kind)
  redis.call('XADD', P .. 'wake', 'MAXLEN', '~', '16', '*', 'w', kind or '')
end

-- unclaim ends a claim and puts its mark back into the queue.
local function unclaim(P, kind, id)
  local claim = redis.call('HGET', P .. kind .. 'claims', id)
  if claim then
    redis.call('ZADD', P .. kind .. 'dirty', string.match(claim, '|(%d+)$'), id)
    redis.call('HDEL', P .. kind .. 'claims', id)
  end
  redis.call('ZREM', P .. kind .. 'leased', id)
end

local function holds(P, kind, id, token)
  local claim = redis.call('HGET', P .. kind .. 'claims', id)
  return claim and string.match(claim, '^(.*)|%d+$') == token
end
