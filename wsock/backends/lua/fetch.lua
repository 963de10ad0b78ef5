-- The messages that queue entries speak of. ARGV: app, channel, first sequence, last sequence, app, …
-- Returns for each the log's entries.
local answers = {}
for i = 1, #ARGV, 4 do
  answers[#answers + 1] = redis.call('XRANGE', log_key(ARGV[i], ARGV[i + 1]), ARGV[i + 2] .. '-0', ARGV[i + 3])
end
return answers
