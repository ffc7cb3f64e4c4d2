-- ARGV = day, turn: all that there is to tell of that day of machines is told, unless somebody began after that turn.
if redis.call('HGET', P .. 'sharing', ARGV[1]) == ARGV[2] then
  redis.call('HDEL', P .. 'sharing', ARGV[1])
end
return 1
