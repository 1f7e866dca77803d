-- Keeps a sign-in, unless another one is there than the one it takes the place of.
--
-- KEYS  1 logins (hash)
-- ARGV  1 account  2 fingerprint of what it takes the place of, empty for whatever is there
--       3 its record, `<fingerprint> <sealed>`  4 TTL of the key (ms)
-- Returns the record that is there now, false when the account was signed out meanwhile

local there = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] ~= '' then
  if not there then
    return false
  end
  if string.match(there, '^(%x+) ') ~= ARGV[2] then
    return there
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return ARGV[3]
