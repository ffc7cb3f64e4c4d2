-- ARGV[1] = batch, ARGV[2] = [[ref, epoch, line], …]: tasks in hand whose calls are recorded go into a batch. From now on
-- the batch holds them, and no lease: they are in place as long as it is there. Gives the lines that were taken in; a claim
-- that was lost meanwhile is not.
local now = clock()
local batch = ARGV[1]
local taken = {}
for _, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local ref, epoch, line = unpack(item)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'epoch', 'done', 'call')
  if h[1] == epoch and h[2] ~= epoch and h[3] then
    redis.call('HSET', key, 'batch', batch)
    redis.call('HSET', P .. 'batch:' .. batch .. ':lines', line, ref .. '|' .. epoch)
    remove(P .. 'leases', ref)
    taken[#taken + 1] = line
  end
end
apply(now)
return taken
