-- ARGV = id, time to live: forgets a dead letter; a task's record then ends with its time. Gives 1, or 0 for none.
if redis.call('HDEL', P .. 'dead', ARGV[1]) == 0 then
  return 0
end
if expire(ARGV[1], ARGV[2]) == 1 then
  add(P .. 'results', text(clock()), ARGV[1])
  apply()
end
return 1
