-- ARGV = ref, fact: adds a fact to a task at any time of its life. Gives 1, or 0 for an unknown task.
local now = clock()
local h = redis.call('HMGET', task_key(ARGV[1]), 'submitted', 'seq')
if not h[1] then
  return 0
end
redis.call('HSET', task_key(ARGV[1]), 'seq', text(book(ARGV[1], tonumber(h[1]), tonumber(h[2]), { ARGV[2] })))
apply(now)
return 1
