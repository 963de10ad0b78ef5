-- Publishes a question to all nodes. ARGV: topic, question. Returns the leases of the nodes that live.
redis.call('PUBLISH', ARGV[1], ARGV[2])
return redis.call('ZRANGEBYSCORE', prefix .. 'leases', now_ms(), '+inf')
