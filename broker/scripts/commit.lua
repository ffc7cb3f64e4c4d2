-- ARGV[1] = [[ref, epoch, cost, status, queue, delay_us, progress, outcome, attempt facts, move facts, cause], …]
-- A cause makes the task a dead letter too.
-- ARGV[2] = time to live of an ended record in seconds, ARGV[3] = fact and ARGV[4] = outcome of a cancelled task.
-- Settles the call, writes the facts and takes the task to its next place, all or nothing for each task.
-- One word a task: moved, done before (a repeated commit), late (another holds it: only its cost is booked), cancelled.
local now = clock()
local at = text(now)
local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch, cost, status, queue, delay, progress, outcome, attempts, moves, cause = unpack(item)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'epoch', 'done', 'cancel', 'submitted', 'workspace', 'priority', 'lost:' .. epoch, 'queue')
  local submitted = tonumber(h[4] or '0')
  if h[7] then
    book(ref, submitted, attempts)
    redis.call('HINCRBY', key, 'cost', text(cost - tonumber(h[7])))
    redis.call('HDEL', key, 'lost:' .. epoch)
    words[i] = 'late'
  elseif h[1] ~= epoch or h[2] == epoch then
    words[i] = 'done before'
  else
    book(ref, submitted, attempts)
    if cost ~= 0 then
      redis.call('HINCRBY', key, 'cost', text(cost))
    end
    redis.call('ZREM', P .. 'leases', ref)
    if h[3] then
      status, queue, outcome, moves = 'cancelled', '', ARGV[4], { ARGV[3] }
    end
    book(ref, submitted, moves)
    redis.call('HSET', key, 'done', epoch, 'status', status, 'starts', '0', 'enqueued', at)
    if progress ~= '' then
      redis.call('HSET', key, 'progress', progress)
    end
    if queue ~= '' then
      redis.call('HSET', key, 'queue', queue)
    end
    redis.call('HDEL', key, 'call', 'reserved')
    if outcome ~= '' then
      redis.call('HSET', key, 'outcome', outcome)
    end
    if ENDS[status] then
      finish(ref, now, tonumber(ARGV[2]))
      if cause ~= '' then
        dead_letter(ref, now, cause, h[8], 0, '')
        keep_for_ever(ref)
      end
    elseif status == 'parked' then
      redis.call('ZREM', P .. 'open', ref)
      redis.call('ZADD', P .. 'parked', at, ref)
      tell_watchers(ref)
    elseif delay > 0 then
      redis.call('ZADD', P .. 'later:' .. queue, text(now + delay), ref)
      wake(queue)
    else
      enqueue(queue, ref, h[5], tonumber(h[6]))
    end
    words[i] = status == 'cancelled' and 'cancelled' or 'moved'
  end
end
publish(now)
return words
