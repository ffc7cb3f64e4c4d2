-- ARGV[1] = [[ref, epoch, cost, status, queue, delay_us, progress, outcome, attempt facts, move facts, cause,
-- scopes, overrun, soft limit, tally, family, awaits, late, submitted], …]. A cause makes the task a dead letter too; an overrun
-- closes the limited scopes; who watches budgets is told once of a task that passes its soft limit (below 0: it has
-- none). Of a call that was booked as lost the late facts are written in place of the attempt facts, where there are any.
-- ARGV[2..6] = rules of give_up, ARGV[7] = lease in microseconds, ARGV[8] = the facts where they are packed together
-- (prelude.lua).
-- Settles the call, writes the facts and takes the task to its next place, all or nothing for each task.
-- A status of running is a step within the task: it stays in the same hands, under the next epoch and a new lease.
-- One word a task: moved, goes on|epoch (a step), done before (a repeated commit), late (another holds it, or Redis has lost
-- the claim or the task, in a failover or a power loss: only the cost is booked), cancelled.
group = ARGV[8]
local now = clock()
local at, day = text(now), day_of(now)
local rules = { tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] }
local lease = tonumber(ARGV[7])

-- Until the sub-task has ended, or the time is over in which nobody told that it has. False: it has ended already.
local function wait_for(ref, awaited, queue, latest)
  local status = redis.call('HGET', task_key(awaited), 'status')
  if not status or ENDS[status] then
    return false
  end
  redis.call('SADD', P .. 'watch:' .. awaited, 'task|' .. ref)
  redis.call('EXPIRE', P .. 'watch:' .. awaited, 604800)
  redis.call('HSET', task_key(awaited), 'watched', '1')
  redis.call('ZADD', P .. 'later:' .. queue, text(latest), ref)
  woken[queue] = true
  return true
end

-- The place of a task that goes on.
local function place(ref, queue, delay, awaits, workspace, priority)
  if awaits ~= '' and wait_for(ref, awaits, queue, now + delay) then
    return
  end
  if delay > 0 and awaits == '' then
    add(P .. 'later:' .. queue, text(now + delay), ref)
    woken[queue] = true
  else
    enqueue(queue, ref, workspace, priority)
  end
end

local function count_in_rates(tally, status, cost)
  local rates = P .. 'rates:' .. window(day, 'month')
  change(rates, tally .. '|tries', status == 'running' and 0 or 1)
  change(rates, tally .. '|successes', status == 'succeeded' and 1 or 0)
  change(rates, tally .. '|nano', cost)
end

local function commit(item)
  local ref, epoch, cost, status, queue, delay, progress, outcome, attempts, moves, cause, scopes, overrun, soft, tally,
    family, awaits, late, came = unpack(item)
  local key = task_key(ref)
  local lost_field = 'lost:' .. epoch
  local h = redis.call('HMGET', key, 'epoch', 'done', 'cancel', 'submitted', 'workspace', 'priority', lost_field, 'queue',
    'seq', 'cost', 'call', 'watched', 'reserved', 'held', 'soft', 'human', 'stepped', 'scopes', 'shares', 'ended')
  if h[1] and came > 0 and tonumber(h[4]) ~= came then
    h = {} -- a later task of the same id
  end
  local current, done, cancel, submitted, workspace, priority, lost, from, seq, spent, call, watched, reserved, held,
    told_of_soft, human, stepped, held_scopes, shares, ended = unpack(h, 1, 20)
  local gone = not current and P .. 'gone:' .. ref .. '|' .. text(came)
  local before = gone and redis.call('GET', gone) or ended_of(ended, done)
  ended = ended_with(before, epoch)
  submitted, seq, spent = tonumber(submitted or came), tonumber(seq or '0'), tonumber(spent or '0')

  if current and stepped == epoch .. ' ' .. current then
    return 'goes on|' .. current
  end
  if not lost and (done == epoch or has_ended(before, epoch)
    or gone and now - came >= rules[2] * 1000000) then -- its record came to its time
    return 'done before'
  end

  if lost or current ~= epoch then
    late = #late > 0 and late or attempts
    if #late > 0 then -- an amount of which no fact says anything would be in no ledger
      seq = book(ref, submitted, seq, late)
      -- What Redis has lost was paid all the same: as if it had been booked at nothing.
      local booked, booked_day = string.match(lost or ('0 ' .. day), '^(%-?%d+) (.*)$')
      if gone then
        redis.call('SET', gone, ended, 'EX', 86400)
      else
        redis.call('HSET', key, 'ended', ended, 'seq', text(seq), 'cost', text(spent + cost - tonumber(booked)),
          'losses', lost_calls(key, late))
        redis.call('HDEL', key, lost_field)
      end
      use(booked_day, scopes, cost - tonumber(booked))
      use_of_family(family, cost - tonumber(booked))
      if overrun == 1 then
        close_scopes(now, booked_day, scopes)
      end
    end
    return 'late'
  end

  if cancel then
    status, queue, outcome, moves, cause = 'cancelled', '', rules[4], { rules[3] }, ''
  end
  seq = book(ref, submitted, book(ref, submitted, seq, attempts), moves)
  local fields = { 'done', epoch, 'ended', ended, 'status', status, 'starts', '0', 'enqueued', at, 'seq', text(seq),
    'cost', text(spent + cost), 'queue', queue ~= '' and queue or from }
  if progress ~= '' then
    fields[#fields + 1] = 'progress'
    fields[#fields + 1] = progress
  end
  if outcome ~= '' then
    fields[#fields + 1] = 'outcome'
    fields[#fields + 1] = outcome
  end
  if ENDS[status] then
    fields[#fields + 1] = 'finished'
    fields[#fields + 1] = at
  end
  redis.call('HSET', key, unpack(fields))

  reserved = held and tonumber(reserved) or 0
  if held and scopes == '' then -- of a record that nobody could read
    scopes, family = held_scopes, redis.call('HGET', key, 'above') or ''
  end
  use(held or day, scopes, cost - reserved)
  use_of_family(family, cost - reserved)
  if call then
    hold(held, scopes, -reserved)
    redis.call('HDEL', key, 'call', 'reserved', 'held', 'batch')
  end
  if held then
    alerts(now, held, scopes)
  end
  local own = spent + cost - tonumber(human or '0') - tonumber(shares or '0')
  if soft >= 0 and own >= soft and not told_of_soft then
    redis.call('HSET', key, 'soft', '1')
    redis.call('RPUSH', P .. 'alerts', cmsgpack.pack({ 1, now, 'task:' .. ref, 'soft', '', 100, own, soft }))
  end
  if tally ~= '' then
    count_in_rates(tally, status, cost)
  end
  if overrun == 1 then
    close_scopes(now, held or day, scopes)
  end

  remove(P .. 'leases', ref)
  if ENDS[status] then
    finish(ref, now, rules[2], watched, cause ~= '')
    if cause ~= '' then
      dead_letter(ref, now, cause, from, 0, '')
    end
  elseif status == 'parked' then
    remove(P .. 'open', ref)
    add(P .. 'parked', at, ref)
    if watched then
      tell_watchers(ref)
    end
  elseif status == 'running' then
    local next_epoch = epoch_after(epoch, submitted, now)
    redis.call('HSET', key, 'stepped', epoch .. ' ' .. next_epoch, 'epoch', next_epoch)
    add(P .. 'leases', text(now + lease), ref)
    return 'goes on|' .. next_epoch
  else
    place(ref, queue, delay, awaits, workspace, tonumber(priority))
  end
  return status == 'cancelled' and 'cancelled' or 'moved'
end

local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  words[i] = commit(item)
end
apply(now)
return words
