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
local at = text(now)
local rules = { tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] }

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

local day = day_of(now)
local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch, cost, status, queue, delay, progress, outcome, attempts, moves, cause, scopes, overrun, soft, tally,
    family, awaits, late, came = unpack(item)
  local key = task_key(ref)
  local lost = 'lost:' .. epoch
  local h = redis.call('HMGET', key, 'epoch', 'done', 'cancel', 'submitted', 'workspace', 'priority', lost, 'queue', 'seq',
    'cost', 'call', 'watched', 'reserved', 'held', 'soft', 'human', 'stepped', 'scopes', 'shares', 'ended')
  if h[1] and came > 0 and tonumber(h[4]) ~= came then
    h = {} -- a later task of the same id
  end
  local gone = not h[1] and P .. 'gone:' .. ref .. '|' .. text(came)
  local before = gone and redis.call('GET', gone) or ended_of(h[20], h[2])
  local ended = ended_with(before, epoch)
  local submitted, seq, spent = tonumber(h[4] or came), tonumber(h[9] or '0'), tonumber(h[10] or '0')
  if h[1] and h[17] == epoch .. ' ' .. h[1] then
    words[i] = 'goes on|' .. h[1]
  elseif not h[7] and (h[2] == epoch or has_ended(before, epoch)
    or gone and now - came >= rules[2] * 1000000) then -- its record came to its time
    words[i] = 'done before'
  elseif h[7] or h[1] ~= epoch then
    late = #late > 0 and late or attempts
    if #late > 0 then -- an amount of which no fact says anything would be in no ledger
      seq = book(ref, submitted, seq, late)
      -- What Redis has lost was paid all the same: as if it had been booked at nothing.
      local booked, booked_day = string.match(h[7] or ('0 ' .. day), '^(%-?%d+) (.*)$')
      if gone then
        redis.call('SET', gone, ended, 'EX', 86400)
      else
        redis.call('HSET', key, 'ended', ended, 'seq', text(seq), 'cost', text(spent + cost - tonumber(booked)),
          'losses', lost_calls(key, late))
        redis.call('HDEL', key, lost)
      end
      use(booked_day, scopes, cost - tonumber(booked))
      use_of_family(family, cost - tonumber(booked))
      if overrun == 1 then
        close_scopes(now, booked_day, scopes)
      end
    end
    words[i] = 'late'
  else
    if h[3] then
      status, queue, outcome, moves, cause = 'cancelled', '', rules[4], { rules[3] }, ''
    end
    seq = book(ref, submitted, book(ref, submitted, seq, attempts), moves)
    local next_epoch
    local fields = { 'done', epoch, 'ended', ended, 'status', status, 'starts', '0', 'enqueued', at, 'seq', text(seq),
      'cost', text(spent + cost), 'queue', queue ~= '' and queue or h[8] }
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
    if status == 'running' then
      next_epoch = epoch_after(epoch, submitted, now)
      redis.call('HSET', key, 'stepped', epoch .. ' ' .. next_epoch, 'epoch', next_epoch)
    end
    local reserved = h[14] and tonumber(h[13]) or 0
    if h[14] and scopes == '' then -- of a record that nobody could read
      scopes, family = h[18], redis.call('HGET', key, 'above') or ''
    end
    use(h[14] or day, scopes, cost - reserved)
    use_of_family(family, cost - reserved)
    if h[11] then
      hold(h[14], scopes, -reserved)
      redis.call('HDEL', key, 'call', 'reserved', 'held', 'batch')
    end
    if h[14] then
      alerts(now, h[14], scopes)
    end
    local own = spent + cost - tonumber(h[16] or '0') - tonumber(h[19] or '0')
    if soft >= 0 and own >= soft and not h[15] then
      redis.call('HSET', key, 'soft', '1')
      redis.call('RPUSH', P .. 'alerts', cmsgpack.pack({ 1, now, 'task:' .. ref, 'soft', '', 100, own, soft }))
    end
    if tally ~= '' then
      local rates = P .. 'rates:' .. window(day, 'month')
      change(rates, tally .. '|tries', status == 'running' and 0 or 1)
      change(rates, tally .. '|successes', status == 'succeeded' and 1 or 0)
      change(rates, tally .. '|nano', cost)
    end
    if overrun == 1 then
      close_scopes(now, h[14] or day, scopes)
    end
    remove(P .. 'leases', ref)
    if ENDS[status] then
      finish(ref, now, rules[2], h[12], cause ~= '')
      if cause ~= '' then
        dead_letter(ref, now, cause, h[8], 0, '')
      end
    elseif status == 'parked' then
      remove(P .. 'open', ref)
      add(P .. 'parked', at, ref)
      if h[12] then
        tell_watchers(ref)
      end
    elseif status == 'running' then
      add(P .. 'leases', text(now + tonumber(ARGV[7])), ref)
    elseif awaits ~= '' and wait_for(ref, awaits, queue, now + delay) then
      words[i] = 'moved'
    elseif delay > 0 and awaits == '' then
      add(P .. 'later:' .. queue, text(now + delay), ref)
      woken[queue] = true
    else
      enqueue(queue, ref, h[5], tonumber(h[6]))
    end
    words[i] = status == 'cancelled' and 'cancelled' or status == 'running' and 'goes on|' .. next_epoch or 'moved'
  end
end
apply(now)
return words
