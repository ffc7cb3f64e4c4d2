-- ARGV = queue, how many at most, lease in microseconds, 1 when the asking process has nothing in hand, and of a pool
-- only what is due by then ('': all).
-- Takes tasks and claims them: {now, microseconds until the next timed one or -1, 1 when the task must run alone, rows}.
local queue, want, lease, idle = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local now = clock()
local lease_end = text(now + lease)
local waiting = P .. 'queue:' .. queue

-- A plain message of some other producer cannot be run here: kept as a dead letter, the neighbours go on.
local strays = redis.call('LPOP', 'dramatiq:' .. queue, 100)
if strays then
  for _, id in ipairs(strays) do
    local body = redis.call('HGET', 'dramatiq:' .. queue .. '.msgs', id)
    redis.call('HDEL', 'dramatiq:' .. queue .. '.msgs', id)
    dead_letter('message:' .. queue .. ':' .. id, now, 'unreadable message: not a task', queue, 0, body or id)
  end
end

local later = P .. 'later:' .. queue
local due = redis.call('ZRANGEBYSCORE', later, '-inf', text(now), 'LIMIT', 0, 1000)
for _, ref in ipairs(due) do
  remove(later, ref)
  local h = redis.pcall('HMGET', task_key(ref), 'workspace', 'priority')
  if h[1] then
    enqueue(queue, ref, h[1], tonumber(h[2]))
  end
end
apply(now)
local next_due = redis.call('ZRANGE', later, 0, 0, 'WITHSCORES')[2]
local until_due = next_due and math.max(0, tonumber(next_due) - now) or -1

local rows = {}
local function claim(ref)
  local key = task_key(ref)
  local status, last, task, progress, submitted, enqueued, cost, waited, raised, losses, shares = unpack(
    redis.pcall('HMGET', key, 'status', 'epoch', 'task', 'progress', 'submitted', 'enqueued', 'cost', 'waited', 'raised',
      'losses', 'shares'))
  if not (status and tonumber(last or '') and task and tonumber(submitted or '') and tonumber(enqueued or '')
    and tonumber(cost or '')) then
    local cause = status and 'unreadable record: fields of a task are missing' or 'unreadable message: no task of that name'
    dead_letter('message:' .. queue .. ':' .. ref, now, cause, queue, 0, ref)
    remove(P .. 'open', ref)
    if status then
      redis.call('HSET', key, 'status', 'failed')
      tell_watchers(ref)
    end
  elseif not ENDS[status] and status ~= 'parked' then
    local epoch = epoch_after(last, tonumber(submitted), now)
    redis.call('HSET', key, 'epoch', epoch)
    add(P .. 'leases', lease_end, ref)
    rows[#rows + 1] = { ref, epoch, task, progress or '', submitted, enqueued,
      text(tonumber(cost) - tonumber(shares or '0')), waited or '0', raised or '', losses or '' }
  end
end

local suspects = P .. 'suspects:' .. queue
if redis.call('EXISTS', suspects) == 1 then
  if idle then
    claim(redis.call('ZPOPMIN', suspects)[1])
    apply(now)
  end
  return { text(now), until_due, 1, rows }
end

if is_pool(queue) then
  for _, ref in ipairs(redis.call('ZRANGEBYSCORE', waiting, '-inf', ARGV[5] ~= '' and ARGV[5] or '+inf', 'LIMIT', 0, want)) do
    remove(waiting, ref)
    claim(ref)
  end
  apply(now)
  return { text(now), until_due, 0, rows }
end

local taken = redis.call('ZPOPMIN', waiting, want)
for i = 1, #taken, 2 do
  claim(taken[i])
end
if #taken > 0 then
  if redis.call('EXISTS', waiting) == 1 then
    local score = tonumber(taken[#taken])
    local turn = score % TURNS_PER_PRIORITY
    turns[queue] = { ['|' .. text((turn - score) / TURNS_PER_PRIORITY)] = turn }
    woken[queue] = true
  else
    redis.call('DEL', P .. 'turns:' .. queue)
  end
  apply(now)
end
return { text(now), until_due, 0, rows }
