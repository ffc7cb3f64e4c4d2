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
--   watched   1 when somebody waits for its end
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

-- A script works on many tasks at a time. What it adds to or takes from shared sets is gathered here and written once,
-- by apply(): a call from Lua costs more than the command it makes.
local added, removed = {}, {}

local function add(set, score, member)
  local list = added[set] or {}
  added[set] = list
  list[#list + 1] = score
  list[#list + 1] = member
end

local function remove(set, member)
  local list = removed[set] or {}
  removed[set] = list
  list[#list + 1] = member
end

local function in_parts(command, key, list)
  for first = 1, #list, 2000 do
    redis.call(command, key, unpack(list, first, math.min(first + 1999, #list)))
  end
end

-- Facts of this call: numbered per task, written as one stream entry. Gives the task's new count.
local facts = {}

local function book(ref, submitted, seq, blobs)
  for i = 1, #blobs do
    facts[#facts + 1] = { ref, submitted, seq + i, blobs[i] }
  end
  return seq + #blobs
end

-- Queues. A place in a queue is a turn: each workspace's tasks take turns one apart, starting from the turn that is now
-- served, so that a workspace with a long backlog does not hold up another's first task (start-time fair queueing).
-- A priority is worth 2^40 turns.
local TURNS_PER_PRIORITY = 1099511627776
local turns = {}
local woken = {}

local function turn_of(queue, workspace)
  local known = turns[queue]
  if not known then
    known = {}
    turns[queue] = known
  end
  if not known[workspace] then
    known[workspace] = tonumber(redis.call('HGET', P .. 'turns:' .. queue, workspace) or '0')
  end
  return known[workspace]
end

local function enqueue(queue, ref, workspace, priority)
  local turn = math.max(turn_of(queue, ''), turn_of(queue, workspace)) + 1
  turns[queue][workspace] = turn
  add(P .. 'queue:' .. queue, text(turn - priority * TURNS_PER_PRIORITY), ref)
  woken[queue] = true
end

local function apply(now)
  for set, list in pairs(removed) do
    in_parts('ZREM', set, list)
  end
  for set, list in pairs(added) do
    in_parts('ZADD', set, list)
  end
  for queue, known in pairs(turns) do
    local list = {}
    for workspace, turn in pairs(known) do
      list[#list + 1] = workspace
      list[#list + 1] = text(turn)
    end
    in_parts('HSET', P .. 'turns:' .. queue, list)
  end
  for queue in pairs(woken) do
    if redis.call('LLEN', P .. 'wake:' .. queue) == 0 then
      redis.call('RPUSH', P .. 'wake:' .. queue, '1')
    end
  end
  if #facts > 0 then
    redis.call('XADD', P .. 'events', '*', 'b', cmsgpack.pack({ now, facts }))
  end
  added, removed, turns, woken, facts = {}, {}, {}, {}, {}
end

-- Ends and waits.
local function tell_watchers(ref)
  local watch = P .. 'watch:' .. ref
  local readers = redis.call('SMEMBERS', watch)
  for i = 1, #readers do
    redis.call('RPUSH', readers[i], ref)
    redis.call('EXPIRE', readers[i], 3600)
  end
  redis.call('DEL', watch)
  redis.call('HDEL', task_key(ref), 'watched')
end

-- The record is at its end: it lives on for ttl seconds. The caller has written its status and outcome.
local function finish(ref, ttl, watched)
  remove(P .. 'open', ref)
  redis.call('EXPIRE', task_key(ref), ttl)
  redis.call('EXPIRE', P .. 'ids:' .. string.match(ref, '/(.*)$'), ttl)
  if watched then
    tell_watchers(ref)
  end
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
-- rules = { max_starts, ttl, cancelled fact, cancelled outcome, outcome of a dead letter }
local function give_up(ref, now, cause, rules)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'status', 'epoch', 'done', 'starts', 'call', 'reserved', 'cancel',
    'queue', 'submitted', 'workspace', 'priority', 'seq', 'cost', 'watched')
  local status, epoch, starts, queue = h[1], h[2], tonumber(h[4] or '0'), h[8]
  remove(P .. 'leases', ref)
  if not status or ENDS[status] or h[3] == epoch then
    return 'ended'
  end
  local at, submitted, seq, cost = text(now), tonumber(h[9]), tonumber(h[12]), tonumber(h[13])
  local reserved = h[6] or '0'
  if h[5] and h[5] ~= '' then
    seq = book(ref, submitted, seq, { h[5] })
    cost = cost + tonumber(reserved)
  end
  local word, outcome = 'requeued', false
  if h[7] then
    seq = book(ref, submitted, seq, { rules[3] })
    word, status, outcome = 'cancelled', 'cancelled', rules[4]
  elseif starts >= rules[1] then
    seq = book(ref, submitted, seq, {
      cmsgpack.pack({ 1, DEAD_LETTERED, cause, starts }),
      cmsgpack.pack({ 1, FINISHED, 'failed', false, '', 'dead letter: ' .. cause }),
    })
    word, status, outcome = 'dead', 'failed', rules[5]
    dead_letter(ref, now, cause, queue, starts, '')
  else
    status = 'queued'
    if starts > 0 and starts >= rules[1] - 1 then
      add(P .. 'suspects:' .. queue, at, ref)
      woken[queue] = true
    else
      enqueue(queue, ref, h[10], tonumber(h[11]))
    end
  end
  redis.call('HDEL', key, 'call', 'reserved')
  redis.call('HSET', key, 'lost:' .. epoch, reserved, 'done', epoch, 'status', status, 'enqueued', at,
    'seq', text(seq), 'cost', text(cost))
  if outcome then
    redis.call('HSET', key, 'outcome', outcome, 'finished', at)
    finish(ref, rules[2], h[14])
    if word == 'dead' then
      keep_for_ever(ref)
    end
  end
  return word
end
