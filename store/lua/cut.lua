-- Part of other scripts: since when silence means that an agent is offline, in ms.

-- silence takes how long an agent may be silent, in ms, and a time beyond which the limit does not go ('' none): while we
-- could not be reached ourselves, nobody is offline who was not before.
local function silence(patience, ceiling)
  local t = redis.call('TIME')
  local cut = t[1] * 1000 + math.floor(t[2] / 1000) - tonumber(patience)
  if ceiling ~= '' then cut = math.min(cut, tonumber(ceiling)) end
  return string.format('%.0f', math.max(cut, 0))
end
