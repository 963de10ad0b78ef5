-- Counts one event in a sliding window if there is room. ARGV: key, limit, window in seconds, now in seconds.
-- Returns as text 0, or the seconds after which there is room again. See redis_counters.py.
local key = prefix .. 'count:' .. ARGV[1]
local limit, window, now = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local packed = redis.call('GET', key)
-- Times of opening and counts in turn, the oldest group first.
local groups = packed and cmsgpack.unpack(packed) or {}

local function keep(kept) redis.call('SET', key, cmsgpack.pack(kept), 'PX', math.ceil(window * 2000) + 1000) end

local newest = groups[#groups - 1]
if newest and newest > now then
  if newest - now < window then
    now = newest
  else
    for i = 1, #groups, 2 do groups[i] = groups[i] - (newest - now) end
    keep(groups)
  end
end
local kept, total = {}, 0
for i = 1, #groups, 2 do
  if groups[i] > now - window then
    kept[#kept + 1], kept[#kept + 2] = groups[i], groups[i + 1]
    total = total + groups[i + 1]
  end
end
if total >= limit then
  -- No group opened in the future: nobody waits longer than the window.
  for i = 1, #kept, 2 do
    total = total - kept[i + 1]
    if total < limit then return string.format('%.17g', kept[i] + window - now) end
  end
  return string.format('%.17g', window)
end
if #kept > 0 and kept[#kept] < math.ceil(limit / 64) then
  kept[#kept] = kept[#kept] + 1
else
  kept[#kept + 1], kept[#kept + 2] = now, 1
end
keep(kept)
return '0'
