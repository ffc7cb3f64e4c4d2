-- Begins to share out the machines of the day ARGV[1]: who began last may tell what each call has of it (allot.lua), for
-- who slept since knows fewer calls. Until that is told to its end (shared.lua) the day stands among those that are not.
-- ARGV[2], ARGV[3], … = a lane and its machine, as they are set now; of a lane that was
-- taken out since the day was first shared out the machine is still known. Gives {its turn, lane, machine, …}, or nothing
-- where no lane has one.
local key = P .. 'sharing:' .. ARGV[1]
if #ARGV == 1 and redis.call('EXISTS', key) == 0 then
  return {}
end
local found = { redis.call('HINCRBY', key, 'turn', '1') }
redis.call('HSET', P .. 'sharing', ARGV[1], text(found[1]))
for i = 2, #ARGV, 2 do
  redis.call('HSET', key, 'lane:' .. ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', key, KEPT_S)
local rows = redis.call('HGETALL', key)
for i = 1, #rows, 2 do
  if rows[i] ~= 'turn' then
    found[#found + 1] = string.sub(rows[i], 6)
    found[#found + 1] = rows[i + 1]
  end
end
return found
