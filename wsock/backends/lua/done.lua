-- Queue entries are done: they go, and logs in which nothing waits any longer may expire.
-- ARGV: group, idle milliseconds, number of entries, their ids, then app, channel, app, …
local group, idle_ms, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 4, 3 + count do
  redis.call('XACK', queue_key, group, ARGV[i])
  redis.call('XDEL', queue_key, ARGV[i])
end
local persisted_below = first_queued()
for i = 4 + count, #ARGV, 2 do
  local last = tonumber(redis.call('HGET', head_key(ARGV[i], ARGV[i + 1]), 'u') or 0)
  if last < persisted_below then redis.call('PEXPIRE', log_key(ARGV[i], ARGV[i + 1]), idle_ms) end
end
return count
