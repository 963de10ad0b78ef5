-- The members of channels. ARGV: lease period, then app, channel, version that the caller knows, app, …
-- Returns for each {version, is settled, clients and members in turn}, without those where the version is known.
local settled = is_settled(tonumber(ARGV[3])) and 1 or 0
local answers = {}
for i = 4, #ARGV, 3 do
  local version = redis.call('GET', version_key(ARGV[i], ARGV[i + 1])) or '0'
  local answer = {version, settled}
  if version ~= ARGV[i + 2] then answer[3] = redis.call('HGETALL', members_key(ARGV[i], ARGV[i + 1])) end
  answers[#answers + 1] = answer
end
return answers
