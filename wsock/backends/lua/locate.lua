-- The place of a timestamp in a channel's log. ARGV: expected generation, app, channel, timestamp.
-- Returns {epoch, sequence before the first entry at or behind it, entries at it, timestamp of the newest entry that
-- left the log}.
local gen, app, channel, timestamp = unpack(ARGV)
timestamp = tonumber(timestamp)
local head, log = head_key(app, channel), log_key(app, channel)
local epoch, sequence, last, trimmed = unpack(redis.call('HMGET', head, 'e', 's', 't', 'x'))
if not epoch then
  epoch = new_epoch(gen)
  redis.call('HSET', head, 'e', epoch, 'g', gen, 's', 0, 'u', 0)
  redis.call('PEXPIRE', head, head_ms)
  return {epoch, 0, 0, 0}
end
local start, ties, from = tonumber(sequence), 0, '+'
while true do
  local entries = redis.call('XREVRANGE', log, from, '-', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local number, at = split_id(entry[1])
    if at < timestamp then return {epoch, start, ties, tonumber(trimmed or 0)} end
    start = number - 1
    if at == timestamp then ties = ties + 1 end
    from = '(' .. entry[1]
  end
  if #entries < 100 then break end
end
-- Whole log behind the timestamp: complete only if nothing newer than the timestamp ever left it.
if redis.call('EXISTS', log) == 0 then trimmed = last end
return {epoch, start, ties, tonumber(trimmed or 0)}
