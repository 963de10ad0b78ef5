-- This node has subscribers in channels, or has none any more. ARGV: app, channel, 1 or 0, app, …
if not has_lease() then return no_lease() end
for i = 3, #ARGV, 3 do
  if ARGV[i + 2] == '1' then occupy(ARGV[i], ARGV[i + 1]) else vacate(ARGV[i], ARGV[i + 1], lease) end
end
return 0
