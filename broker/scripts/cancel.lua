-- ARGV = ref, time to live, fact and outcome of a cancelled task. What waits ends at once; what runs ends when its
-- worker settles the call. Gives the status now, or '' for an unknown task.
local now = clock()
local ref = ARGV[1]
local key = task_key(ref)
local h = redis.call('HMGET', key, 'status', 'queue', 'submitted', 'seq', 'watched', 'batch')
if not h[1] then
  return ''
end
if ENDS[h[1]] then
  return h[1]
end
if h[6] or redis.call('ZSCORE', P .. 'leases', ref) then
  redis.call('HSET', key, 'cancel', '1')
  return 'cancelling'
end
for _, place in ipairs({ 'queue:', 'later:', 'suspects:' }) do
  remove(P .. place .. h[2], ref)
end
remove(P .. 'parked', ref)
local seq = book(ref, tonumber(h[3]), tonumber(h[4]), { ARGV[3] })
redis.call('HSET', key, 'status', 'cancelled', 'outcome', ARGV[4], 'finished', text(now), 'seq', text(seq))
finish(ref, now, tonumber(ARGV[2]), h[5])
apply(now)
return 'cancelled'
