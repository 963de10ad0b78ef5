-- A connection takes over what its client's lost ones hold. ARGV: app, client, connection.
-- Returns {channel, member} of each, in the order in which they would have let go.
if not has_lease() then return no_lease() end
local app, client, connection = ARGV[3], ARGV[4], ARGV[5]
local lost = {}
for _, packed in ipairs(redis.call('SMEMBERS', missing_key(app, client))) do
  local channel, other = unpack(cmsgpack.unpack(packed))
  local holder = holders_of(app, channel, client)[other]
  if holder and holder[1] == '' then
    lost[#lost + 1] = {channel, holder[2]}
  else
    redis.call('SREM', missing_key(app, client), packed)
  end
end
table.sort(lost, function(a, b) return a[2] < b[2] end)
local seen, answers = {}, {}
for _, found in ipairs(lost) do
  local channel = found[1]
  local member = redis.call('HGET', members_key(app, channel), client)
  if member and not seen[channel] then
    seen[channel] = true
    take(app, channel, client, connection)
    answers[#answers + 1] = {channel, member}
  end
end
return answers
