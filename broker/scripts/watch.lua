-- ARGV[1] = reply list, ARGV[2..] = refs. Every ref that is at its end or parked goes on the list now, the others when
-- they get there. Gives how many are unknown.
local unknown = 0
for i = 2, #ARGV do
  local ref = ARGV[i]
  local status = redis.call('HGET', task_key(ref), 'status')
  if not status then
    unknown = unknown + 1
  elseif ENDS[status] or status == 'parked' then
    redis.call('RPUSH', ARGV[1], ref)
  else
    redis.call('SADD', P .. 'watch:' .. ref, ARGV[1])
    redis.call('EXPIRE', P .. 'watch:' .. ref, 604800)
    redis.call('HSET', task_key(ref), 'watched', '1')
  end
end
redis.call('EXPIRE', ARGV[1], 3600)
return unknown
