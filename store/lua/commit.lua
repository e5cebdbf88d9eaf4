-- Writes, replaces or removes one record together with everything that is kept for it, or nothing at all. What has to
-- change in the indexes is worked out by the caller from the record that stands, so the script holds only if that very
-- record still stands. A repetition of the same write, known by its nonce, answers OK and changes nothing.
--
-- ARGV: now (ms; 0: the server's clock), force (1: from the journal, which knows that it was made)
--       id, standing JSON ('' none), new JSON ('' remove)
--       owner, change of live, limit (0 none), change of tracing, limit
--       idempotency key's digest ('' none), its value (input digest|id), audit entry ('' none)
--       log (1), evaluate: 1 mark, -1 unmark, 0 leave; expires (ms; 0 never; -1 as it is)
--       nonce; number of index keys to add to, the keys, the keys to remove from
-- Answers {'OK', seq}; {'MOVED'}; {'IDEM', value, the record that the key was used for, '' if it is gone}; or {'QUOTA', what the
-- owner has, and of that tracing}.
local P = KEYS[1]
local force = ARGV[2] == '1'
local id, old, new = ARGV[3], ARGV[4], ARGV[5]
local now = ARGV[1]
if now == '0' then
  local t = redis.call('TIME')
  now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
end

if not force then
  if redis.call('HGET', P .. 'nonce', id) == ARGV[17] then return {'OK', redis.call('GET', P .. 'seq') or '0'} end
  if ARGV[11] ~= '' then
    local known = redis.call('GET', P .. 'idem:' .. ARGV[11])
    if known then return {'IDEM', known, redis.call('HGET', P .. 'rec', string.match(known, '|(.*)$')) or ''} end
  end
  local standing = redis.call('HGET', P .. 'rec', id) or ''
  if standing ~= old then return {'MOVED'} end
end

local function count(kind, change, limit)
  if change == 0 then return true end
  local field = ARGV[6] .. kind
  local have = tonumber(redis.call('HGET', P .. 'quota', field) or '0')
  if not force and change > 0 and limit > 0 and have + change > limit then return false end
  if have + change <= 0 then
    return function() redis.call('HDEL', P .. 'quota', field) end
  end
  return function() redis.call('HSET', P .. 'quota', field, string.format('%.0f', have + change)) end
end
local live = count(':live', tonumber(ARGV[7]), tonumber(ARGV[8]))
local tracing = count(':tracing', tonumber(ARGV[9]), tonumber(ARGV[10]))
if not live or not tracing then
  return {'QUOTA', redis.call('HGET', P .. 'quota', ARGV[6] .. ':live') or '0', redis.call('HGET', P .. 'quota', ARGV[6] .. ':tracing') or '0'}
end
if live ~= true then live() end
if tracing ~= true then tracing() end

if new == '' then
  redis.call('HDEL', P .. 'rec', id)
  redis.call('HDEL', P .. 'nonce', id)
  redis.call('ZREM', P .. 'judge', id)
else
  redis.call('HSET', P .. 'rec', id, new)
  redis.call('HSET', P .. 'nonce', id, ARGV[17])
end

if ARGV[11] ~= '' then
  redis.call('SET', P .. 'idem:' .. ARGV[11], ARGV[12])
  redis.call('PEXPIREAT', P .. 'idem:' .. ARGV[11], string.format('%.0f', tonumber(now) + 86400000))
end
if ARGV[13] ~= '' then entry(P, ARGV[13]) end
if ARGV[14] == '1' then
  local n = redis.call('INCR', P .. 'logseq')
  redis.call('XADD', P .. 'log', 'MAXLEN', '~', '10000', string.format('%.0f-0', n), 'id', id, 'n', ARGV[17])
end
if ARGV[15] == '1' then
  redis.call('ZADD', P .. 'unevaluated', now, id)
elseif ARGV[15] == '-1' then
  redis.call('ZREM', P .. 'unevaluated', id)
end
if ARGV[16] == '0' then
  redis.call('ZREM', P .. 'expires', id)
elseif ARGV[16] ~= '-1' then
  redis.call('ZADD', P .. 'expires', ARGV[16], id)
end

local adds = tonumber(ARGV[18])
for i = 19, 18 + adds do redis.call('ZADD', P .. ARGV[i], '0', id) end
for i = 19 + adds, #ARGV do redis.call('ZREM', P .. ARGV[i], id) end
return {'OK', redis.call('INCR', P .. 'seq')}
