-- Reads the registry: the records of the workers that live, and how many edges live.
--
-- KEYS  1 workers (hash)  2 expiry of the workers (sorted set)  3 expiry of the edges (sorted set)  4 epoch (string)
-- Returns {epoch or '', number of edges, record, record, ...}, the records in order of their ids

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local after_now = '(' .. string.format('%.0f', now_ms)

local reply = {redis.call('GET', KEYS[4]) or '', redis.call('ZCOUNT', KEYS[3], after_now, '+inf')}
local ids = redis.call('ZRANGEBYSCORE', KEYS[2], after_now, '+inf')
table.sort(ids)
for _, id in ipairs(ids) do
  local record = redis.call('HGET', KEYS[1], id)
  if record then
    table.insert(reply, record)
  end
end
return reply
