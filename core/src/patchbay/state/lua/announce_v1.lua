-- Writes one record of the registry, drops those that expired.
--
-- KEYS  1 records (hash)  2 expiry of the records (sorted set)  3 epoch (string)
-- ARGV  1 id  2 record (JSON)  3 time to live of the record (ms)  4 TTL of the keys (ms)
-- Returns 1 when the id is new, else 0

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

redis.call('SET', KEYS[3], time[1] .. time[2], 'NX')
redis.call('PEXPIRE', KEYS[3], ARGV[4])
local expired = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now_ms), 'LIMIT', 0, 1000)
if #expired > 0 then
  redis.call('HDEL', KEYS[1], unpack(expired))
  redis.call('ZREM', KEYS[2], unpack(expired))
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local added = redis.call('ZADD', KEYS[2], string.format('%.0f', now_ms + tonumber(ARGV[3])), ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return added
