-- ARGV = ref, fact: adds a fact to a task at any time of its life. Gives 1, or 0 for an unknown task.
local now = clock()
local submitted = redis.call('HGET', task_key(ARGV[1]), 'submitted')
if not submitted then
  return 0
end
book(ARGV[1], tonumber(submitted), { ARGV[2] })
publish(now)
return 1
