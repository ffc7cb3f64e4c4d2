-- ARGV = ref, time to live, fact and outcome of a cancelled task. What waits ends at once; what runs ends when its
-- worker settles the call. Gives the status now, or '' for an unknown task.
local now = clock()
local ref = ARGV[1]
local key = task_key(ref)
local h = redis.call('HMGET', key, 'status', 'queue', 'submitted')
if not h[1] then
  return ''
end
if ENDS[h[1]] then
  return h[1]
end
if redis.call('ZSCORE', P .. 'leases', ref) then
  redis.call('HSET', key, 'cancel', '1')
  return 'cancelling'
end
for _, place in ipairs({ 'queue:', 'later:', 'suspects:' }) do
  redis.call('ZREM', P .. place .. h[2], ref)
end
redis.call('ZREM', P .. 'parked', ref)
redis.call('HSET', key, 'status', 'cancelled', 'outcome', ARGV[4])
book(ref, tonumber(h[3]), { ARGV[3] })
finish(ref, now, tonumber(ARGV[2]))
publish(now)
return 'cancelled'
