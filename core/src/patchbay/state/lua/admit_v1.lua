-- Admits one request, or says which limit is in the way: all limits are checked before any is charged.
--
-- KEYS  1 connections (sorted set)  2 concurrency of the API key (sorted set)  3 rate bucket of the API key (string)
-- ARGV  1 lease id  2 lease (ms)  3 requests per minute  4 concurrent requests  5 connections; limits: -1 is none
--       6 the longest lease any replica may ask for (ms)  7 TTL of the sorted sets (ms)  8 TTL of the bucket (ms)
-- Returns {0, 0} when admitted, else {1 rate | 2 concurrency | 3 connections, ms until a retry can succeed or -1}
--
-- The rate limit is GCRA in its continuous-state leaky bucket form (ITU-T I.371, annex A). A request adds UNIT to the
-- level, which drains by `limit` each microsecond, so every figure is an integer that a double holds exactly.

local UNIT = 60000000
local lease, lease_ms, rpm = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now / 1000)

if redis.call('ZSCORE', KEYS[1], lease) then
  return {0, 0}  -- a resent request was admitted the first time
end

local level = 0
if rpm >= 0 then
  local bucket = redis.call('GET', KEYS[3])
  if bucket then
    local last, stored = string.match(bucket, '^(%d+):(%d+)$')
    -- A clock that stepped back drains nothing, and draining goes on from its new time.
    local elapsed = math.min(math.max(now - tonumber(last), 0), UNIT)
    level = math.max(tonumber(stored) - elapsed * rpm, 0)
  end
  level = level + UNIT
  local over = level - rpm * UNIT
  if over > 0 then
    return {1, math.ceil(math.ceil(over / rpm) / 1000)}
  end
end

local function full(key, limit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now_ms)
  if limit < 0 or redis.call('ZCARD', key) < limit then
    return false
  end
  -- Only a clock that stepped back leaves leases longer than the longest: let them end as if granted now.
  local late = redis.call('ZRANGEBYSCORE', key, '(' .. string.format('%.0f', now_ms + tonumber(ARGV[6])), '+inf')
  for _, member in ipairs(late) do
    redis.call('ZADD', key, string.format('%.0f', now_ms + lease_ms), member)
  end
  return true
end

if full(KEYS[2], tonumber(ARGV[4])) then
  return {2, -1}
end
if full(KEYS[1], tonumber(ARGV[5])) then
  return {3, -1}
end

local expiry = string.format('%.0f', now_ms + lease_ms)
redis.call('ZADD', KEYS[1], expiry, lease)
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[2], expiry, lease)
redis.call('PEXPIRE', KEYS[2], ARGV[7])
if rpm >= 0 then
  redis.call('SET', KEYS[3], string.format('%.0f:%.0f', now, level), 'PX', ARGV[8])
end
return {0, 0}
