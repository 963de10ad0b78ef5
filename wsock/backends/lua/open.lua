-- Makes sure that the generation belongs to the server process that runs: after a restart or a failover a new one begins,
-- since nobody can tell what was lost. ARGV: run id of the process, name for a new generation. Returns the generation.
local run, gen = unpack(redis.call('HMGET', meta_key, 'run', 'gen'))
if run ~= ARGV[1] then
  gen = ARGV[2]
  redis.call('HSET', meta_key, 'run', ARGV[1], 'gen', gen, 'since', now_ms(), 'began', now_ms())
end
return gen
