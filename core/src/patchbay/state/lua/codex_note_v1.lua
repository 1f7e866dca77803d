-- Notes what is known of accounts' limits.
--
-- KEYS  1 limits (hash)
-- ARGV  1 TTL of the key (ms), then pairs: field, value; an empty value takes the field away
-- Returns 1

for index = 2, #ARGV, 2 do
  if ARGV[index + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[index])
  else
    redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
