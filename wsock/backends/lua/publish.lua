-- Accepts a batch of messages, each on its own: one that fails takes none with it.
-- ARGV: expected generation; options (msgpack): {window, idle_ms, dedup_ms, backlog, history};
-- items (msgpack): {app, channel, id or '', is queued, body} each.
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

-- Drops what the window no longer needs, as far as it is persisted.
local function trim(app, channel, head, log, sequence)
  local keep = has_queue and window or history
  if sequence <= keep then return end
  local edge = redis.call('XREVRANGE', log, (sequence - keep), '-', 'COUNT', 1)[1]
  if not edge then return end
  local fields = edge[2]
  if tonumber(fields[6]) >= persisted_below then return end
  local number, timestamp = split_id(edge[1])
  redis.call('XTRIM', log, 'MINID', (number + 1) .. '-0')
  redis.call('HSET', head, 'x', timestamp)
end

local function accept(item)
  local app, channel, id, is_queued, body = unpack(item)
  local seen = id ~= '' and id_key(app, id) or nil
  if seen then
    local first = redis.call('GET', seen)
    if first then
      local epoch, sequence, timestamp = string.match(first, '^([^:]+):(%d+):(%d+)$')
      return {1, tonumber(sequence), tonumber(timestamp), epoch}
    end
  end
  is_queued = is_queued and has_queue
  if is_queued and queued >= backlog then return {2} end

  local head, log = head_key(app, channel), log_key(app, channel)
  local epoch, generation, sequence, unpersisted = unpack(redis.call('HMGET', head, 'e', 'g', 's', 'u'))
  local before = '-'
  if not epoch then
    epoch, sequence, unpersisted = new_epoch(gen), 0, 0
    redis.call('DEL', log)
    redis.call('HSET', head, 'e', epoch, 'g', gen)
  elseif generation ~= gen then
    before = epoch .. '/' .. sequence
    redis.call('HSET', head, 'pe', epoch, 'ps', sequence)
    epoch = new_epoch(gen)
    redis.call('HSET', head, 'e', epoch, 'g', gen)
  end
  sequence, unpersisted = tonumber(sequence) + 1, tonumber(unpersisted or 0)
  local timestamp = stamp(app)

  local number = 0
  if is_queued then
    number = redis.call('HINCRBY', meta_key, 'queued', 1)
    unpersisted = number
  end
  redis.call('XADD', log, sequence .. '-' .. timestamp, 'b', body, 'e', epoch, 'q', number)
  redis.call('HSET', head, 's', sequence, 't', timestamp, 'u', unpersisted)
  if sequence % 16 == 1 then redis.call('PEXPIRE', head, math.max(head_ms, idle_ms)) end
  if unpersisted >= persisted_below or is_queued then
    redis.call('PERSIST', log)
  else
    redis.call('PEXPIRE', log, idle_ms)
  end
  if sequence % 16 == 0 then trim(app, channel, head, log, sequence) end
  if is_queued then
    redis.call('XADD', queue_key, number .. '-0', 'k', 'm', 'a', app, 'c', channel, 's', sequence)
    queued = queued + 1
    if persisted_below == math.huge then persisted_below = number end
  end
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
