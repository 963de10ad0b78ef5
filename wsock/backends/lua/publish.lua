-- Accepts a batch of messages, in runs that each fare for themselves: one that fails takes no other with it.
-- ARGV: expected generation; options (msgpack): {window, idle_ms, dedup_ms, backlog, history};
-- runs (msgpack): {app, channel, kind, bodies joined by commas, lengths of the bodies, id keys or ''} each, for
-- messages of one channel that follow one another. Kind 2 is history, 1 is to be told all the same, 0 neither.
-- backlog 0: there is no queue, and the log is the history: at most `history` messages, for `idle_ms`.
-- Returns a flat msgpack array, which begins with the cap of timestamps. For a run whose messages are all accepted: 0,
-- sequence and timestamp of the first one, epoch; the timestamps of the others count up from there to the cap. Else 1,
-- and four values for each message: 0, sequence, timestamp, epoch; 1, … for a repetition; 2, 0, 0, '' for a full
-- backlog. For a run that failed: 2, text.
--
-- A run is one entry of the log, in one piece on the wire, and one text here: with many messages in a batch, what is
-- done for each of them is most of the cost. So is making texts: numbers are made texts once, since a number among a
-- command's arguments costs as much as the command.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end

local call = redis.call
local function text_of(number) return string.format('%d', number) end

local window, idle_ms, dedup_ms, backlog, history = unpack(cmsgpack.unpack(ARGV[2]))
local now = now_ms()
local has_queue = backlog > 0
local queued = has_queue and call('XLEN', queue_key) or 0
local persisted_below = has_queue and first_queued() or math.huge
local clocks, channels = {}, {}
local latest = now + 1000
local latest_text = text_of(latest)
local answers, answered = {latest}, 1
-- Expiries are set anew when a message comes in another span of time than the one before it, and are longer by one.
local head_span, idle_span = math.floor(head_ms / 64), math.max(1, math.floor(idle_ms / 64))
-- As a time: Redis makes one out of a duration, for its replicas, and that costs as much again.
local dedup_until = text_of(now + dedup_ms)

local function answer(kind, sequence, timestamp, text)
  answers[answered + 1], answers[answered + 2], answers[answered + 3], answers[answered + 4] = kind, sequence, timestamp, text
  answered = answered + 4
end

-- The last timestamp of an app. They never go back in it, and are unique while fewer than 1000 messages come in a second.
local function clock_of(app)
  clocks[app] = clocks[app] or tonumber(call('GET', clock_key(app)) or 0)
  return clocks[app]
end

-- The oldest entry that is young enough to be kept, where there is an older one.
local function first_kept(log)
  local function is_kept(entry) return last_timestamp(entry) >= now - idle_ms end
  local oldest = call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return oldest and not is_kept(oldest) and search(log, is_kept) or nil
end

-- Drops what the window no longer needs, as far as it is persisted; without a queue also what is too old.
local function trim(c)
  local beyond = c.sequence - (has_queue and window or history)
  local keep = beyond > c.oldest and entry_with(c.log, beyond + 1) or nil
  if not has_queue then
    local kept = first_kept(c.log)
    if kept and (not keep or split_id(kept[1]) > split_id(keep[1])) then keep = kept end
  end
  if not keep then return end
  local edge = call('XREVRANGE', c.log, '(' .. keep[1], '-', 'COUNT', 1)[1]
  if edge and select(5, read_entry(edge)) >= persisted_below then
    keep = search(c.log, function(entry) return select(5, read_entry(entry)) >= persisted_below end)
    edge = call('XREVRANGE', c.log, '(' .. keep[1], '-', 'COUNT', 1)[1]
  end
  if not edge then return end
  call('XTRIM', c.log, 'MINID', keep[1])
  c.oldest = split_id(keep[1]) - 1
  call('HSET', c.head, 'x', last_timestamp(edge), 'o', c.oldest)
end

-- How many messages there is room for: none can leave a log behind a message that waits to be persisted.
local function room(c, wanted)
  if not has_queue then return wanted end
  local most = window + backlog
  if c.sequence - c.oldest + wanted > most then
    trim(c)
    if call('EXISTS', c.log) == 0 then c.oldest = c.sequence end
  end
  return math.max(0, most - (c.sequence - c.oldest))
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
  local head = prefix .. 'head' .. name
  local epoch, generation, sequence, last, turn, oldest = unpack(call('HMGET', head, 'e', 'g', 's', 't', 'u', 'o'))
  if not epoch then
    generation = gen
    epoch, sequence, last, turn, oldest = new_head(gen, app, channel)
  end
  sequence, last = tonumber(sequence), tonumber(last or 0)
  return {app = app, channel = channel, head = head, log = prefix .. 'log' .. name, topic = prefix .. 'topic' .. name,
    epoch = epoch, generation = generation, sequence = sequence, last = last, turn = tostring(turn or 0),
    oldest = tonumber(oldest) or sequence, saved = sequence, saved_at = last, is_known = false, was_empty = false, tried = 0,
    left_out = nil, past = nil}
end

-- Whether the channel's last message is in another span of time than the one before the batch.
local function enters(c, span) return c.was_empty or math.floor(c.last / span) ~= math.floor(c.saved_at / span) end

-- What stands in the head behind the batch.
local function save(c)
  if c.sequence == c.saved then return end
  call('HSET', c.head, 's', text_of(c.sequence), 't', text_of(c.last), 'u', c.turn)
  if c.past then call('HSET', c.head, 'e', c.epoch, 'g', gen, 'p', c.past) end
  if c.was_empty then
    call('HSET', c.head, 'x', math.max(c.saved_at, tonumber(call('HGET', c.head, 'x') or 0)), 'o', c.oldest)
  end
  if enters(c, head_span) then call('PEXPIRE', c.head, math.max(head_ms, idle_ms) + head_span) end
  if tonumber(c.turn) >= persisted_below then
    call('PERSIST', c.log)
  elseif has_queue then
    call('PEXPIRE', c.log, idle_ms)
  elseif enters(c, idle_span) then
    call('PEXPIRE', c.log, idle_ms + idle_span)
  end
  if math.floor(c.sequence / 16) ~= math.floor(c.saved / 16) then trim(c) end
end

-- Appends the run to the log; the first one of a batch also finds out whether there is a log.
local function append(c, id, text, epoch, kind, turn, count, cap)
  local spread = count > 1 and count .. '-' .. cap or nil
  if not c.is_known then
    local added
    if spread then
      added = call('XADD', c.log, 'NOMKSTREAM', id, 'b', text, 'e', epoch, kind, turn, 'n', spread)
    else
      added = call('XADD', c.log, 'NOMKSTREAM', id, 'b', text, 'e', epoch, kind, turn)
    end
    c.is_known, c.was_empty = true, not added
    if added then return end
    c.oldest = c.sequence
  end
  if spread then
    call('XADD', c.log, id, 'b', text, 'e', epoch, kind, turn, 'n', spread)
  else
    call('XADD', c.log, id, 'b', text, 'e', epoch, kind, turn)
  end
end

-- The bodies of a run that are not left out, joined again.
local function without(text, lengths, left_out)
  local bodies, at = {}, 1
  for i, length in ipairs(lengths) do
    if not left_out[i] then bodies[#bodies + 1] = string.sub(text, at, at + length - 1) end
    at = at + length + 1
  end
  return table.concat(bodies, ',')
end

-- Puts the messages with these sequences into the queue, up to this number of it.
local function enqueue(c, first, count, last)
  for i = 1, count do
    call('XADD', queue_key, text_of(last - count + i) .. '-0', 'k', 'm', 'a', c.app, 'c', c.channel, 's',
      text_of(first + i - 1))
  end
  queued, persisted_below = queued + count, math.min(persisted_below, last - count + 1)
end

-- Answers for a run of which something was left out, message by message.
local function answer_each(wanted, left_out, epoch, first, at, cap)
  answered = answered + 1
  answers[answered] = 1
  local accepted = 0
  for i = 1, wanted do
    local before = left_out[i]
    if not before then
      answer(0, first + accepted, math.min(at + accepted, cap), epoch)
      accepted = accepted + 1
    elseif before == 'full' then
      answer(2, 0, 0, '')
    else
      local its_epoch, its_first, its_at, its_cap, index = string.match(before, '^([^:]+):(%d+)-(%d+)-(%d+):(%d+)$')
      answer(1, its_first + index, math.min(its_at + index, tonumber(its_cap)), its_epoch)
    end
  end
end

-- Accepts what it can of a run, and answers. c.tried counts the messages whose ids were looked at, c.left_out has those
-- that were known, and those that there was no room for.
local function accept(c, kind, text, lengths, keys)
  c.tried, c.left_out = 0, nil
  local wanted, is_queued = #keys, kind > 0 and has_queue
  local most = room(c, wanted)
  if is_queued then most = math.min(most, math.max(0, backlog - queued)) end
  local is_new_epoch = c.generation ~= gen
  local epoch = is_new_epoch and most > 0 and new_epoch(gen) or c.epoch
  local last = clock_of(c.app)
  local first, at = c.sequence + 1, math.max(now, last, math.min(last + 1, latest))
  local cap = math.max(at, latest)
  local number, stamp = text_of(first), text_of(at)
  local place = number .. '-' .. stamp
  local cap_text = cap == latest and latest_text or text_of(cap)
  local receipt = epoch .. ':' .. place .. '-' .. cap_text .. ':'
  local count, left_out = 0, nil
  for i, key in ipairs(keys) do
    local before = nil
    if key ~= '' then
      if count < most then
        before = call('SET', key, receipt .. count, 'NX', 'GET', 'PXAT', dedup_until)
      else
        before = call('GET', key)
      end
    end
    if before or count >= most then
      left_out = left_out or {}
      left_out[i], c.left_out = before or 'full', left_out
    else
      count = count + 1
    end
    c.tried = i
  end
  if count > 0 then
    if left_out then text = without(text, lengths, left_out) end
    local last_queued = is_queued and call('HINCRBY', meta_key, 'queued', count)
    local turn = last_queued and text_of(last_queued) or c.turn
    append(c, place, text, epoch, kind == 2 and 'q' or 'u', turn, count, cap_text)
    if last_queued then enqueue(c, first, count, last_queued) end
    local previous = ''
    if is_new_epoch then
      previous = c.epoch .. '/' .. c.sequence
      c.past = with_past(c.epoch, c.sequence, call('HGET', c.head, 'p'))
      c.epoch, c.generation = epoch, gen
    end
    c.sequence, c.last, c.turn = c.sequence + count, math.min(at + count - 1, cap), turn
    clocks[c.app] = c.last
    call('PUBLISH', c.topic, 'm ["' .. epoch .. '",' .. number .. ',' .. stamp .. ',' .. cap_text .. ',"' .. previous ..
      '",[' .. text .. ']]')
  end
  if left_out then
    answer_each(wanted, left_out, epoch, first, at, cap)
  else
    answer(0, first, at, epoch)
  end
end

for _, run in ipairs(cmsgpack.unpack(ARGV[3])) do
  local app, channel, kind, text, lengths, keys = unpack(run)
  local name = channel_name(app, channel)
  local c = channels[name]
  if not c then
    local is_loaded, loaded = pcall(load, app, channel, name)
    c = is_loaded and loaded or {failure = loaded}
    channels[name] = c
  end
  local is_done, failure = false, c.failure
  if not failure then
    is_done, failure = pcall(accept, c, kind, text, lengths, keys)
    -- Nothing was accepted: a repetition must not be told that it was.
    for i = 1, is_done and 0 or c.tried do
      if keys[i] ~= '' and not (c.left_out and c.left_out[i]) then call('DEL', keys[i]) end
    end
  end
  if not is_done then
    local reason = type(failure) == 'table' and failure.err or tostring(failure)
    answers[answered + 1], answers[answered + 2] = 2, (string.gsub(reason, '[^ -~]', '?'))
    answered = answered + 2
  end
end
for _, c in pairs(channels) do
  if not c.failure then save(c) end
end
for app, timestamp in pairs(clocks) do call('SET', clock_key(app), text_of(timestamp), 'PX', head_ms) end
return cmsgpack.pack(answers)
