-- ARGV[1] = [ref, status, queue, progress, outcome, cost, facts, scopes, hard limit, epoch, other limits, over],
-- ARGV[2] = time to live of an end. A parked task goes on (status queued, on a queue) or gets its end from a person. A
-- queue, progress, outcome or other limits of '' and a hard limit below 0 leave what there is; other limits are put over
-- those of the same name alone. Gives its status before, '' for an unknown task; only parked ones are moved, and none
-- that was claimed since the given epoch ('': any): changed. How long it waited is kept with it. The cost is that of a
-- person's work: where it fits no limit the word is why, as in begin.lua, and nothing is done; over = 1 books it all the
-- same.
local now = clock()
local ref, status, queue, progress, outcome, cost, blobs, scopes, hard, epoch, raised, over =
  unpack(cmsgpack.unpack(ARGV[1]))
local key = task_key(ref)
local before, from, workspace, priority, submitted, seq, spent, watched, current, since, limits = unpack(redis.call(
  'HMGET', key, 'status', 'queue', 'workspace', 'priority', 'submitted', 'seq', 'cost', 'watched', 'epoch', 'enqueued',
  'raised'))
if not before then
  return ''
end
if hard >= 0 then
  redis.call('HSET', key, 'hard', text(hard))
end
if raised ~= '' then
  limits = limits and cmsgpack.unpack(limits) or {}
  for name, limit in pairs(cmsgpack.unpack(raised)) do
    limits[name] = limit
  end
  redis.call('HSET', key, 'raised', cmsgpack.pack(limits))
end
if before ~= 'parked' then
  return before
end
if epoch ~= '' and epoch ~= current then
  return 'changed'
end
if cost > 0 and over == 0 then
  local why = refusal(now, day_of(now), scopes, cost, 0, -1)
  if why then
    apply(now)
    return why
  end
end
seq = book(ref, tonumber(submitted), tonumber(seq), blobs)
use(day_of(now), scopes, cost)
alerts(now, day_of(now), scopes)
redis.call('HINCRBY', key, 'waited', text(now - tonumber(since)))
redis.call('HINCRBY', key, 'human', text(cost))
queue = queue ~= '' and queue or from
local fields = { 'status', status, 'enqueued', text(now), 'seq', text(seq), 'cost', text(tonumber(spent) + cost),
  'queue', queue }
for name, value in pairs({ progress = progress, outcome = outcome }) do
  if value ~= '' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
redis.call('HSET', key, unpack(fields))
remove(P .. 'parked', ref)
if ENDS[status] then
  redis.call('HSET', key, 'finished', text(now))
  add(P .. 'reviewed', text(now), ref)
  finish(ref, now, tonumber(ARGV[2]), watched)
else
  redis.call('HDEL', key, 'outcome')
  add(P .. 'open', text(now), ref)
  enqueue(queue, ref, workspace, tonumber(priority))
end
apply(now)
return 'parked'
