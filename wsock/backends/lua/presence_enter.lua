-- A connection enters. ARGV: app, channel, client, connection, data, joined at (milliseconds), most members of a channel.
-- Returns {0}, {1, members} for a full channel, {2} for a full queue.
if not has_lease() then return no_lease() end
return enter(ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9]), false) or {0}
