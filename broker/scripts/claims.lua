-- ARGV[1] = [[ref, epoch], …], ARGV[2] = 1 for stale ones too: the claims of tasks that a batch holds, each as fetch.lua
-- gives it, or false for one that was lost or settled meanwhile.
local stale = ARGV[2] == '1'
local rows = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch = unpack(item)
  local h = redis.call('HMGET', task_key(ref), 'task', 'progress', 'submitted', 'enqueued', 'cost', 'waited', 'raised',
    'epoch', 'done', 'losses', 'shares')
  if h[1] and (stale or (h[8] == epoch and h[9] ~= epoch)) then
    local cost = text(tonumber(h[5]) - tonumber(h[11] or '0'))
    rows[i] = { ref, epoch, h[1], h[2] or '', h[3], h[4], cost, h[6] or '0', h[7] or '', h[10] or '' }
  else
    rows[i] = false
  end
end
return rows
