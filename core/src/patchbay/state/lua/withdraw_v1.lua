-- Removes one record of the registry.
--
-- KEYS  1 records (hash)  2 expiry of the records (sorted set)
-- ARGV  1 id
-- Returns 1 when it was there, else 0

redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('ZREM', KEYS[2], ARGV[1])
