-- Part of other scripts that deal with several hosts.

-- try calls fn for one of them. If what is kept of it is not valid, failed is called, and the answer is {'ERR', why}: it spoils
-- none of the others.
local function try(fn, what, failed)
  local fine, answer = pcall(fn, what)
  if fine then return answer end
  if failed then failed() end
  return {'ERR', type(answer) == 'table' and answer.err or tostring(answer)}
end
