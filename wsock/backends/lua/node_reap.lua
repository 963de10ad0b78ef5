-- Lets go of what nodes held whose leases ended. ARGV: lease period, milliseconds that a client then has to be back
-- elsewhere, most in one call. Returns 1 when there is more to do.
if not is_settled(tonumber(ARGV[3])) then return 0 end
local return_ms, most = tonumber(ARGV[4]), tonumber(ARGV[5])
-- A lease that has begun to die can't be renewed: its node learns that it must begin a new one.
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', leases_key, '-inf', '(' .. now_ms(), 'LIMIT', 0, 100)) do
  redis.call('ZREM', leases_key, ended)
  redis.call('SADD', dying_key, ended)
end
local dead = redis.call('SRANDMEMBER', dying_key)
if not dead then return 0 end

-- Whether a node that is not dead holds the member too.
local function is_elsewhere(holders)
  for _, holder in pairs(holders) do
    if holder[1] ~= '' and holder[1] ~= dead then return true end
  end
  return false
end

local entries = redis.call('SPOP', held_key(dead), most)
for _, entry in ipairs(entries) do
  local app, channel, client, connection = unpack(cmsgpack.unpack(entry))
  if not client then
    vacate(app, channel, dead)
  else
    local holders = holders_of(app, channel, client)
    local holder = holders[connection]
    if holder and holder[1] == dead then
      if is_elsewhere(holders) then
        let_go(app, channel, client, connection, 'node_lost')
      else
        lose(app, channel, client, connection, return_ms, 'node_lost')
      end
    end
  end
end
if #entries < most then redis.call('SREM', dying_key, dead) end
return redis.call('EXISTS', dying_key)
