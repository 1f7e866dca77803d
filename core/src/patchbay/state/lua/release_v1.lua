-- Ends one lease. Ending it again, or after it expired, changes nothing.
--
-- KEYS  1 connections (sorted set)  2 concurrency of the API key (sorted set)
-- ARGV  1 lease id
-- Returns 1 when the lease was there, else 0

redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('ZREM', KEYS[1], ARGV[1])
