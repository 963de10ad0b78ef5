-- Renews the lease. ARGV: lease period, 1 where it may begin. Returns 1, or 0 when there is no such lease (any more).
local lease_ms, now = tonumber(ARGV[3]), now_ms()
-- When nobody renewed for so long, this server was away, not the nodes: they get the time to come back.
local renewed = tonumber(redis.call('HGET', meta_key, 'renewed') or now)
if now - renewed > lease_ms / 2 and redis.call('EXISTS', leases_key) == 1 then
  redis.call('HSET', meta_key, 'since', now)
end
redis.call('HSET', meta_key, 'renewed', now)
if not has_lease() and ARGV[4] ~= '1' then return 0 end
redis.call('ZADD', leases_key, now + lease_ms, lease)
return 1
