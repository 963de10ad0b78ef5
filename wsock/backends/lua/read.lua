-- The messages of a channel behind a position. ARGV: app, channel, epoch, sequence, limit.
-- Returns {epoch, sequence, last sequence kept of the position's epoch or -1, entries}; without a head nothing. The
-- first entry may begin before the position, and the last one end beyond the limit.
local app, channel, epoch, after, limit = unpack(ARGV)
local current, sequence, past = unpack(redis.call('HMGET', head_key(app, channel), 'e', 's', 'p'))
if not current then return {} end
sequence, limit = tonumber(sequence), tonumber(limit)
local kept = epoch == current and sequence or nil
if not kept then
  for before, last in string.gmatch(past or '', '(%S+):(%d+)') do
    if before == epoch then kept = tonumber(last) end
  end
end
if not kept then return {current, sequence, -1, {}} end
local log, start = log_key(app, channel), math.min(tonumber(after), kept) + 1
local around = entry_with(log, start)
local from = around and last_sequence(around) >= start and around[1] or start .. '-0'
local entries, got = {}, 0
while got < limit do
  local some = redis.call('XRANGE', log, from, '+', 'COUNT', math.min(limit - got, 64))
  for _, entry in ipairs(some) do
    local first, count = read_entry(entry)
    if got < limit then entries[#entries + 1] = entry end
    got = got + first + count - math.max(first, start)
    from = '(' .. entry[1]
  end
  if #some < 64 then break end
end
return {current, sequence, kept, entries}
