-- Counts events in sliding windows, as many of the wanted ones as there is room for. ARGV, for each: key, limit, window
-- in seconds, wanted, now in seconds. Returns for each: how many were counted, and as text the seconds after which there
-- is room again, or 0. See SlidingWindow for how, and redis_counters.py.

local function keep(key, groups, window)
  redis.call('SET', key, cmsgpack.pack(groups), 'PX', math.ceil(window * 2000) + 1000)
end

-- The time to go by: the newest group's, where the caller's clock is behind. One that was set back takes them with it.
local function follow(key, groups, window, now)
  local newest = groups[#groups - 1]
  if not newest or newest <= now then return now end
  if newest - now < window then return newest end
  for i = 1, #groups, 2 do groups[i] = groups[i] - (newest - now) end
  keep(key, groups, window)
  return now
end

-- The groups that left not long ago, those that are in the window, and how many events these have.
local function slide(groups, window, now)
  local late, kept, total = {}, {}, 0
  for i = 1, #groups, 2 do
    if groups[i] > now - window then
      kept[#kept + 1], kept[#kept + 2] = groups[i], groups[i + 1]
      total = total + groups[i + 1]
    elseif groups[i] > now - window - window / 4 then
      late[#late + 1], late[#late + 2] = groups[i], groups[i + 1]
    end
  end
  return late, kept, total
end

local function count(groups, number, room, at)
  if number > 0 and #groups > 0 then
    local more = math.max(0, math.min(number, room - groups[#groups]))
    groups[#groups] = groups[#groups] + more
    number = number - more
    at = math.max(at, groups[#groups - 1])
  end
  if number > 0 then groups[#groups + 1], groups[#groups + 2] = at, number end
end

-- No group opened in the future: nobody waits longer than the window.
local function wait(groups, total, limit, window, now)
  if total < limit then return '0' end
  for i = 1, #groups, 2 do
    total = total - groups[i + 1]
    if total < limit then return string.format('%.17g', math.min(math.max(groups[i] + window - now, 1e-6), window)) end
  end
  return string.format('%.17g', window)
end

local function take(key, limit, window, wanted, time)
  local packed = redis.call('GET', key)
  -- Times of opening and counts in turn, the oldest group first.
  local groups = packed and cmsgpack.unpack(packed) or {}
  local now = follow(key, groups, window, time)
  local late, kept, total = slide(groups, window, now)
  local taken = math.min(wanted, limit - total)
  if taken <= 0 then return 0, wait(kept, total, limit, window, now) end
  local left, room, all = taken, math.ceil(limit / 128), {}
  for i = 1, #late, 2 do
    local number = math.min(left, late[i + 1])
    count(kept, number, room, math.max(late[i] + window, now - window / 32))
    left = left - number
    if number < late[i + 1] then all[#all + 1], all[#all + 2] = late[i], late[i + 1] - number end
  end
  count(kept, left, room, now)
  for i = 1, #kept do all[#all + 1] = kept[i] end
  keep(key, all, window)
  return taken, wait(kept, total + taken, limit, window, now)
end

local answer = {}
for i = 1, #ARGV, 5 do
  local taken, seconds = take(
    prefix .. ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4]))
  answer[#answer + 1], answer[#answer + 2] = taken, seconds
end
return answer
