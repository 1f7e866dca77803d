-- Renews leases that a replica still holds. A lease that expired meanwhile is added again: its request runs, and the
-- count has to say so, even above a limit.
--
-- KEYS  1 connections (sorted set)  2.. concurrency of each API key (sorted sets)
-- ARGV  1 lease (ms)  2 TTL of the sorted sets (ms)  3.. for each of KEYS 2.. the number of its leases, then their ids
-- Returns how many had expired and were added again

local time = redis.call('TIME')
local expiry = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
expiry = string.format('%.0f', expiry)

local added, at = 0, 3
for index = 2, #KEYS do
  local last = at + tonumber(ARGV[at])
  local pairs_of_score_and_lease = {}
  for position = at + 1, last do
    table.insert(pairs_of_score_and_lease, expiry)
    table.insert(pairs_of_score_and_lease, ARGV[position])
  end
  at = last + 1
  if #pairs_of_score_and_lease > 0 then
    -- GT: a clock that stepped back must not shorten a lease.
    added = added + redis.call('ZADD', KEYS[1], 'GT', unpack(pairs_of_score_and_lease))
    redis.call('ZADD', KEYS[index], 'GT', unpack(pairs_of_score_and_lease))
    redis.call('PEXPIRE', KEYS[index], ARGV[2])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return added
