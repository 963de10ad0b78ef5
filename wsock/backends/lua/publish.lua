-- Accepts a batch of messages, each on its own: one that fails takes none with it.
-- ARGV: expected generation; options (msgpack): {window, idle_ms, dedup_ms, backlog, history};
-- runs (msgpack): {app, channel, {id key or '', is history, body, id key or '', …}} each, for messages of one channel
-- that follow one another.
-- backlog 0: there is no queue, and the log is the history: at most `history` messages, for `idle_ms`.
-- Returns a flat msgpack array with four values for each message: 0, sequence, timestamp, epoch; 1, … for a
-- repetition; 2, 0, 0, '' for a full backlog; 3, 0, 0, text for a failure.
--
-- What a channel needs once for a batch (its head, its expiry, the look at what can be trimmed) is done once, and a
-- run is published in one piece: with many messages in a batch that is most of the cost. Numbers are made texts once:
-- a number among a command's arguments costs as much as the command.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end

local call = redis.call
local function text_of(number) return string.format('%d', number) end

local window, idle_ms, dedup_ms, backlog, history = unpack(cmsgpack.unpack(ARGV[2]))
local now = now_ms()
local has_queue = backlog > 0
local queued = has_queue and call('XLEN', queue_key) or 0
local persisted_below = has_queue and first_queued() or math.huge
local clocks, channels, answers, count = {}, {}, {}, 0
-- Expiries are set anew when a message comes in another span of time than the one before it, and are longer by one.
local head_span, idle_span = math.floor(head_ms / 64), math.max(1, math.floor(idle_ms / 64))
-- As a time: Redis makes one out of a duration, for its replicas, and that costs as much again.
local dedup_until = text_of(now + dedup_ms)

-- Never goes back in an app, and is unique while fewer than 1000 messages come in a second.
local function stamp(app)
  local last = clocks[app] or tonumber(call('GET', clock_key(app)) or 0)
  local timestamp = math.max(now, last, math.min(last + 1, now + 1000))
  clocks[app] = timestamp
  return timestamp
end

-- The sequence below which everything in the log is too old.
local function too_old_below(log)
  local function is_kept(entry)
    local _, at = split_id(entry[1])
    return at >= now - idle_ms
  end
  local oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if not oldest or is_kept(oldest) then return 0 end
  return search(log, is_kept) - 1
end

-- Drops what the window no longer needs, as far as it is persisted; without a queue also what is too old.
local function trim(c)
  local cut = c.sequence - (has_queue and window or history)
  if not has_queue then cut = math.max(cut, too_old_below(c.log)) end
  if cut <= 0 then return end
  local edge = call('XREVRANGE', c.log, cut, '-', 'COUNT', 1)[1]
  if edge and tonumber(edge[2][6]) >= persisted_below then
    cut = search(c.log, function(entry) return tonumber(entry[2][6]) >= persisted_below end) - 1
    edge = call('XREVRANGE', c.log, cut, '-', 'COUNT', 1)[1]
  end
  if not edge then return end
  local number, timestamp = split_id(edge[1])
  call('XTRIM', c.log, 'MINID', (number + 1) .. '-0')
  call('HSET', c.head, 'x', timestamp)
end

-- Whether the log has no room: behind a message that waits to be persisted none can leave it.
local function is_full(c)
  if not has_queue or c.length < window + backlog then return false end
  trim(c)
  c.length = call('XLEN', c.log)
  return c.length >= window + backlog
end

-- The epochs before the current one, when this is the newest of them.
local function with_past(epoch, sequence, past)
  local epochs = {epoch .. ':' .. sequence}
  for earlier in string.gmatch(past or '', '%S+') do
    if #epochs < 8 then epochs[#epochs + 1] = earlier end
  end
  return table.concat(epochs, ' ')
end

-- The channel as it is before the batch. A new epoch, where one is due, begins with the first message accepted.
local function load(app, channel, name)
  local c = {app = app, channel = channel, head = prefix .. 'head' .. name, log = prefix .. 'log' .. name}
  c.length = call('XLEN', c.log)
  c.epoch, c.generation, c.sequence, c.last, c.unpersisted_text = unpack(call('HMGET', c.head, 'e', 'g', 's', 't', 'u'))
  if not c.epoch then
    c.generation = gen
    c.epoch, c.sequence, c.last, c.unpersisted_text = new_head(gen, app, channel)
  end
  c.sequence, c.last = tonumber(c.sequence), tonumber(c.last or 0)
  c.unpersisted_text = c.unpersisted_text or '0'
  c.unpersisted = tonumber(c.unpersisted_text)
  c.saved, c.saved_at, c.was_empty = c.sequence, c.last, c.length == 0
  return c
end

-- Whether the channel's last message is in another span of time than the one before the batch.
local function enters(c, span) return c.was_empty or math.floor(c.last / span) ~= math.floor(c.saved_at / span) end

-- What stands in the head behind the batch.
local function save(c)
  if c.sequence == c.saved then return end
  call('HSET', c.head, 's', c.sequence_text, 't', c.last_text, 'u', c.unpersisted_text)
  if c.begins then call('HSET', c.head, 'e', c.epoch, 'g', gen, 'p', c.past) end
  if c.was_empty then
    call('HSET', c.head, 'x', math.max(c.saved_at, tonumber(call('HGET', c.head, 'x') or 0)))
  end
  if enters(c, head_span) then call('PEXPIRE', c.head, math.max(head_ms, idle_ms) + head_span) end
  if c.unpersisted >= persisted_below then
    call('PERSIST', c.log)
  elseif has_queue then
    call('PEXPIRE', c.log, idle_ms)
  elseif enters(c, idle_span) then
    call('PEXPIRE', c.log, idle_ms + idle_span)
  end
  if math.floor(c.sequence / 16) ~= math.floor(c.saved / 16) then trim(c) end
end

-- One message of a channel: the four values of its answer, and what is published of it.
local function accept(c, seen, is_persistent, body)
  local is_queued = is_persistent and has_queue
  if is_queued and queued >= backlog or is_full(c) then
    local first = seen and call('GET', seen)
    if not first then return 2, 0, 0, '' end
  end
  local is_new_epoch = c.generation ~= gen
  local epoch = is_new_epoch and new_epoch(gen) or c.epoch
  local sequence, timestamp = c.sequence + 1, stamp(c.app)
  local number, at = text_of(sequence), text_of(timestamp)
  local place = number .. '-' .. at
  if seen then
    local first = call('SET', seen, epoch .. ':' .. place, 'NX', 'GET', 'PXAT', dedup_until)
    if first then
      local before, first_sequence, when = string.match(first, '^([^:]+):(%d+)-(%d+)$')
      return 1, tonumber(first_sequence), tonumber(when), before
    end
    c.seen = seen
  end
  local unpersisted, turn = c.unpersisted, c.unpersisted_text
  if is_queued then
    unpersisted = call('HINCRBY', meta_key, 'queued', 1)
    turn = text_of(unpersisted)
  end
  call('XADD', c.log, place, 'b', body, 'e', epoch, is_persistent and 'q' or 'u', turn)
  c.seen = nil
  if is_queued then
    call('XADD', queue_key, turn .. '-0', 'k', 'm', 'a', c.app, 'c', c.channel, 's', number)
    queued = queued + 1
    persisted_below = math.min(persisted_below, unpersisted)
  end
  local before = ''
  if is_new_epoch then
    before = c.epoch .. '/' .. c.sequence
    c.past = with_past(c.epoch, c.sequence, call('HGET', c.head, 'p'))
    c.begins, c.epoch, c.generation = true, epoch, gen
  end
  c.sequence, c.last, c.unpersisted, c.length = sequence, timestamp, unpersisted, c.length + 1
  c.sequence_text, c.last_text, c.unpersisted_text = number, at, turn
  return 0, sequence, timestamp, epoch, '[' .. at .. ',' .. body .. ']', before
end

local function answer(kind, sequence, timestamp, text)
  answers[count + 1], answers[count + 2], answers[count + 3], answers[count + 4] = kind, sequence, timestamp, text
  count = count + 4
end

for _, run in ipairs(cmsgpack.unpack(ARGV[3])) do
  local app, channel, items = unpack(run)
  local name, ids = channel_name(app, channel), id_key(app, '')
  local c = channels[name]
  if not c then
    local is_loaded, loaded = pcall(load, app, channel, name)
    c = is_loaded and loaded or {failure = loaded}
    channels[name] = c
  end
  local entries, first, before = {}, nil, nil
  for i = 1, #items, 3 do
    local is_done, kind, sequence, timestamp, text, entry, previous = true, nil, nil, nil, nil, nil, nil
    if c.failure then
      is_done, kind = false, c.failure
    else
      is_done, kind, sequence, timestamp, text, entry, previous =
        pcall(accept, c, items[i] ~= '' and ids .. items[i] or nil, items[i + 1], items[i + 2])
    end
    if not is_done then
      answer(3, 0, 0, (string.gsub(type(kind) == 'table' and kind.err or tostring(kind), '[^ -~]', '?')))
      if c.seen then
        -- Nothing was accepted: a repetition must not be told that it was.
        call('DEL', c.seen)
        c.seen = nil
      end
    else
      answer(kind, sequence, timestamp, text)
      if entry then
        if not first then first, before = sequence, previous end
        entries[#entries + 1] = entry
      end
    end
  end
  if first then
    call('PUBLISH', prefix .. 'topic' .. name, 'm ["' .. c.epoch .. '",' .. text_of(first) .. ',"' .. before .. '",[' ..
      table.concat(entries, ',') .. ']]')
  end
end
for _, c in pairs(channels) do
  if not c.failure then save(c) end
end
for app, timestamp in pairs(clocks) do call('SET', clock_key(app), text_of(timestamp), 'PX', head_ms) end
return cmsgpack.pack(answers)
