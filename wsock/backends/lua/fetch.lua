-- The messages that queue entries speak of. ARGV: app, channel, first sequence, last sequence, app, …
-- Returns for each the log's entries; the first one may begin before, and the last one end behind what is asked for.
local answers = {}
for i = 1, #ARGV, 4 do
  local log, first = log_key(ARGV[i], ARGV[i + 1]), tonumber(ARGV[i + 2])
  local around = entry_with(log, first)
  local from = around and last_sequence(around) >= first and around[1] or first .. '-0'
  answers[#answers + 1] = redis.call('XRANGE', log, from, ARGV[i + 3])
end
return answers
