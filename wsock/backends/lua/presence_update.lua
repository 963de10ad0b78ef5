-- A connection replaces its member's data. ARGV: app, channel, client, connection, data.
-- Returns 1, 0 when it holds no such member, 2 for a full queue.
local app, channel, client, connection, data = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local holder = holders_of(app, channel, client)[connection]
local members = members_key(app, channel)
local member = redis.call('HGET', members, client)
if not member or not holder or holder[1] == '' then return 0 end
if is_queue_full() then return 2 end
member = string.match(member, '^%d+ %d+ ') .. data
redis.call('HSET', members, client, member)
announce(app, channel, 'update', client, member)
return 1
