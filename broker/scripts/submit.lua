-- ARGV[1] = [[ref, task_id, workspace, priority, queue, digest, task, fact, deadline in microseconds, parent's ref], …]; refused as a whole when Redis is full.
-- ARGV[2] = the facts where they are packed together (prelude.lua). One word a task: new, same or conflict.
group = ARGV[2]
local now = clock()
local at = text(now)
local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, task_id, workspace, priority, queue, digest, task, fact, deadline, parent = unpack(item)
  local key = task_key(ref)
  local known = redis.call('HGET', key, 'digest')
  if known then
    words[i] = known == digest and 'same' or 'conflict'
  else
    redis.call('HSET', key, 'digest', digest, 'task', task, 'status', 'queued', 'queue', queue, 'epoch', '0',
      'workspace', workspace, 'priority', priority, 'submitted', at, 'enqueued', at, 'cost', '0',
      'seq', text(book(ref, now, 0, { fact })))
    if deadline > 0 then
      redis.call('HSET', key, 'due', text(now + deadline))
    end
    redis.call('SADD', P .. 'ids:' .. task_id, workspace)
    redis.call('PERSIST', P .. 'ids:' .. task_id) -- where another workspace's task of that id has ended
    if parent ~= '' then
      redis.call('SADD', P .. 'parts:' .. parent, ref)
      redis.call('EXPIRE', P .. 'parts:' .. parent, KEPT_S)
      local whole = redis.call('HMGET', task_key(parent), 'status', 'cancel')
      if whole[1] == 'cancelled' or whole[2] then -- nobody would come to cancel this part of it
        redis.call('HSET', key, 'cancel', '1')
      end
    end
    add(P .. 'open', at, ref)
    enqueue(queue, ref, workspace, priority)
    words[i] = 'new'
  end
end
apply(now)
return words
