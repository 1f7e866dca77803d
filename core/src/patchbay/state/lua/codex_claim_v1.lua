-- Claims the renewal of one refresh token, which may be spent once, or keeps the claim; or tells what has become of it.
--
-- KEYS  1 renewal (hash)
-- ARGV  1 who claims  2 how long the claim stands (ms)  3 TTL of the key (ms)
-- Returns {'done', successor}, {'failed', why}, {'later', ms to wait}, {'busy', ms the claim still stands} or {'got'}

local key = KEYS[1]
local successor = redis.call('HGET', key, 'successor')
if successor then
  return {'done', successor}
end
local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local failed = redis.call('HMGET', key, 'failed', 'failed_until')
if failed[1] and now_ms < tonumber(failed[2]) then
  return {'failed', failed[1]}
end
local retry_at = redis.call('HGET', key, 'retry_at')
if retry_at and now_ms < tonumber(retry_at) then
  return {'later', tonumber(retry_at) - now_ms}
end
local claim = redis.call('HMGET', key, 'claimant', 'claimed_until')
if claim[1] and claim[1] ~= ARGV[1] and now_ms < tonumber(claim[2]) then
  -- A clock that stepped back must not make a claim stand longer.
  return {'busy', math.min(tonumber(claim[2]) - now_ms, tonumber(ARGV[2]))}
end
redis.call('HDEL', key, 'failed', 'failed_until')
redis.call('HSET', key, 'claimant', ARGV[1], 'claimed_until', string.format('%.0f', now_ms + tonumber(ARGV[2])))
redis.call('PEXPIRE', key, ARGV[3])
return {'got'}
