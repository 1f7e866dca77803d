-- Says who is the first that would count what a run has used.
--
-- KEYS  1 the run (hash)
-- ARGV  1 time to live in milliseconds  2 a name of whoever asks, never used twice
-- Returns 1 for the first, also when its script is run again, else 0

redis.call('HSETNX', KEYS[1], 'counted', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGET', KEYS[1], 'counted') == ARGV[2] and 1 or 0
