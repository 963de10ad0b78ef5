-- Forgets the consumers of the queue that have nothing and did nothing for long: nodes that ended.
-- ARGV: group, milliseconds. In one step, since a consumer is forgotten together with the work that it has.
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', queue_key, ARGV[1])) do
  local consumer = {}
  for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', queue_key, ARGV[1], consumer.name)
  end
end
return 0
