-- ARGV[1] = [[ref, submitted, attempt, nano-dollars, fact, scopes], …], ARGV[2] = the day whose money it is, ARGV[3] = the
-- turn of who shares it out (share.lua). The parts that attempts have of a machine's day beside what they were booked at.
-- One that is told again replaces what was told before, and one that is told unchanged does nothing. Gives how many
-- changed; what has no record any more, or that of a later task of the same id, is left. Nothing is told, and nothing
-- given, where somebody began after that turn.
-- ARGV[4] = the facts where they are packed together (prelude.lua).
group = ARGV[4]
local now = clock()
local day = ARGV[2]
if redis.call('HGET', P .. 'sharing:' .. day, 'turn') ~= ARGV[3] then
  return false
end
local changed = 0
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, submitted, attempt, nano, fact, scopes = unpack(item)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'submitted', 'seq', 'cost', 'part:' .. attempt, 'shares')
  local by = nano - tonumber(h[4] or '0')
  local shares = tonumber(h[5] or '0')
  if h[1] and tonumber(h[1]) == submitted and by ~= 0 then
    if h[4] and not h[5] then -- told by a version that kept no sum of them
      local fields = redis.call('HGETALL', key)
      for i = 1, #fields, 2 do
        if string.sub(fields[i], 1, 5) == 'part:' then
          shares = shares + tonumber(fields[i + 1])
        end
      end
    end
    redis.call('HSET', key, 'seq', text(book(ref, submitted, tonumber(h[2]), { fact })), 'cost', text(tonumber(h[3]) + by),
      'part:' .. attempt, text(nano), 'shares', text(shares + by))
    use(day, scopes, by)
    changed = changed + 1
  end
end
apply(now)
return changed
