-- Walks the hosts of the inventory in this shard, in their order. One run looks at no more than 1,000 hosts.
-- ARGV: from (as ZRANGEBYLEX takes it), most hosts, which (a all, n online, f offline), cut (ms)
-- Answers {the host to go on from, '' at the end; hosts}.
local P, most, which, cut = KEYS[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local hosts = redis.call('ZRANGEBYLEX', P .. 'hosts', ARGV[1], '+', 'LIMIT', 0, 1000)
local found = {}
for _, host in ipairs(hosts) do
  if which == 'a' or (tonumber(redis.call('ZSCORE', P .. 'seen', host) or '0') > cut) == (which == 'n') then
    found[#found + 1] = host
    if #found == most then return {host, found} end
  end
end
if #hosts < 1000 then return {'', found} end
return {hosts[#hosts], found}
