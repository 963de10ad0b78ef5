-- The messages of a channel behind a position. ARGV: app, channel, epoch, sequence, limit.
-- Returns {epoch, sequence, last sequence kept of the position's epoch or -1, entries}; without a head nothing.
local app, channel, epoch, after, limit = unpack(ARGV)
local current, sequence, past = unpack(redis.call('HMGET', head_key(app, channel), 'e', 's', 'p'))
if not current then return {} end
sequence = tonumber(sequence)
local kept = epoch == current and sequence or nil
if not kept then
  for before, last in string.gmatch(past or '', '(%S+):(%d+)') do
    if before == epoch then kept = tonumber(last) end
  end
end
if not kept then return {current, sequence, -1, {}} end
local start = math.min(tonumber(after), kept) + 1
local entries = redis.call('XRANGE', log_key(app, channel), start .. '-0', '+', 'COUNT', limit)
return {current, sequence, kept, entries}
