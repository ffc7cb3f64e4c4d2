-- Shared by every script of this folder; broker/lua.py puts it in front of each.
--
-- Fields of a task's record (laneway:task:<ref>):
--   task      the submission, packed            progress  how far it has come, packed
--   digest    of the submission                 outcome   what it ended as, packed
--   status    queued running parked or an end   queue     where it waits or was taken from
--   epoch     of the last claim: milliseconds since its submission, or one more than before; fences off those before
--   done      the last epoch that was committed
--   starts    attempts begun without an end     call      the fact to book if the call is never settled
--   reserved  nano-dollars held for that call   cost      nano-dollars booked
--   held      the day of that reservation       scopes    the scopes that it is held in, one a line
--   hard      the task's own limit, once raised  soft      1 once it passed its soft limit
--   raised    its other limits, once raised, packed
--   stepped   the last epoch that ended in a step within the task, and the one that it goes on under
--   ended     all that ended: committed, booked late, or given up with nothing begun, each after a space
--   seq       facts written                     cancel    1 when somebody asked for its end
--   watched   1 when somebody waits for its end
--   part:<attempt>  what it has of its machine's day beside its own cost; in nano-dollars
--   shares    the sum of these: a part of cost, and none of the task's own limits
--   lost:<epoch>  what was booked for a claim that never came back, and in which day
--   losses    facts of calls that were lost, and of those that were settled after all: they go before the progress's
--   submitted, enqueued, started, finished      microseconds of Redis's clock
--   waited    microseconds that it waited for a person
--   human     nano-dollars of people's work: a part of cost, and none of the task's own limits
--   above     refs of the tasks that it is a part of, one a line
--   family    nano-dollars that its sub-tasks have spent and reserved: no part of cost, but of its own limit
--   due       when its deadline is            batch     the provider batch that holds it
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

-- No epoch of a task comes twice, also where Redis has lost what it wrote (a power loss, a failover).
local function epoch_after(last, submitted, now)
  return text(math.max(tonumber(last) + 1, math.floor((now - submitted) / 1000)))
end

-- A list begins with ~ where its first epochs were left out: those of a task that was put back thousands of times.
local function ended_with(list, epoch)
  list = list .. ' ' .. epoch
  return #list <= 2000 and list or '~' .. string.match(string.sub(list, -1000), ' .*$')
end

-- The list of a record: the version before kept none, and had all ended that came before the last one that did.
local function ended_of(list, done)
  return list or (done and '~ ' .. done) or ''
end

local function has_ended(list, epoch)
  return string.find(list .. ' ', ' ' .. epoch .. ' ', 1, true)
    or string.sub(list, 1, 1) == '~' and tonumber(epoch) < tonumber(string.match(list, '%d+'))
end

local function task_key(ref)
  return P .. 'task:' .. ref
end

-- A script works on many tasks at a time. What it adds to or takes from shared sets is gathered here and written once,
-- by apply(): calling Redis from Lua costs more than the command itself.
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

-- Facts of this call: numbered per task, written as one stream entry. Gives the task's new count. A caller of many facts
-- packs them together; what a script is given in place of each is then its number in that group, which goes along whole.
local facts, group = {}, nil

local function book(ref, submitted, seq, blobs)
  for i = 1, #blobs do
    facts[#facts + 1] = { ref, submitted, seq + i, blobs[i] }
  end
  return seq + #blobs
end

-- Queues. A place in a queue is a turn: each workspace's tasks take turns one apart, starting from the turn that is now
-- served, so that a workspace with a long backlog does not hold up another's first task (start-time fair queueing).
-- A priority is worth 2^40 turns, and each priority has turns of its own.
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

-- A pool (lane-<lane>-batch) is in the order of deadlines; what has none comes after a month.
local NO_DEADLINE_US = 30 * 86400000000

local function is_pool(queue)
  return string.sub(queue, -6) == '-batch'
end

local function enqueue(queue, ref, workspace, priority)
  if is_pool(queue) then
    local h = redis.call('HMGET', task_key(ref), 'due', 'submitted')
    add(P .. 'queue:' .. queue, h[1] or text(tonumber(h[2]) + NO_DEADLINE_US), ref)
    return
  end
  local class = '|' .. priority
  local turn = math.max(turn_of(queue, class), turn_of(queue, workspace .. class)) + 1
  turns[queue][workspace .. class] = turn
  add(P .. 'queue:' .. queue, text(turn - priority * TURNS_PER_PRIORITY), ref)
  woken[queue] = true
end

-- Money: integers of nano-dollars, below 2^53. What a scope has used (spent and reserved), and what of it is reserved, is
-- counted in three windows: the UTC day and month of the reservation, and all time.
local function day_of(now)
  local days = math.floor(now / 86400000000) + 719468
  local era = math.floor(days / 146097)
  local of_era = days - era * 146097
  local year_of_era = math.floor(
    (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted = math.floor((5 * of_year + 2) / 153)
  local day = of_year - math.floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  local year = year_of_era + era * 400 + (month <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02d', year, month, day)
end

local function window(day, period)
  return period == 'day' and day or period == 'month' and string.sub(day, 1, 7) or 'total'
end

local PERIODS = { 'day', 'month', 'total' }

-- Amounts read and changed in this call: hash → scope → { as it stood, change }. All scopes of a task are read at once.
local amounts = {}
local lists = {}

local function each(scopes)
  local list = lists[scopes]
  if not list then
    list = {}
    for scope in string.gmatch(scopes, '[^\n]+') do
      list[#list + 1] = scope
    end
    lists[scopes] = list
  end
  return list
end

local function ledger(hash, scopes)
  local known = amounts[hash]
  if not known then
    known = {}
    amounts[hash] = known
  end
  local missing = {}
  for _, scope in ipairs(each(scopes)) do
    if not known[scope] then
      missing[#missing + 1] = scope
    end
  end
  if #missing > 0 then
    local stood = redis.call('HMGET', hash, unpack(missing))
    for i, scope in ipairs(missing) do
      known[scope] = { tonumber(stood[i] or '0'), 0, not stood[i] }
    end
  end
  return known
end

local function counted(what, day, period, scope)
  local pair = ledger(P .. what .. window(day, period), scope)[scope]
  return pair[1] + pair[2]
end

local function used(day, period, scope)
  return counted('used:', day, period, scope)
end

local function change(hash, scopes, by)
  local known = ledger(hash, scopes)
  for _, scope in ipairs(each(scopes)) do
    known[scope][2] = known[scope][2] + by
  end
end

local function count(what, day, scopes, by)
  if by ~= 0 then
    for i = 1, 3 do
      change(P .. what .. window(day, PERIODS[i]), scopes, by)
    end
  end
end

local function use(day, scopes, by)
  count('used:', day, scopes, by)
end

local function hold(day, scopes, by)
  count('held:', day, scopes, by)
end

-- What operators and the configuration say of scopes: limit|scope|period over file|scope|period → nano-dollars,
-- killed|scope → since when, closed|scope|period → the window of an overrun. Every user may have a limit: of many rules
-- only those of the scopes at hand are read, all of a task at once. Few are read whole: up to so many, Redis keeps a hash
-- as a list, in which it takes longer to look for names.
local FEW_RULES = 512
local rules, read_of, how_many = {}, {}, nil

-- Has the rules of these scopes at hand, in "rules". False: there are none of any scope.
local function read_rules(scopes)
  if not how_many then
    how_many = redis.call('HLEN', P .. 'rules')
    if how_many > 0 and how_many <= FEW_RULES then
      local rows = redis.call('HGETALL', P .. 'rules')
      for i = 1, #rows, 2 do
        rules[rows[i]] = rows[i + 1]
      end
    end
  end
  if how_many > FEW_RULES then
    local names = {}
    for _, scope in ipairs(each(scopes)) do
      if not read_of[scope] then
        read_of[scope] = true
        names[#names + 1] = 'killed|' .. scope
        for i = 1, 3 do
          local id = scope .. '|' .. PERIODS[i]
          names[#names + 1] = 'limit|' .. id
          names[#names + 1] = 'file|' .. id
          names[#names + 1] = 'closed|' .. id
        end
      end
    end
    if #names > 0 then
      for i, value in ipairs(redis.call('HMGET', P .. 'rules', unpack(names))) do
        rules[names[i]] = value
      end
    end
  end
  return how_many > 0
end

-- Calls with (period, limit) of each limit of the scope, until told to stop by a true answer, which it gives.
local function under_limits(scope, visit)
  for i = 1, 3 do
    local id = scope .. '|' .. PERIODS[i]
    local limit = rules['limit|' .. id] or rules['file|' .. id]
    if limit then
      local answer = visit(PERIODS[i], tonumber(limit), id)
      if answer then
        return answer
      end
    end
  end
  return false
end

-- Once a window and level, when 50, 80 and 100 parts in a hundred of a limit are spent: what is only reserved comes back
-- for the most part. A cap is never quite reached, for no call leaves that could pass it; it is used up when a call was
-- refused with 80 parts spent.
local function alert(now, day, scope, period, limit, refused)
  local at = used(day, period, scope) - counted('held:', day, period, scope)
  for _, level in ipairs({ 50, 80, 100 }) do
    local reached = refused and math.min(level, 80) or level
    if at * 100 >= limit * reached and limit > 0 then
      local id = scope .. '|' .. period .. '|' .. level
      if redis.call('HSETNX', P .. 'alerted:' .. window(day, period), id, text(now)) == 1 then
        redis.call('RPUSH', P .. 'alerts', cmsgpack.pack({ 1, now, scope, period, window(day, period), level, at, limit }))
      end
    end
  end
end

-- Why a call of this worst case must not leave, or false. A worst case below 0 is an unknown price.
local function refusal(now, day, scopes, worst, spent, hard)
  if hard >= 0 and (worst < 0 or spent + worst > hard) then
    return worst < 0 and 'unpriced|task' or 'over|task||' .. text(hard - spent)
  end
  if not read_rules(scopes) then
    return false
  end
  for _, scope in ipairs(each(scopes)) do
    if rules['killed|' .. scope] then
      return 'killed|' .. scope
    end
  end
  for _, scope in ipairs(each(scopes)) do
    local why = under_limits(scope, function(period, limit, id)
      if worst < 0 then
        return 'unpriced|' .. id
      end
      if rules['closed|' .. id] == window(day, period) then
        return 'closed|' .. id
      end
      local left = limit - used(day, period, scope)
      if worst > left then
        alert(now, day, scope, period, limit, true)
        return 'over|' .. id .. '|' .. text(left) .. '|' .. text(limit)
      end
    end)
    if why then
      return why
    end
  end
  return false
end

-- What a task's sub-tasks have used counts beside its own cost. family = [[ref, hard limit], …] of those that a task is a
-- part of; a limit below 0 is none, and one that was raised goes before it. Records that are gone limit nothing.
local function shared(ref)
  local pair = ledger(task_key(ref), 'family').family
  return pair[1] + pair[2]
end

local function family_refusal(family, worst)
  for _, one in ipairs(family) do
    local h = redis.call('HMGET', task_key(one[1]), 'status', 'hard', 'cost', 'human', 'reserved', 'shares')
    local limit = tonumber(h[2] or one[2])
    if h[1] and limit >= 0 then
      local own = tonumber(h[3]) - tonumber(h[4] or '0') - tonumber(h[6] or '0')
      local left = limit - own - tonumber(h[5] or '0') - shared(one[1])
      if worst < 0 or worst > left then
        return worst < 0 and 'unpriced|task:' .. one[1] or 'over|task:' .. one[1] .. '||' .. text(left)
      end
    end
  end
  return false
end

local function use_of_family(refs, by)
  for ref in string.gmatch(refs, '[^\n]+') do
    if by ~= 0 and redis.call('HEXISTS', task_key(ref), 'status') == 1 then
      change(task_key(ref), 'family', by)
    end
  end
end

local function alerts(now, day, scopes)
  if read_rules(scopes) then
    for _, scope in ipairs(each(scopes)) do
      under_limits(scope, function(period, limit)
        alert(now, day, scope, period, limit)
      end)
    end
  end
end

-- What the provider used is above what was reserved: booked as it was, and nothing more leaves under these limits. Where a
-- later window is closed a call of an earlier one changes nothing: it would open that again.
local function close_scopes(now, day, scopes)
  read_rules(scopes)
  for _, scope in ipairs(each(scopes)) do
    under_limits(scope, function(period, limit, id)
      local span = window(day, period)
      if (rules['closed|' .. id] or '') < span then
        rules['closed|' .. id] = span
        redis.call('HSET', P .. 'rules', 'closed|' .. id, span)
        redis.call('RPUSH', P .. 'alerts',
          cmsgpack.pack({ 1, now, scope, 'closed', span, 100, used(day, period, scope), limit }))
      end
    end)
  end
end

-- Endpoints of providers, shared by all workers of the fleet: laneway:endpoint:<id>
--   failures  in a row                 shut     closed after too many of them, until then
--   probe     one call was let through to try it, until then at the longest
--   blocked   wants no calls until then (its own word)
--   rpm, tpm  requests and tokens a minute that it takes; the configuration's word goes before its own
--   req, tok  when its limits would be whole again (generic cell rate algorithm)
--   pace      the limit a minute by which tok was counted
local MINUTE_US, BURST_US, PROBE_US = 60000000, 10000000, 30000000
local BREAK_AFTER = 5

-- For how long a call must wait before the limit lets it in, and when the limit is whole again after it. A burst of ten
-- seconds' worth is let through at once; a call larger than that waits for an unused limit.
local function paced(now, whole, limit, size)
  whole = math.max(now, whole)
  local longer = size * MINUTE_US / limit
  return math.max(0, whole + math.min(longer, BURST_US) - now - BURST_US), whole + longer
end

-- Whether a call of about so many tokens may go to an endpoint now: 0, or the microseconds to wait; and 1 where that is
-- for its failures.
local function admit(now, endpoint, tokens, rpm, tpm)
  local key = P .. 'endpoint:' .. endpoint
  local h = redis.call('HMGET', key, 'failures', 'shut', 'probe', 'blocked', 'rpm', 'tpm', 'req', 'tok')
  local wait = math.max(0, tonumber(h[4] or '0') - now)
  local fields = {}
  local broken = tonumber(h[1] or '0') >= BREAK_AFTER and 1 or 0
  if broken == 1 then
    wait = math.max(wait, tonumber(h[2]) - now, tonumber(h[3] or '0') - now)
    fields = { 'probe', text(now + PROBE_US) }
  end
  for i, limit in ipairs({ rpm > 0 and rpm or tonumber(h[5] or '0'), tpm > 0 and tpm or tonumber(h[6] or '0') }) do
    if limit > 0 then
      local longer, whole = paced(now, tonumber(h[6 + i] or '0'), limit, i == 1 and 1 or tokens)
      wait = math.max(wait, longer)
      fields[#fields + 1] = i == 1 and 'req' or 'tok'
      fields[#fields + 1] = text(whole)
      if i == 2 then
        fields[#fields + 1] = 'pace'
        fields[#fields + 1] = text(limit)
      end
    end
  end
  if wait == 0 and #fields > 0 then
    redis.call('HSET', key, unpack(fields))
    redis.call('EXPIRE', key, 86400)
  end
  return math.ceil(wait), broken
end

local KEPT_S = 400 * 86400

local function write_amounts()
  for hash, known in pairs(amounts) do
    local list, new = {}, false
    for scope, pair in pairs(known) do
      if pair[2] ~= 0 then
        list[#list + 1] = scope
        list[#list + 1] = text(pair[1] + pair[2])
        new = new or pair[3]
      end
    end
    in_parts('HSET', hash, list)
    if new and string.sub(hash, -5) ~= 'total' and string.sub(hash, 1, #P + 5) ~= P .. 'task:' then
      redis.call('EXPIRE', hash, KEPT_S)
    end
  end
  amounts = {}
end

local function apply(now)
  write_amounts()
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
    redis.call('XADD', P .. 'events', '*', 'b', cmsgpack.pack({ now, facts, group }))
  end
  added, removed, turns, woken, facts = {}, {}, {}, {}, {}
end

-- Ends and waits. A reader is a reply list, or task|<ref> for a task that waits for its sub-task.
local function go_on(ref)
  local h = redis.call('HMGET', task_key(ref), 'queue', 'workspace', 'priority')
  if h[1] and redis.call('ZREM', P .. 'later:' .. h[1], ref) == 1 then
    enqueue(h[1], ref, h[2], tonumber(h[3]))
  end
end

local function tell_watchers(ref)
  local watch = P .. 'watch:' .. ref
  local readers = redis.call('SMEMBERS', watch)
  for i = 1, #readers do
    local waiting = string.match(readers[i], '^task|(.*)$')
    if waiting then
      go_on(waiting)
    else
      redis.call('RPUSH', readers[i], ref)
      redis.call('EXPIRE', readers[i], 3600)
    end
  end
  redis.call('DEL', watch)
  redis.call('HDEL', task_key(ref), 'watched')
end

-- From now on the record lives for ttl seconds, and so does its id, unless another workspace's task of that id lives on.
local function expire(ref, ttl)
  if redis.call('EXPIRE', task_key(ref), ttl) == 0 then -- a stray's, which has no record
    return 0
  end
  local id = string.match(ref, '/(.*)$')
  for _, workspace in ipairs(redis.call('SMEMBERS', P .. 'ids:' .. id)) do
    if redis.call('TTL', task_key(workspace .. '/' .. id)) == -1 then
      return 1
    end
  end
  redis.call('EXPIRE', P .. 'ids:' .. id, ttl)
  return 1
end

-- The task is at its end: its record is kept for ttl seconds, its payload and result for less (keep.lua), a dead letter's
-- until somebody drops it. The caller has written its status and outcome.
local function finish(ref, now, ttl, watched, dead)
  remove(P .. 'open', ref)
  if not dead then
    add(P .. 'results', text(now), ref)
    expire(ref, ttl)
  end
  if watched then
    tell_watchers(ref)
  end
end

local function dead_letter(id, now, cause, queue, starts, body)
  redis.call('HSET', P .. 'dead', id, cmsgpack.pack({ 1, now, cause, queue, starts, body }))
end

-- Codes of facts that scripts write themselves: places in broker/events.py KINDS.
local FINISHED, DEAD_LETTERED = 6, 7

-- The facts of a task's lost calls with these behind them, packed.
local function lost_calls(key, more)
  local packed = redis.call('HGET', key, 'losses')
  local known = packed and cmsgpack.unpack(packed) or {}
  for _, fact in ipairs(more) do
    known[#known + 1] = fact
  end
  return cmsgpack.pack(known)
end

-- A claim that did not come back: what its call had reserved is booked, and the task goes on or is a dead letter.
-- A cause of '' gives back what nobody had begun. Any other one counts as a start, also where it failed before its call.
-- rules = { max_starts, ttl, cancelled fact, cancelled outcome, outcome of a dead letter }
local function give_up(ref, now, cause, rules)
  local key = task_key(ref)
  local status, epoch, done, starts, call, reserved, cancel, queue, submitted, workspace, priority, seq, cost, watched,
    held, scopes, ended = unpack(redis.pcall('HMGET', key, 'status', 'epoch', 'done', 'starts', 'call', 'reserved',
      'cancel', 'queue', 'submitted', 'workspace', 'priority', 'seq', 'cost', 'watched', 'held', 'scopes', 'ended'))
  remove(P .. 'leases', ref)
  if not status or ENDS[status] or done == epoch then
    return 'ended'
  end
  local at = text(now)
  starts, submitted, seq, cost = tonumber(starts or '0'), tonumber(submitted), tonumber(seq), tonumber(cost)
  reserved, ended = reserved or '0', ended_of(ended, done)
  if call and call ~= '' then
    seq = book(ref, submitted, seq, { call })
    cost = cost + tonumber(reserved)
  end
  if held then
    hold(held, scopes, -tonumber(reserved))
    alerts(now, held, scopes)
  end
  if cause ~= '' and not call then
    starts = starts + 1
  end
  local word, outcome = 'requeued', false
  if cancel then
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
      enqueue(queue, ref, workspace, tonumber(priority))
    end
  end
  redis.call('HDEL', key, 'call', 'reserved', 'held', 'batch')
  redis.call('HSET', key, 'done', epoch, 'status', status, 'enqueued', at, 'seq', text(seq), 'cost', text(cost),
    'starts', text(starts), 'ended', call and ended or ended_with(ended, epoch))
  if call then
    redis.call('HSET', key, 'lost:' .. epoch, reserved .. ' ' .. held, 'losses', lost_calls(key, { call }))
  end
  if outcome then
    redis.call('HSET', key, 'outcome', outcome, 'finished', at)
    finish(ref, now, rules[2], watched, word == 'dead')
  end
  return word
end
