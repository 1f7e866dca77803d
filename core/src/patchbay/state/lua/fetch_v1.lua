-- Reads permission requests, pending or resolved.
--
-- KEYS  1 requests (hash)  2 resolved (hash)
-- ARGV  ids
-- Returns for each id {1, request}, {2, resolved request} or {0}

local found = {}
for index, id in ipairs(ARGV) do
  local resolved = redis.call('HGET', KEYS[2], id)
  local kept = not resolved and redis.call('HGET', KEYS[1], id)
  found[index] = resolved and {2, resolved} or kept and {1, kept} or {0}
end
return found
