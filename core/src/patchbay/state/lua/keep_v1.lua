-- Renews the lease of a pending permission request, or gives its answer.
--
-- KEYS  1 requests (hash)  2 leases (sorted set)  3 resolved (hash)
-- ARGV  1 id  2 lease (ms)  3 TTL of the keys (ms)
-- Returns the resolved request, 1 while it is pending, or 0 when nothing is known of it

local resolved = redis.call('HGET', KEYS[3], ARGV[1])
if resolved then
  return resolved
end
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept then
  return 0
end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local expires_at = tonumber(string.match(kept, '^%d+ (%d+)\n'))
local lease_ends = string.format('%.0f', math.min(expires_at, now_ms + tonumber(ARGV[2])))
-- GT: a clock that stepped back must not shorten a lease.
redis.call('ZADD', KEYS[2], 'GT', lease_ends, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
