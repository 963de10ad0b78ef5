-- Lets go for the lost connections whose time has come, in the order of those times, and tells of ends that stay ends.
-- ARGV: milliseconds that the caller's time is ahead of its clock, lease period, most in one call.
-- Returns how many there were, of those of which there were more.
local ended = record_ends(ARGV[5])
if not is_settled(tonumber(ARGV[4])) then return ended end
local due = redis.call('ZRANGEBYSCORE', lost_key, '-inf', now_ms() + tonumber(ARGV[3]), 'LIMIT', 0, ARGV[5])
for _, entry in ipairs(due) do
  redis.call('ZREM', lost_key, entry)
  local app, channel, client, connection = unpack(cmsgpack.unpack(entry))
  local holder = holders_of(app, channel, client)[connection]
  if holder and holder[1] == '' then let_go(app, channel, client, connection, holder[3]) end
end
return math.max(#due, ended)
