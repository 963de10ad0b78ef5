-- The entries at the end of a log that may not be persisted yet, newest first. ARGV: app, channel, limit.
local log, limit = log_key(ARGV[1], ARGV[2]), tonumber(ARGV[3])
local persisted_below = first_queued()
local found, from = {}, '+'
if persisted_below == math.huge then return found end
while #found < limit do
  local entries = redis.call('XREVRANGE', log, from, '-', 'COUNT', 100)
  for _, entry in ipairs(entries) do
    local number = tonumber(entry[2][6])
    if number >= persisted_below then
      found[#found + 1] = entry
    elseif number > 0 then
      return found
    end
    from = '(' .. entry[1]
  end
  if #entries < 100 then break end
end
return found
