-- Shared by all scripts: the names of the keys, and how a channel's head is kept.
--
-- One server holds, for each channel:
--   head   hash: e epoch, g generation that e belongs to, s last sequence, t its timestamp, u queue number of the last
--          message that was queued, x timestamp of the newest message that left the stream,
--          p the epochs before e, each with the last sequence that was kept of it, newest first: <epoch>:<sequence> …
--   log    stream: an entry for each message, without gaps; its id is <sequence>-<timestamp>; b body, e epoch,
--          q queue number; for a message that is no history, u instead: the queue number of the last one that is
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

-- The first sequence of a log whose entry passes the test, as all behind it do; one more than the last when none does.
-- An empty log: nothing.
local function search(log, passes)
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not oldest then return nil end
  local low = split_id(oldest[1])
  local high = split_id(redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1][1]) + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local entry = redis.call('XRANGE', log, middle .. '-0', '+', 'COUNT', 1)[1]
    if passes(entry) then high = middle else low = split_id(entry[1]) + 1 end
  end
  return low
end

-- Makes the head of a channel that has none; where a log outlived it, the sequence goes on behind that. What was before
-- this server remembers anything can't be told, and counts as having left the log.
-- Returns epoch, sequence, timestamp, queue number.
local function new_head(gen, app, channel)
  local head, log = head_key(app, channel), log_key(app, channel)
  local epoch, sequence, timestamp, queued = new_epoch(gen), 0, 0, 0
  local left = tonumber(redis.call('HGET', meta_key, 'began') or 1) - 1
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  if last then
    sequence, timestamp = split_id(last[1])
    queued, left = tonumber(last[2][6]), timestamp
  else
    redis.call('DEL', log)
  end
  redis.call('HSET', head, 'e', epoch, 'g', gen, 's', sequence, 't', timestamp, 'u', queued, 'x', left)
  redis.call('PEXPIRE', head, head_ms)
  return epoch, sequence, timestamp, queued
end
