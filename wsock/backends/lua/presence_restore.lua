-- What connections hold is held by this lease: members that are there stay as they are, the others enter again.
-- ARGV: app, channel, client, connection, data, joined at, app, …
if not has_lease() then return no_lease() end
for i = 3, #ARGV, 6 do
  enter(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], 0, true)
end
return 0
