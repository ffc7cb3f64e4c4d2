-- ARGV[1] = [[ref, epoch, reserved, fact], …]: the intent, recorded before the call leaves. A fact of '' is no call to
-- book. One word a task: go, lost (another holds it now) or cancel.
local now = clock()
local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch, reserved, fact = unpack(item)
  local key = task_key(ref)
  local h = redis.call('HMGET', key, 'epoch', 'done', 'cancel', 'call', 'starts', 'started')
  if h[1] ~= epoch or h[2] == epoch then
    words[i] = 'lost'
  elseif h[3] then
    words[i] = 'cancel'
  else
    words[i] = 'go'
    if not h[4] then
      redis.call('HSET', key, 'status', 'running', 'reserved', reserved, 'call', fact,
        'starts', text(tonumber(h[5] or '0') + 1), 'started', h[6] or text(now))
    end
  end
end
return words
