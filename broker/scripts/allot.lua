-- ARGV[1] = [[ref, attempt, nano-dollars, fact, scopes], …], ARGV[2] = the day whose money it is. The parts that attempts
-- have of a machine's day beside what they were booked at. One that is told again replaces what was told before, and one
-- that is told unchanged does nothing. Gives how many changed; what has no record any more is left.
-- ARGV[3] = the facts where they are packed together (prelude.lua).
group = ARGV[3]
local now = clock()
local day = ARGV[2]
local changed = 0
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, attempt, nano, fact, scopes = unpack(item)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'submitted', 'seq', 'cost', 'part:' .. attempt)
  local by = nano - tonumber(h[4] or '0')
  if h[1] and by ~= 0 then
    redis.call('HSET', key, 'seq', text(book(ref, tonumber(h[1]), tonumber(h[2]), { fact })),
      'cost', text(tonumber(h[3]) + by), 'part:' .. attempt, text(nano))
    use(day, scopes, by)
    changed = changed + 1
  end
end
apply(now)
return changed
