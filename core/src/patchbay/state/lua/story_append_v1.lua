-- Appends to what was said in a conversation, if it stands where the caller thinks.
--
-- KEYS  1 story (list)
-- ARGV  1 TTL of the key (ms)  2 how many entries it has  3, 4 ... the new entries
-- Returns 1 when appended, also by an earlier run of the same call, 0 when it has gone on or is gone

local length = redis.call('LLEN', KEYS[1])
local known = tonumber(ARGV[2])
local added = #ARGV - 2
if length == known then
  for i = 3, #ARGV do
    redis.call('RPUSH', KEYS[1], ARGV[i])
  end
elseif length ~= known + added then
  return 0
else
  for i = 1, added do
    if redis.call('LINDEX', KEYS[1], known + i - 1) ~= ARGV[i + 2] then
      return 0
    end
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
