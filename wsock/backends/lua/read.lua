-- The messages of a channel behind a position. ARGV: app, channel, epoch, sequence, limit.
-- Returns {epoch, sequence, epoch before, sequence kept of it, entries}; without a head nothing.
local app, channel, epoch, after, limit = unpack(ARGV)
local now_epoch, sequence, previous, kept = unpack(redis.call('HMGET', head_key(app, channel), 'e', 's', 'pe', 'ps'))
if not now_epoch then return {} end
after = tonumber(after)
if epoch == previous and after > tonumber(kept) then after = tonumber(kept) end
local entries = redis.call('XRANGE', log_key(app, channel), (after + 1) .. '-0', '+', 'COUNT', limit)
return {now_epoch, tonumber(sequence), previous or '', tonumber(kept or 0), entries}
