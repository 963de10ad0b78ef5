-- Shared by all scripts: the names of the keys, and how a channel's head is kept.
--
-- One server holds, for each channel:
--   head   hash: e epoch, g generation that e belongs to, s last sequence, t its timestamp, u queue number of the last
--          message that was queued, x timestamp of the newest message that left the stream,
--          o last sequence that left the stream,
--          p the epochs before e, each with the last sequence that was kept of it, newest first: <epoch>:<sequence> …
--   log    stream: an entry for each run of messages that were accepted together, without gaps; its id is
--          <sequence>-<timestamp> of the first one; b bodies, e epoch, q queue number of the last one; where they are no
--          history, u instead: the queue number of the last one that is; for more than one message also
--          n <how many>-<cap>: each timestamp is the one before it and 1, until they reach the cap
-- and for the whole server:
--   meta   hash: run (the server process that the generation belongs to), gen, since (when leases began to count), began (when gen did), counters
--   queue  stream: what has to be persisted and told, in order; its ids are <queue number>-0
local prefix = 'wsock:'
local meta_key = prefix .. 'meta'
local queue_key = prefix .. 'queue'

-- Names may have any characters: the length tells where the first one ends.
local function channel_name(app, channel) return ':' .. #app .. ':' .. app .. ':' .. channel end
local function channel_key(kind, app, channel) return prefix .. kind .. channel_name(app, channel) end
local function head_key(app, channel) return channel_key('head', app, channel) end
local function log_key(app, channel) return channel_key('log', app, channel) end
local function topic_key(app, channel) return channel_key('topic', app, channel) end
-- The last change of the channel's members: <generation>.<number>.
local function version_key(app, channel) return channel_key('version', app, channel) end
local function clock_key(app) return prefix .. 'clock:' .. app end
local function id_key(app, id) return prefix .. 'id:' .. app .. ':' .. id end

-- How long the head of an idle channel is remembered: positions in it are good for so long.
local head_ms = 604800000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function new_epoch(gen)
  return gen .. '.' .. redis.call('HINCRBY', meta_key, 'epochs', 1)
end

-- The lowest number in the queue: every message with a lower one is persisted. Nothing queued: infinity.
local function first_queued()
  local first = redis.call('XRANGE', queue_key, '-', '+', 'COUNT', 1)[1]
  if not first then return math.huge end
  return tonumber(string.match(first[1], '^(%d+)'))
end

local function split_id(id)
  local sequence, timestamp = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(sequence), tonumber(timestamp)
end

-- What an entry of a log says: the sequence of its first message, how many there are, the timestamp of the first one,
-- the cap of the timestamps, the queue number.
local function read_entry(entry)
  local fields = entry[2]
  local sequence, timestamp = split_id(entry[1])
  local count, cap = 1, timestamp
  if fields[8] then count, cap = split_id(fields[8]) end
  return sequence, count, timestamp, cap, tonumber(fields[6])
end

local function last_sequence(entry)
  local sequence, count = read_entry(entry)
  return sequence + count - 1
end

local function last_timestamp(entry)
  local _, count, timestamp, cap = read_entry(entry)
  return math.min(timestamp + count - 1, cap)
end

-- The entry of a log that has this sequence, or the last one before it; nothing when there is none.
local function entry_with(log, sequence) return redis.call('XREVRANGE', log, sequence, '-', 'COUNT', 1)[1] end

-- The first entry of a log that passes the test, as all behind it do; nothing when none does.
local function search(log, passes)
  local found = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if not found or not passes(found) then return nil end
  local low, high = split_id(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]), split_id(found[1])
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', log, middle .. '-0', '+', 'COUNT', 1)[1]
    if passes(entry) then found, high = entry, middle else low = split_id(entry[1]) + 1 end
  end
  return found
end

-- Makes the head of a channel that has none; where a log outlived it, the sequence goes on behind that. What was before
-- this server remembers anything can't be told, and counts as having left the log.
-- Returns epoch, sequence, timestamp, queue number, last sequence that left the log.
local function new_head(gen, app, channel)
  local head, log = head_key(app, channel), log_key(app, channel)
  local epoch, sequence, timestamp, queued = new_epoch(gen), 0, 0, 0
  local left = tonumber(redis.call('HGET', meta_key, 'began') or 1) - 1
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local oldest = 0
  if last then
    sequence, timestamp = last_sequence(last), last_timestamp(last)
    queued, left = select(5, read_entry(last)), timestamp
    oldest = split_id(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]) - 1
  else
    redis.call('DEL', log)
  end
  redis.call('HSET', head, 'e', epoch, 'g', gen, 's', sequence, 't', timestamp, 'u', queued, 'x', left, 'o', oldest)
  redis.call('PEXPIRE', head, head_ms)
  return epoch, sequence, timestamp, queued, oldest
end
