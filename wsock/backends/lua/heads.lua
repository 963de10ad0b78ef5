-- Where channels stand. ARGV: expected generation, then app, channel, app, channel, …
-- A channel that is unknown gets a head, so that its position stays the same until somebody publishes.
-- Returns for each {epoch, sequence, timestamp, version of the members}.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end
local answers = {}
for i = 2, #ARGV, 2 do
  local epoch, sequence, timestamp = unpack(redis.call('HMGET', head_key(ARGV[i], ARGV[i + 1]), 'e', 's', 't'))
  if not epoch then epoch, sequence, timestamp = new_head(gen, ARGV[i], ARGV[i + 1]) end
  answers[#answers + 1] = {epoch, tonumber(sequence), tonumber(timestamp or 0),
    redis.call('GET', version_key(ARGV[i], ARGV[i + 1])) or '0'}
end
return answers
