-- Answers one permission request, once: the first answer stands.
--
-- KEYS  1 requests (hash)  2 leases (sorted set)  3 resolved (hash)  4 expiry of the resolved (sorted set)
--       5 audit (stream)
-- ARGV  1 id  2 token of this answer, by which it knows itself when it is sent again  3 decision (JSON in one line)
--       4 what the audit says of it (JSON)  5 1: even when the lease has ended  6 how long the answer is kept (ms)
--       7 the most audit entries  8 TTL of the audit (ms)  9 channel for notices
-- Returns {1, resolved} when this answer stands, {0, resolved} when another does, {-1} when the request is not known,
-- {-2} when its lease has ended
--
-- A resolved request is kept as the lines `<token>` and ARGV 3, then the lines of the request.

local resolved = redis.call('HGET', KEYS[3], ARGV[1])
if resolved then
  return {string.match(resolved, '^[^\n]*') == ARGV[2] and 1 or 0, resolved}
end
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept then
  return {-1}
end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease_ends = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or 0)
if ARGV[5] ~= '1' and lease_ends <= now_ms then
  return {-2}
end

resolved = ARGV[2] .. '\n' .. ARGV[3] .. '\n' .. kept
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], resolved)
redis.call('ZADD', KEYS[4], string.format('%.0f', now_ms + tonumber(ARGV[6])), ARGV[1])
redis.call('PEXPIRE', KEYS[3], 2 * tonumber(ARGV[6]))
redis.call('PEXPIRE', KEYS[4], 2 * tonumber(ARGV[6]))
local request = string.match(kept, '^[^\n]*\n([^\n]*)\n')
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[7], '*', 'event', 'resolved', 'request', request, 'verdict', ARGV[4])
redis.call('PEXPIRE', KEYS[5], ARGV[8])
redis.pcall('PUBLISH', ARGV[9], 'resolved ' .. ARGV[1])
return {1, resolved}
