-- Notes how the renewal of a refresh token ended. Once it has a successor, that stays.
--
-- KEYS  1 renewal (hash)
-- ARGV  1 who claimed it  2 'done', 'failed' or 'later'  3 successor, why, or the first wait (ms)
--       4 how long a failure stands, or the longest wait (ms)  5 TTL of the key (ms)
-- Returns {'done', successor}, {'failed', why}, {'later', ms to wait}, or {'busy', 0} when another one has the claim

local key = KEYS[1]
local successor = redis.call('HGET', key, 'successor')
if successor then
  return {'done', successor}
end
local ours = redis.call('HGET', key, 'claimant') == ARGV[1]
if ARGV[2] == 'done' then
  -- The token is spent, by us: whoever else has the claim by now can only learn of it here.
  redis.call('DEL', key)
  redis.call('HSET', key, 'successor', ARGV[3])
  redis.call('PEXPIRE', key, ARGV[5])
  return {'done', ARGV[3]}
end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if ours then
  redis.call('HDEL', key, 'claimant', 'claimed_until')
  if ARGV[2] == 'failed' then
    redis.call('HSET', key, 'failed', ARGV[3], 'failed_until', string.format('%.0f', now_ms + tonumber(ARGV[4])))
  else
    local tries = redis.call('HINCRBY', key, 'tries', 1)
    local wait = math.min(tonumber(ARGV[3]) * 2 ^ math.min(tries - 1, 30), tonumber(ARGV[4]))
    redis.call('HSET', key, 'retry_at', string.format('%.0f', now_ms + wait))
  end
  redis.call('PEXPIRE', key, ARGV[5])
end
-- Also what an earlier run of the same call has noted.
local noted = redis.call('HMGET', key, 'failed', 'retry_at', 'claimant')
if noted[3] then
  return {'busy', 0}
end
if noted[1] then
  return {'failed', noted[1]}
end
return {'later', math.max(0, tonumber(noted[2] or '0') - now_ms)}
