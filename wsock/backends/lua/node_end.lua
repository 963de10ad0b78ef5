-- Gives the lease back; what is still held goes the way of a dead node's. No further ARGV.
redis.call('ZREM', leases_key, lease)
if redis.call('EXISTS', held_key(lease)) == 1 then redis.call('SADD', dying_key, lease) end
return 0
