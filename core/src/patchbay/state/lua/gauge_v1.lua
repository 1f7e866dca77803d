-- Counts the leases that have not expired.
--
-- KEYS  sorted sets of leases
-- Returns one count for each

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local counts = {}
for index, key in ipairs(KEYS) do
  counts[index] = redis.call('ZCOUNT', key, '(' .. string.format('%.0f', now_ms), '+inf')
end
return counts
