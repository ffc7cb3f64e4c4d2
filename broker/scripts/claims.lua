-- ARGV[1] = [[ref, epoch], …], ARGV[2] = 1 for stale ones too: the claims of tasks that a batch holds, each as fetch.lua
-- gives it, or false for one that was lost or settled meanwhile.
local stale = ARGV[2] == '1'
local rows = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch = unpack(item)
  local current, done, task, progress, submitted, enqueued, cost, waited, raised, losses, shares = unpack(
    redis.call('HMGET', task_key(ref), 'epoch', 'done', 'task', 'progress', 'submitted', 'enqueued', 'cost', 'waited',
      'raised', 'losses', 'shares'))
  if task and (stale or (current == epoch and done ~= epoch)) then
    rows[i] = { ref, epoch, task, progress or '', submitted, enqueued,
      text(tonumber(cost) - tonumber(shares or '0')), waited or '0', raised or '', losses or '' }
  else
    rows[i] = false
  end
end
return rows
