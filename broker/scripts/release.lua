-- ARGV[1] = [[ref, epoch, cause], …], ARGV[2..] = rules of give_up. Claims given back by a worker that failed on them.
-- A cause of '' gives back what was never begun.
local now = clock()
local words = {}
local rules = { tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6] }
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch, cause = unpack(item)
  if redis.call('HGET', task_key(ref), 'epoch') == epoch then
    words[i] = give_up(ref, now, cause, rules)
  else
    words[i] = 'lost'
  end
end
apply(now)
return words
