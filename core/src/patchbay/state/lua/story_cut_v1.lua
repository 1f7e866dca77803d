-- Forgets the end of what was said in a conversation, unless it has gone on since.
--
-- KEYS  1 story (list)
-- ARGV  1 how many entries it has  2 how many of them stay
-- Returns 1 when cut, 0 when it has gone on or is gone

if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('LTRIM', KEYS[1], 0, tonumber(ARGV[2]) - 1)
end
return 1
