-- The place of a timestamp in a channel's log. ARGV: expected generation, app, channel, timestamp.
-- Returns {epoch, sequence before the first entry at or behind it, entries at it, timestamp of the newest entry that
-- left the log}.
local gen = redis.call('HGET', meta_key, 'gen')
if gen ~= ARGV[1] then return redis.error_reply('STALE the generation is ' .. tostring(gen)) end
local app, channel, timestamp = ARGV[2], ARGV[3], tonumber(ARGV[4])
local head, log = head_key(app, channel), log_key(app, channel)
if redis.call('EXISTS', head) == 0 then new_head(gen, app, channel) end
local epoch, sequence, last, left = unpack(redis.call('HMGET', head, 'e', 's', 't', 'x'))
sequence, last, left = tonumber(sequence), tonumber(last or 0), tonumber(left or 0)

local function is_behind(entry)
  local _, at = split_id(entry[1])
  return at >= timestamp
end

local first = search(log, is_behind)
if not first then return {epoch, sequence, 0, math.max(last, left)} end
local ties, from = 0, first
while true do
  local entries = redis.call('XRANGE', log, from .. '-0', '+', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local number, at = split_id(entry[1])
    if at > timestamp then return {epoch, first - 1, ties, left} end
    ties, from = ties + 1, number + 1
  end
  if #entries < 100 then return {epoch, first - 1, ties, left} end
end
