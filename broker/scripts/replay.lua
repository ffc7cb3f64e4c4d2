-- ARGV = ref, fact that it goes on. A dead letter goes back to its queue with its id, story and spend. Gives 1, or 0
-- where there is no such dead letter of a task.
local now = clock()
local ref = ARGV[1]
local key = task_key(ref)
local h = redis.call('HMGET', key, 'queue', 'workspace', 'priority', 'submitted')
if redis.call('HEXISTS', P .. 'dead', ref) == 0 or not h[1] then
  return 0
end
redis.call('HDEL', P .. 'dead', ref)
redis.call('HSET', key, 'status', 'queued', 'starts', '0', 'enqueued', text(now))
redis.call('HDEL', key, 'outcome', 'cancel', 'finished')
redis.call('ZADD', P .. 'open', text(now), ref)
book(ref, tonumber(h[4]), { ARGV[2] })
enqueue(h[1], ref, h[2], tonumber(h[3]))
publish(now)
return 1
