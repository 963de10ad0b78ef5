-- The place of a timestamp in a channel's log. ARGV: expected generation, app, channel, timestamp.
-- Returns {epoch, sequence before the first message at or behind it, messages at it, timestamp of the newest message
-- that left the log}.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end
local app, channel, timestamp = ARGV[2], ARGV[3], tonumber(ARGV[4])
local head, log = head_key(app, channel), log_key(app, channel)
if redis.call('EXISTS', head) == 0 then new_head(gen, app, channel) end
local epoch, sequence, last, left = unpack(redis.call('HMGET', head, 'e', 's', 't', 'x'))
sequence, last, left = tonumber(sequence), tonumber(last or 0), tonumber(left or 0)

local found = search(log, function(entry) return last_timestamp(entry) >= timestamp end)
if not found then return {epoch, sequence, 0, math.max(last, left)} end
local first, _, begin = read_entry(found)
local before, ties, from = first + math.max(0, timestamp - begin) - 1, 0, found[1]
while true do
  local entries = redis.call('XRANGE', log, from, '+', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local _, count, at, cap = read_entry(entry)
    if at > timestamp then return {epoch, before, ties, left} end
    -- Timestamps of an entry differ, but for those at its cap.
    if cap == timestamp then
      ties = ties + math.max(0, count - (timestamp - at))
    elseif at + count > timestamp and timestamp < cap then
      ties = ties + 1
    end
    from = '(' .. entry[1]
  end
  if #entries < 100 then return {epoch, before, ties, left} end
end
