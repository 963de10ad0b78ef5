-- Shared by all scripts: the names of the keys, and how a channel's head is kept.
--
-- One server holds, for each channel:
--   head   hash: e epoch, g generation that e belongs to, s last sequence, t its timestamp, u queue number of the last
--          message that was queued, x timestamp of the newest message that left the stream,
--          pe and ps the epoch before e and the last sequence that was kept of it
--   log    stream: an entry for each message, its id is <sequence>-<timestamp>; b body, e epoch, q queue number
-- and for the whole server:
--   meta   hash: run (the server process that the generation belongs to), gen, since (when it began), counters
--   queue  stream: what has to be persisted and told, in order; its ids are <queue number>-0
local prefix = 'wsock:'
local meta_key = prefix .. 'meta'
local queue_key = prefix .. 'queue'

local function head_key(app, channel) return prefix .. 'head:' .. app .. ':' .. channel end
local function log_key(app, channel) return prefix .. 'log:' .. app .. ':' .. channel end
local function topic_key(app, channel) return prefix .. 'topic:' .. app .. ':' .. channel end
-- The last change of the channel's members: <generation>.<number>.
local function version_key(app, channel) return prefix .. 'version:' .. #app .. ':' .. app .. ':' .. channel end
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
