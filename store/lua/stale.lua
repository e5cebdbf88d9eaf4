-- Finds records that may be noted as stale. One run looks at no more than 1,000.
-- ARGV: from (as ZRANGEBYLEX takes it)
-- Answers {the id to go on from, '' at the end; for each found: id|JSON}.
local P, found = KEYS[1], {}
local ids = redis.call('ZRANGEBYLEX', P .. 'ix:all', ARGV[1], '+', 'LIMIT', 0, 1000)
if #ids == 0 then return {'', found} end
for i, rec in ipairs(redis.call('HMGET', P .. 'rec', unpack(ids))) do
  if rec and string.find(rec, '"staleFrom":', 1, true) then found[#found + 1] = ids[i] .. '|' .. rec end
end
if #ids < 1000 then return {'', found} end
return {ids[#ids], found}
