-- Notes where a conversation stands, unless it has gone on elsewhere meanwhile.
--
-- KEYS  1 conversation (hash)
-- ARGV  1 TTL of the key (ms)  2 turn it was at  3 turn it is at now  4 its record (JSON)
-- Returns 1 when noted, also by an earlier run of the same call, 0 when it was at another turn

local turn = redis.call('HGET', KEYS[1], 'turn') or '0'
if turn == ARGV[3] and redis.call('HGET', KEYS[1], 'record') == ARGV[4] then
  return 1
end
if turn ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'turn', ARGV[3], 'record', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
