-- Shared by the scripts of presence, occupancy and leases. Their ARGV begins with the bound of the work queue (0: there
-- is none) and the caller's lease, which is the name of one incarnation of a node.
--
-- One server holds, for each channel:
--   members   hash: clientId -> "<number in the order of entering> <joined at> <data>"
--   holders   hash: clientId -> msgpack {connection -> {lease, until, reason}}; that of a lost connection has no lease
--   occupied  set: the leases of the nodes with subscribers
--   version   string: see shared.lua; it changes with the members
-- for each client:
--   missing   set: msgpack {channel, connection} of its lost connections
-- for each app:
--   channels  set: its channels with subscribers
-- for each lease:
--   held      set: what ends with the lease, msgpack {app, channel, clientId, connection} for a member, {app, channel}
--             for an occupied channel
-- and for the whole server:
--   leases    sorted set: lease -> when it ends
--   dying     set: leases that ended, and of which something is still held
--   lost      sorted set: msgpack {app, channel, clientId, connection} -> when that lost connection lets go
--   strays    stream: a app, n clientId of each connection that was lost in the last minutes
--   quiet     sorted set: what ended a moment ago, msgpack {app, channel} for an occupied channel, {app, channel, clientId}
--             for a member -> when that is told; who is back by then makes no noise
--   ends      hash: the same -> msgpack {text of the event, data of the member}
local backlog, lease = tonumber(ARGV[1]), ARGV[2]

-- Apps and clients may have any characters: the length tells where the first name ends.
local function key_of(kind, app, name) return prefix .. kind .. ':' .. #app .. ':' .. app .. ':' .. name end
local function members_key(app, channel) return key_of('members', app, channel) end
local function holders_key(app, channel) return key_of('holders', app, channel) end
local function occupied_key(app, channel) return key_of('occupied', app, channel) end
local function channels_key(app) return prefix .. 'channels:' .. app end
local function missing_key(app, client) return key_of('missing', app, client) end
local function held_key(name) return prefix .. 'held:' .. name end
local leases_key, dying_key = prefix .. 'leases', prefix .. 'dying'
local lost_key, strays_key = prefix .. 'lost', prefix .. 'strays'
local quiet_key, ends_key = prefix .. 'quiet', prefix .. 'ends'

-- How long the version of a channel without members is remembered, and who was lost.
local version_ms, strays_ms = 3600000, 120000

local function has_lease() return redis.call('ZSCORE', leases_key, lease) end
local function no_lease() return redis.error_reply('LEASE there is no lease ' .. lease) end

-- Whether this server has been back for a lease period: before that, who is silent may just not be back yet.
local function is_settled(lease_ms)
  return now_ms() >= tonumber(redis.call('HGET', meta_key, 'since') or 0) + lease_ms
end

local function is_queue_full() return backlog > 0 and redis.call('XLEN', queue_key) >= backlog end

-- Puts what happened into the work queue, if there is one.
local function record(app, channel, kind, text)
  if backlog == 0 then return end
  local number = redis.call('HINCRBY', meta_key, 'queued', 1)
  redis.call('XADD', queue_key, number .. '-0', 'k', 'e', 'a', app, 'c', channel, 't', kind, 'd', text)
end

-- Something ended: puts that into the work queue after the milliseconds that meta's field quiet says.
local function record_end(entry, app, channel, kind, text, data)
  local quiet_ms = tonumber(redis.call('HGET', meta_key, 'quiet') or 0)
  if backlog == 0 or quiet_ms == 0 then return record(app, channel, kind, text) end
  redis.call('ZADD', quiet_key, now_ms() + quiet_ms, entry)
  redis.call('HSET', ends_key, entry, cmsgpack.pack({text, data}))
end

-- Something begins: takes its end back, if that is not told yet. Returns nothing, or the data that it ended with.
local function take_back(entry)
  if redis.call('ZREM', quiet_key, entry) == 0 then return nil end
  local _, data = unpack(cmsgpack.unpack(redis.call('HGET', ends_key, entry)))
  redis.call('HDEL', ends_key, entry)
  return data
end

-- Puts the ends that nobody took back into the work queue, so many at most. Returns how many there were.
local function record_ends(most)
  local due = redis.call('ZRANGEBYSCORE', quiet_key, '-inf', now_ms(), 'LIMIT', 0, most)
  for _, entry in ipairs(due) do
    local app, channel, client = unpack(cmsgpack.unpack(entry))
    local text = unpack(cmsgpack.unpack(redis.call('HGET', ends_key, entry)))
    redis.call('ZREM', quiet_key, entry)
    redis.call('HDEL', ends_key, entry)
    record(app, channel, client and 'presence.leave' or 'channel.vacated', text)
  end
  return #due
end

-- Puts a change of the members into the work queue.
local function record_change(app, channel, kind, client, text, data)
  local entry = cmsgpack.pack({app, channel, client})
  if kind == 'leave' then return record_end(entry, app, channel, 'presence.leave', text, data) end
  local before = kind == 'enter' and take_back(entry)
  if before == data then return end
  record(app, channel, 'presence.' .. (before and 'update' or kind), text)
end

-- Tells of a change of the members, which has been made: p <version> <version before> <text>.
local function announce(app, channel, kind, client, member, reason)
  local key = version_key(app, channel)
  local before = redis.call('GET', key) or '0'
  local version = (redis.call('HGET', meta_key, 'gen') or '') .. '.' .. redis.call('HINCRBY', meta_key, 'changes', 1)
  redis.call('SET', key, version)
  if redis.call('EXISTS', members_key(app, channel)) == 0 then redis.call('PEXPIRE', key, version_ms) end
  local joined, data = string.match(member, '^%d+ (%d+) (.*)$')
  -- The data stays the text that it was: cjson would change its numbers.
  local text = '"clientId":' .. cjson.encode(client) .. ',"data":' .. data .. ',"joinedAt":' .. joined
    .. (reason and ',"reason":"' .. reason .. '"' or '')
  record_change(app, channel, kind, client, '{' .. text .. ',"timestamp":' .. now_ms() .. '}', data)
  text = '{"kind":"' .. kind .. '",' .. text .. '}'
  redis.call('PUBLISH', topic_key(app, channel), 'p ' .. version .. ' ' .. before .. ' ' .. text)
end

local function holders_of(app, channel, client)
  local packed = redis.call('HGET', holders_key(app, channel), client)
  return packed and cmsgpack.unpack(packed) or {}
end

local function keep_holders(app, channel, client, holders)
  if next(holders) then
    redis.call('HSET', holders_key(app, channel), client, cmsgpack.pack(holders))
  else
    redis.call('HDEL', holders_key(app, channel), client)
  end
end

-- A holder no longer is one: takes it out of the indexes.
local function release(app, channel, client, connection, holder)
  local entry = cmsgpack.pack({app, channel, client, connection})
  if holder[1] ~= '' then
    redis.call('SREM', held_key(holder[1]), entry)
  else
    redis.call('ZREM', lost_key, entry)
    redis.call('SREM', missing_key(app, client), cmsgpack.pack({channel, connection}))
  end
end

-- The connection holds the member from now on, in place of the client's lost ones.
local function take(app, channel, client, connection)
  local holders = holders_of(app, channel, client)
  for other, holder in pairs(holders) do
    if holder[1] == '' or other == connection then
      release(app, channel, client, other, holder)
      holders[other] = nil
    end
  end
  holders[connection] = {lease, 0, ''}
  keep_holders(app, channel, client, holders)
  redis.call('SADD', held_key(lease), cmsgpack.pack({app, channel, client, connection}))
end

-- The connection lets go; the last one takes the member with it.
local function let_go(app, channel, client, connection, reason)
  local holders = holders_of(app, channel, client)
  local holder = holders[connection]
  if not holder then return end
  release(app, channel, client, connection, holder)
  holders[connection] = nil
  keep_holders(app, channel, client, holders)
  if next(holders) then return end
  local members = members_key(app, channel)
  local member = redis.call('HGET', members, client)
  if not member then return end
  redis.call('HDEL', members, client)
  announce(app, channel, 'leave', client, member, reason)
end

-- The connection lets go in so many milliseconds, unless the client is back by then.
local function lose(app, channel, client, connection, milliseconds, reason)
  local holders = holders_of(app, channel, client)
  local holder = holders[connection]
  if not holder then return end
  release(app, channel, client, connection, holder)
  local now = now_ms()
  holders[connection] = {'', now + milliseconds, reason}
  keep_holders(app, channel, client, holders)
  redis.call('ZADD', lost_key, now + milliseconds, cmsgpack.pack({app, channel, client, connection}))
  redis.call('SADD', missing_key(app, client), cmsgpack.pack({channel, connection}))
  redis.call('XADD', strays_key, 'MINID', '~', now - strays_ms, '*', 'a', app, 'n', client)
end

-- Returns nothing, or why not: {1, members} for a full channel, {2} for a full queue.
local function enter(app, channel, client, connection, data, joined, most, is_restoring)
  local members = members_key(app, channel)
  local member = redis.call('HGET', members, client)
  local number, at, before
  if member then number, at, before = string.match(member, '^(%d+) (%d+) (.*)$') end
  if member and (is_restoring or before == data) then
    take(app, channel, client, connection)
    return
  end
  if not is_restoring then
    local count = redis.call('HLEN', members)
    if not member and count >= most then return {1, count} end
    if is_queue_full() then return {2} end
  end
  local kind = member and 'update' or 'enter'
  number = number or redis.call('HINCRBY', meta_key, 'entered', 1)
  member = number .. ' ' .. (at or joined) .. ' ' .. data
  redis.call('HSET', members, client, member)
  take(app, channel, client, connection)
  announce(app, channel, kind, client, member)
end

local function occupy(app, channel)
  local occupied = occupied_key(app, channel)
  redis.call('SADD', held_key(lease), cmsgpack.pack({app, channel}))
  local is_first = redis.call('SCARD', occupied) == 0
  redis.call('SADD', occupied, lease)
  redis.call('SADD', channels_key(app), channel)
  if is_first and not take_back(cmsgpack.pack({app, channel})) then
    record(app, channel, 'channel.occupied', '{"timestamp":' .. now_ms() .. '}')
  end
end

local function vacate(app, channel, name)
  local occupied = occupied_key(app, channel)
  redis.call('SREM', held_key(name), cmsgpack.pack({app, channel}))
  if redis.call('SREM', occupied, name) == 1 and redis.call('SCARD', occupied) == 0 then
    redis.call('SREM', channels_key(app), channel)
    local entry, text = cmsgpack.pack({app, channel}), '{"timestamp":' .. now_ms() .. '}'
    record_end(entry, app, channel, 'channel.vacated', text, '')
  end
end
