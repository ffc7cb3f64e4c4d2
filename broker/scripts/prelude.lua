-- Shared by every script of this folder; broker/store.py puts it in front of each.
--
-- Fields of a task's record (laneway:task:<ref>):
--   task      the submission, packed            progress  how far it has come, packed
--   digest    of the submission                 outcome   what it ended as, packed
--   status    queued running parked or an end   queue     where it waits or was taken from
--   epoch     grows with each claim             done      the last epoch that was committed
--   starts    attempts begun without an end     call      the fact to book if the call is never settled
--   reserved  nano-dollars held for that call   cost      nano-dollars booked
--   seq       facts written                     cancel    1 when somebody asked for its end
--   lost:<epoch>  what was booked for a claim that never came back
--   submitted, enqueued, started, finished      microseconds of Redis's clock
--   workspace, priority

local P = 'laneway:'
local ENDS = { succeeded = true, failed = true, budget_exceeded = true, cancelled = true }

local function text(number)
  return string.format('%.0f', number)
end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function task_key(ref)
  return P .. 'task:' .. ref
end

-- Facts of this call: numbered per task, written as one stream entry.
local facts = {}

local function book(ref, submitted, blobs)
  local count = #blobs
  if count == 0 then
    return
  end
  local seq = redis.call('HINCRBY', task_key(ref), 'seq', count) - count
  for i = 1, count do
    facts[#facts + 1] = { ref, submitted, seq + i, blobs[i] }
  end
end

local function publish(now)
  if #facts > 0 then
    redis.call('XADD', P .. 'events', '*', 'b', cmsgpack.pack({ now, facts }))
  end
end

-- Queues. A place in a queue is a turn: each workspace's tasks take turns one apart, starting from the turn that is now
-- served, so that a workspace with a long backlog does not hold up another's first task (start-time fair queueing).
-- A priority is worth 2^40 turns.
local TURNS_PER_PRIORITY = 1099511627776
local woken = {}

local function wake(queue)
  if not woken[queue] then
    woken[queue] = true
    if redis.call('LLEN', P .. 'wake:' .. queue) == 0 then
      redis.call('RPUSH', P .. 'wake:' .. queue, '1')
    end
  end
end

local function enqueue(queue, ref, workspace, priority)
  local turns = P .. 'turns:' .. queue
  local known = redis.call('HMGET', turns, '', workspace)
  local turn = math.max(tonumber(known[1] or '0'), tonumber(known[2] or '0')) + 1
  redis.call('HSET', turns, workspace, text(turn))
  redis.call('ZADD', P .. 'queue:' .. queue, text(turn - priority * TURNS_PER_PRIORITY), ref)
  wake(queue)
end

local function served(queue, score)
  local turn = score % TURNS_PER_PRIORITY
  redis.call('HSET', P .. 'turns:' .. queue, '', text(turn))
end

-- Ends and waits.
local function tell_watchers(ref)
  local watch = P .. 'watch:' .. ref
  local readers = redis.call('SMEMBERS', watch)
  for i = 1, #readers do
    redis.call('RPUSH', readers[i], ref)
    redis.call('EXPIRE', readers[i], 3600)
  end
  if #readers > 0 then
    redis.call('DEL', watch)
  end
end

local function finish(ref, now, ttl)
  local key = task_key(ref)
  redis.call('HSET', key, 'finished', text(now))
  redis.call('HDEL', key, 'call', 'reserved')
  redis.call('ZREM', P .. 'open', ref)
  redis.call('EXPIRE', key, ttl)
  redis.call('EXPIRE', P .. 'ids:' .. string.match(ref, '/(.*)$'), ttl)
  tell_watchers(ref)
end

local function dead_letter(id, now, cause, queue, starts, body)
  redis.call('HSET', P .. 'dead', id, cmsgpack.pack({ 1, now, cause, queue, starts, body }))
end

local function keep_for_ever(ref)
  redis.call('PERSIST', task_key(ref))
  redis.call('PERSIST', P .. 'ids:' .. string.match(ref, '/(.*)$'))
end

-- Codes of facts that scripts write themselves: places in broker/events.py KINDS.
local FINISHED, DEAD_LETTERED = 6, 7

-- A claim that did not come back: what its call had reserved is booked, and the task goes on or is a dead letter.
-- rules = { max_starts, ttl, cancelled fact, cancelled outcome, failed outcome of a dead letter }
local function give_up(ref, now, cause, rules)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'status', 'epoch', 'done', 'starts', 'call', 'reserved', 'cancel',
    'queue', 'submitted', 'workspace', 'priority')
  local status, epoch, starts, queue = h[1], h[2], tonumber(h[4] or '0'), h[8]
  redis.call('ZREM', P .. 'leases', ref)
  if not status or ENDS[status] or h[3] == epoch then
    return 'ended'
  end
  local submitted = tonumber(h[9])
  local reserved = h[6] or '0'
  if h[5] then
    book(ref, submitted, { h[5] })
    redis.call('HINCRBY', key, 'cost', reserved)
  end
  redis.call('HDEL', key, 'call', 'reserved')
  redis.call('HSET', key, 'lost:' .. epoch, reserved, 'done', epoch, 'status', 'queued')
  if h[7] then
    redis.call('HSET', key, 'status', 'cancelled', 'outcome', rules[4])
    book(ref, submitted, { rules[3] })
    finish(ref, now, rules[2])
    return 'cancelled'
  end
  if starts >= rules[1] then
    book(ref, submitted, {
      cmsgpack.pack({ 1, DEAD_LETTERED, cause, starts }),
      cmsgpack.pack({ 1, FINISHED, 'failed', false, '', 'dead letter: ' .. cause }),
    })
    redis.call('HSET', key, 'status', 'failed', 'outcome', rules[5])
    dead_letter(ref, now, cause, queue, starts, '')
    finish(ref, now, rules[2])
    keep_for_ever(ref)
    return 'dead'
  end
  if starts > 0 and starts >= rules[1] - 1 then
    redis.call('ZADD', P .. 'suspects:' .. queue, text(now), ref)
    wake(queue)
  else
    enqueue(queue, ref, h[10], tonumber(h[11]))
  end
  redis.call('HSET', key, 'enqueued', text(now))
  return 'requeued'
end
