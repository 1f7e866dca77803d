-- Keeps one permission request, with the lease of the worker that asks. Asking again changes nothing.
--
-- KEYS  1 requests (hash)  2 leases (sorted set)  3 resolved (hash)  4 audit (stream)
-- ARGV  1 id  2 what the audit says of it (JSON in one line)  3 input (JSON in one line)  4 how long it may wait (ms)
--       5 lease (ms)  6 TTL of the keys (ms)  7 the most requests that may be pending  8 the most audit entries
--       9 TTL of the audit (ms)  10 channel for notices
-- Returns {asked at, expires at} in ms, or {} when too many are pending
--
-- A request is kept as three lines: `<asked at> <expires at>`, then ARGV 2, then ARGV 3. So its text is never parsed
-- here, whatever is in it.

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept then
  -- Answered before a resent request came.
  local resolved = redis.call('HGET', KEYS[3], ARGV[1])
  kept = resolved and string.match(resolved, '^[^\n]*\n[^\n]*\n(.*)$')
end
if kept then
  local asked_at, expires_at = string.match(kept, '^(%d+) (%d+)\n')
  return {asked_at, expires_at}
end

if redis.call('ZCOUNT', KEYS[2], '(' .. string.format('%.0f', now_ms), '+inf') >= tonumber(ARGV[7]) then
  return {}
end

local asked_at = string.format('%.0f', now_ms)
local expires_at = string.format('%.0f', now_ms + tonumber(ARGV[4]))
local lease_ends = string.format('%.0f', now_ms + math.min(tonumber(ARGV[4]), tonumber(ARGV[5])))
redis.call('HSET', KEYS[1], ARGV[1], asked_at .. ' ' .. expires_at .. '\n' .. ARGV[2] .. '\n' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
redis.call('ZADD', KEYS[2], lease_ends, ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[8], '*', 'event', 'asked', 'request', ARGV[2])
redis.call('PEXPIRE', KEYS[4], ARGV[9])
-- Who may not publish is seen by the next look of everyone.
redis.pcall('PUBLISH', ARGV[10], 'asked ' .. ARGV[1])
return {asked_at, expires_at}
