-- ARGV = ref, fact that it goes on. A dead letter goes back to its queue with its id, story and spend; how long it lay
-- does not count against its deadline. Gives 1, or 0 where there is no such dead letter of a task.
local now = clock()
local ref = ARGV[1]
local key = task_key(ref)
local h = redis.call('HMGET', key, 'queue', 'workspace', 'priority', 'submitted', 'seq', 'finished')
if redis.call('HEXISTS', P .. 'dead', ref) == 0 or not h[1] then
  return 0
end
redis.call('HDEL', P .. 'dead', ref)
local seq = book(ref, tonumber(h[4]), tonumber(h[5]), { ARGV[2] })
redis.call('HSET', key, 'status', 'queued', 'starts', '0', 'enqueued', text(now), 'seq', text(seq))
redis.call('HINCRBY', key, 'waited', text(now - tonumber(h[6] or now)))
redis.call('HDEL', key, 'outcome', 'cancel', 'finished')
add(P .. 'open', text(now), ref)
enqueue(h[1], ref, h[2], tonumber(h[3]))
apply(now)
return 1
