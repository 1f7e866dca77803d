-- Names the pending permission requests. Those whose lease has ended are resolved first: who asked was killed, or the
-- time to answer is over. Answers kept long enough are forgotten.
--
-- KEYS  1 requests (hash)  2 leases (sorted set)  3 resolved (hash)  4 expiry of the resolved (sorted set)
--       5 audit (stream)
-- ARGV  1 decision when the time is over, 2 what the audit says of it  3 decision when the lease was not renewed, 4 what
--       the audit says of it (all JSON in one line)  5 how long an answer is kept (ms)  6 the most audit entries
--       7 TTL of the audit (ms)  8 channel for notices
-- Returns {{id of a pending request, ...}, {id resolved here, ...}}

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local now = string.format('%.0f', now_ms)

local swept = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)) do
  local kept = redis.call('HGET', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  if kept then
    local expires_at, request = string.match(kept, '^%d+ (%d+)\n([^\n]*)\n')
    local over = tonumber(expires_at) <= now_ms
    redis.call('HDEL', KEYS[1], id)
    redis.call('HSET', KEYS[3], id, 'swept\n' .. (over and ARGV[1] or ARGV[3]) .. '\n' .. kept)
    redis.call('ZADD', KEYS[4], string.format('%.0f', now_ms + tonumber(ARGV[5])), id)
    redis.call('PEXPIRE', KEYS[3], 2 * tonumber(ARGV[5]))
    redis.call('PEXPIRE', KEYS[4], 2 * tonumber(ARGV[5]))
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[6], '*', 'event', 'resolved', 'request', request,
      'verdict', over and ARGV[2] or ARGV[4])
    redis.call('PEXPIRE', KEYS[5], ARGV[7])
    redis.pcall('PUBLISH', ARGV[8], 'resolved ' .. id)
    table.insert(swept, id)
  end
end

local old = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 100)
if #old > 0 then
  redis.call('HDEL', KEYS[3], unpack(old))
  redis.call('ZREM', KEYS[4], unpack(old))
end
return {redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf'), swept}
