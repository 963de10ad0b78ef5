-- Accepts a batch of messages, each on its own: one that fails takes none with it.
-- ARGV: expected generation; options (msgpack): {window, idle_ms, dedup_ms, backlog, history};
-- items (msgpack): {app, channel, id or '', is history, body} each.
-- backlog 0: there is no queue, and the log is the history: at most `history` messages, for `idle_ms`.
-- Returns for each item {0, sequence, timestamp, epoch}, {1, …} for a repetition, {2} for a full backlog,
-- {3, text} for a failure.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end

local options = cmsgpack.unpack(ARGV[2])
local window, idle_ms, dedup_ms, backlog, history = unpack(options)
local items = cmsgpack.unpack(ARGV[3])
local now = now_ms()
local has_queue = backlog > 0
local queued = has_queue and redis.call('XLEN', queue_key) or 0
local persisted_below = has_queue and first_queued() or math.huge
local clocks = {}

-- Never goes back in an app, and is unique while fewer than 1000 messages come in a second.
local function stamp(app)
  local last = clocks[app] or tonumber(redis.call('GET', clock_key(app)) or 0)
  local timestamp = math.max(now, last, math.min(last + 1, now + 1000))
  clocks[app] = timestamp
  return timestamp
end

-- Drops what the window no longer needs, as far as it is persisted; without a queue also what is too old.
local function trim(head, log, sequence)
  local cut = sequence - (has_queue and window or history)
  if not has_queue then
    cut = math.max(cut, search(log, function(entry)
      local _, at = split_id(entry[1])
      return at >= now - idle_ms
    end) - 1)
  end
  if cut <= 0 then return end
  local edge = redis.call('XREVRANGE', log, cut, '-', 'COUNT', 1)[1]
  if edge and tonumber(edge[2][6]) >= persisted_below then
    cut = search(log, function(entry) return tonumber(entry[2][6]) >= persisted_below end) - 1
    edge = redis.call('XREVRANGE', log, cut, '-', 'COUNT', 1)[1]
  end
  if not edge then return end
  local number, timestamp = split_id(edge[1])
  redis.call('XTRIM', log, 'MINID', (number + 1) .. '-0')
  redis.call('HSET', head, 'x', timestamp)
end

-- Whether the log has no room: behind a message that waits to be persisted none can leave it.
local function is_full(head, log, length, sequence)
  if not has_queue or length < window + backlog then return false end
  trim(head, log, sequence)
  return redis.call('XLEN', log) >= window + backlog
end

-- The epochs before the current one, when this is the newest of them.
local function with_past(epoch, sequence, past)
  local epochs = {epoch .. ':' .. sequence}
  for earlier in string.gmatch(past or '', '%S+') do
    if #epochs < 8 then epochs[#epochs + 1] = earlier end
  end
  return table.concat(epochs, ' ')
end

local function accept(item)
  local app, channel, id, is_persistent, body = unpack(item)
  local seen = id ~= '' and id_key(app, id) or nil
  if seen then
    local first = redis.call('GET', seen)
    if first then
      local epoch, sequence, timestamp = string.match(first, '^([^:]+):(%d+):(%d+)$')
      return {1, tonumber(sequence), tonumber(timestamp), epoch}
    end
  end
  local is_queued = is_persistent and has_queue
  if is_queued and queued >= backlog then return {2} end

  local head, log = head_key(app, channel), log_key(app, channel)
  local length = redis.call('XLEN', log)
  local epoch, generation, sequence, last, unpersisted, past =
    unpack(redis.call('HMGET', head, 'e', 'g', 's', 't', 'u', 'p'))
  if not epoch then
    generation = gen
    epoch, sequence, last, unpersisted = new_head(gen, app, channel)
  end
  sequence, unpersisted = tonumber(sequence), tonumber(unpersisted or 0)
  if is_full(head, log, length, sequence) then return {2} end

  local facts, before = {}, '-'
  if generation ~= gen then
    before = epoch .. '/' .. sequence
    past = with_past(epoch, sequence, past)
    epoch = new_epoch(gen)
    facts = {'e', epoch, 'g', gen, 'p', past}
  end
  if length == 0 then
    facts[#facts + 1] = 'x'
    facts[#facts + 1] = math.max(tonumber(last or 0), tonumber(redis.call('HGET', head, 'x') or 0))
  end
  sequence = sequence + 1
  local timestamp = stamp(app)
  if is_queued then unpersisted = redis.call('HINCRBY', meta_key, 'queued', 1) end
  redis.call('XADD', log, sequence .. '-' .. timestamp, 'b', body, 'e', epoch, is_persistent and 'q' or 'u', unpersisted)
  redis.call('HSET', head, 's', sequence, 't', timestamp, 'u', unpersisted, unpack(facts))
  redis.call('PEXPIRE', head, math.max(head_ms, idle_ms))
  if is_queued then
    redis.call('XADD', queue_key, unpersisted .. '-0', 'k', 'm', 'a', app, 'c', channel, 's', sequence)
    queued = queued + 1
    persisted_below = math.min(persisted_below, unpersisted)
  end
  if unpersisted >= persisted_below then
    redis.call('PERSIST', log)
  else
    redis.call('PEXPIRE', log, idle_ms)
  end
  if sequence % 16 == 0 then trim(head, log, sequence) end
  if seen then redis.call('SET', seen, epoch .. ':' .. sequence .. ':' .. timestamp, 'PX', dedup_ms) end
  redis.call('PUBLISH', topic_key(app, channel),
    'm ' .. epoch .. ' ' .. sequence .. ' ' .. timestamp .. ' ' .. before .. ' ' .. body)
  return {0, sequence, timestamp, epoch}
end

local answers = {}
for i, item in ipairs(items) do
  local is_done, answer = pcall(accept, item)
  if not is_done then
    answer = {3, type(answer) == 'table' and answer.err or tostring(answer)}
  end
  answers[i] = answer
end
for app, timestamp in pairs(clocks) do redis.call('SET', clock_key(app), timestamp, 'PX', head_ms) end
return answers
