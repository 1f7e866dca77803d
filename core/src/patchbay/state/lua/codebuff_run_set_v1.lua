-- Keeps one field of a run, and the run for some time more.
--
-- KEYS  1 the run (hash)
-- ARGV  1 field  2 value  3 time to live in milliseconds
-- Returns 1

redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
