-- A page of a channel's log. ARGV: app, channel, 'all' or 'unpersisted' (what may not be persisted yet), 'forward' or
-- 'backward', after and before (timestamps, exclusive; '' for none), limit.
-- Returns {1 when there is more, entries}; the page does not end between equal timestamps.
local log, is_forward, limit = log_key(ARGV[1], ARGV[2]), ARGV[4] == 'forward', tonumber(ARGV[7])
local after, before = tonumber(ARGV[5]) or -math.huge, tonumber(ARGV[6]) or math.huge
local floor = ARGV[3] == 'all' and 0 or first_queued()
if floor == math.huge then return {0, {}} end

local function is_late_enough(entry)
  local _, at = split_id(entry[1])
  return at > after and tonumber(entry[2][6]) >= floor
end
local function is_too_late(entry)
  local _, at = split_id(entry[1])
  return at >= before
end

local first = search(log, is_late_enough)
if not first then return {0, {}} end
local last = search(log, is_too_late) - 1
local found, edge = {}, nil
local place = is_forward and first or last
while first <= place and place <= last do
  local entries
  if is_forward then
    entries = redis.call('XRANGE', log, place .. '-0', last, 'COUNT', 100)
  else
    entries = redis.call('XREVRANGE', log, place, first .. '-0', 'COUNT', 100)
  end
  for _, entry in ipairs(entries) do
    local number, at = split_id(entry[1])
    if entry[2][5] == 'q' then
      if #found >= limit and at ~= edge then return {1, found} end
      found[#found + 1], edge = entry, at
    end
    place = is_forward and number + 1 or number - 1
  end
  if #entries < 100 then break end
end
return {0, found}
