-- Part of other scripts: marks hosts (kind '') or VMs (kind 'v') as dirty. The count of marks always grows, so a worker
-- that has read it before cannot remove this mark. The most urgent of all marks decides the place in the queue.
local function millis()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- marks takes up to 500 ids, each once.
local function marks(P, kind, ids, urgent, now)
  if #ids == 0 then return end
  local score = now
  if not urgent then score = score + 1e15 end
  local text = string.format('%.0f', score)
  local wanted = redis.call('HMGET', P .. kind .. 'wanted', unpack(ids))
  local claims = redis.call('HMGET', P .. kind .. 'claims', unpack(ids))
  local dirty = redis.call('ZMSCORE', P .. kind .. 'dirty', unpack(ids))
  local counts, ahead, queue = {}, {}, {}
  for i, id in ipairs(ids) do
    counts[2 * i - 1], counts[2 * i] = id, string.format('%.0f', (wanted[i] or 0) + 1)
    if claims[i] then
      local token, was = string.match(claims[i], '^(.*)|(%d+)$')
      if score < tonumber(was) then
        ahead[#ahead + 1] = id
        ahead[#ahead + 1] = token .. '|' .. text
      end
    elseif not dirty[i] or score < tonumber(dirty[i]) then
      queue[#queue + 1] = text
      queue[#queue + 1] = id
    end
  end
  redis.call('HSET', P .. kind .. 'wanted', unpack(counts))
  if #ahead > 0 then redis.call('HSET', P .. kind .. 'claims', unpack(ahead)) end
  if #queue > 0 then redis.call('ZADD', P .. kind .. 'dirty', unpack(queue)) end
end

local function mark(P, kind, id, urgent, now) marks(P, kind, {id}, urgent, now) end

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

-- held tells whether a claim, as it is kept, is that of a token.
local function held(claim, token)
  return claim and string.sub(claim, 1, #token + 1) == token .. '|'
end

local function holds(P, kind, id, token) return held(redis.call('HGET', P .. kind .. 'claims', id), token) end
