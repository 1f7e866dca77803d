-- Appends entries to a transcript, each one once.
--
-- KEYS  1 transcript (list)  2 ids of its entries (set)  3 transcripts of the session (set)
-- ARGV  1 TTL of the keys (ms)  2 name of the transcript  3, 4 ... id (empty: none) and text of each entry
-- Returns how many were new

local added = 0
for i = 3, #ARGV, 2 do
  if ARGV[i] == '' or redis.call('SADD', KEYS[2], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[1], ARGV[i + 1])
    added = added + 1
  end
end
redis.call('SADD', KEYS[3], ARGV[2])
for i = 1, 3 do
  redis.call('PEXPIRE', KEYS[i], ARGV[1])
end
return added
