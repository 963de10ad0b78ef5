-- A page of a channel's log. ARGV: app, channel, 'all' or 'unpersisted' (what may not be persisted yet), 'forward' or
-- 'backward', after and before (timestamps, exclusive; '' for none), limit.
-- Returns {1 when there is more, how many messages, entries}: the page is the first so many messages of the entries, in
-- its direction, between the bounds. It does not end between equal timestamps.
local log, is_forward, limit = log_key(ARGV[1], ARGV[2]), ARGV[4] == 'forward', tonumber(ARGV[7])
local after, before = tonumber(ARGV[5]) or -math.huge, tonumber(ARGV[6]) or math.huge
local floor = ARGV[3] == 'all' and 0 or first_queued()
if floor == math.huge then return {0, 0, {}} end

local function is_late_enough(entry) return last_timestamp(entry) > after and select(5, read_entry(entry)) >= floor end
local function is_too_late(entry)
  local _, timestamp = split_id(entry[1])
  return timestamp >= before
end

local first = search(log, is_late_enough)
if not first then return {0, 0, {}} end
local too_late = search(log, is_too_late)
local from, to = first[1], too_late and '(' .. too_late[1] or '+'
local found, count, edge = {}, 0, nil

-- Counts the messages of an entry that belong to the page; whether the page ends there.
local function take(entry)
  local _, number, timestamp, cap = read_entry(entry)
  found[#found + 1] = entry
  for i = 0, number - 1 do
    local at = math.min(timestamp + (is_forward and i or number - 1 - i), cap)
    if after < at and at < before then
      if count >= limit and at ~= edge then return true end
      count, edge = count + 1, at
    end
  end
  return false
end

while true do
  local entries
  if is_forward then
    entries = redis.call('XRANGE', log, from, to, 'COUNT', 100)
  else
    entries = redis.call('XREVRANGE', log, to, from, 'COUNT', 100)
  end
  for _, entry in ipairs(entries) do
    if entry[2][5] == 'q' and take(entry) then return {1, count, found} end
    if is_forward then from = '(' .. entry[1] else to = '(' .. entry[1] end
  end
  if #entries < 100 then return {0, count, found} end
end
