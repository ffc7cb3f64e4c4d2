-- The keeper's round, one call a process and third of a lease: renew what is in hand, and let one process of the fleet
-- look after what is lost.
-- ARGV[1] = [[ref, epoch], …] in hand, ARGV[2] = lease in microseconds, ARGV[3] = [[lane, process, 1 when it is well], …],
-- ARGV[4..8] = rules of give_up, ARGV[9] = how long payloads and results of ended tasks are kept, in microseconds,
-- ARGV[10] = the machine that this process runs on, ARGV[11] = 1 where the round before left more that is lost or kept for
-- too long: a round takes so many of them that Redis is soon there for others again. Gives {claims to break off, tasks
-- recovered, tasks whose place was lost, 1 where more is left}.
local now = clock()
local lease = tonumber(ARGV[2])
local rules = { tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8] }
local broken = {}
for _, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch = unpack(item)
  local h = redis.call('HMGET', task_key(ref), 'epoch', 'done', 'cancel')
  if h[1] ~= epoch or h[2] == epoch or h[3] then
    broken[#broken + 1] = { ref, epoch }
  end
  if h[1] == epoch and h[2] ~= epoch then
    redis.call('ZADD', P .. 'leases', 'XX', text(now + lease), ref)
  end
end
for _, item in ipairs(cmsgpack.unpack(ARGV[3])) do
  local lane, node, well = unpack(item)
  redis.call('HSET', P .. 'lanes', lane .. '|' .. node, (well == 1 and '' or '-') .. text(now))
  if well == 1 then
    redis.call('HSET', P .. 'lanes', lane, text(now))
  end
end

-- For how long each machine was on, a day. A gap longer than a lease is one in which it was off; the clock may be set back.
if ARGV[10] ~= '' then
  local last = redis.call('HGET', P .. 'machines', ARGV[10])
  local on = last and math.max(0, math.min(now - tonumber(last), lease)) or 0
  redis.call('HSET', P .. 'machines', ARGV[10], text(now))
  local key = P .. 'uptime:' .. day_of(now)
  redis.call('HINCRBY', key, ARGV[10], text(on))
  redis.call('EXPIRE', key, KEPT_S)
end

local LOST_AT_ONCE, ENDED_AT_ONCE = 100, 300
local recovered, replaced, more = 0, 0, 0
local pause = lease / 4
local swept = redis.call('GET', P .. 'swept')
local gap = swept and math.abs(now - tonumber(swept)) or pause
if gap >= pause or ARGV[11] == '1' then
  redis.call('SET', P .. 'swept', text(now))
  -- Redis was away or its clock was set, and nobody could renew what is in hand: that time runs against no lease. What is
  -- lost comes back all the same where each sweep is late.
  if gap > 2 * pause then
    local held = redis.call('ZRANGE', P .. 'leases', 0, -1, 'WITHSCORES')
    for i = 1, #held, 2 do
      local ends = now < tonumber(swept) and now + lease or math.min(now + lease, tonumber(held[i + 1]) + gap - pause)
      redis.call('ZADD', P .. 'leases', text(ends), held[i])
    end
  end
  local lost = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(now), 'LIMIT', 0, LOST_AT_ONCE)
  for _, ref in ipairs(lost) do
    give_up(ref, now, 'its worker was lost', rules)
    recovered = recovered + 1
  end
  local until_then = text(now - tonumber(ARGV[9]))
  local ended = redis.call('ZRANGEBYSCORE', P .. 'results', '-inf', until_then, 'LIMIT', 0, ENDED_AT_ONCE)
  for _, ref in ipairs(ended) do
    redis.pcall('HDEL', task_key(ref), 'task', 'progress', 'outcome')
    remove(P .. 'results', ref)
    remove(P .. 'reviewed', ref)
  end
  apply(now)
  more = (#lost == LOST_AT_ONCE or #ended == ENDED_AT_ONCE) and 1 or 0
end
if gap >= pause then
  local lanes = redis.call('HGETALL', P .. 'lanes')
  for i = 1, #lanes, 2 do  -- of a node that is gone
    if string.find(lanes[i], '|', 1, true) and math.abs(tonumber(lanes[i + 1])) < now - 100 * lease then
      redis.call('HDEL', P .. 'lanes', lanes[i])
    end
  end
  local unseen = redis.call('ZRANGEBYSCORE', P .. 'open', '-inf', text(now - 2 * lease), 'LIMIT', 0, 500)
  for _, ref in ipairs(unseen) do
    local h = redis.pcall('HMGET', task_key(ref), 'status', 'queue', 'workspace', 'priority', 'batch')
    if not h[1] or ENDS[h[1]] or h[1] == 'parked' then
      remove(P .. 'open', ref)
    elseif h[5] and redis.call('EXISTS', P .. 'batch:' .. h[5]) == 1 then
      add(P .. 'open', text(now), ref)
    elseif h[5] then
      give_up(ref, now, 'its batch was lost', rules)
      recovered = recovered + 1
      add(P .. 'open', text(now), ref)
    else
      if not (redis.call('ZSCORE', P .. 'leases', ref) or redis.call('ZSCORE', P .. 'queue:' .. h[2], ref)
        or redis.call('ZSCORE', P .. 'later:' .. h[2], ref) or redis.call('ZSCORE', P .. 'suspects:' .. h[2], ref)) then
        enqueue(h[2], ref, h[3], tonumber(h[4]))
        replaced = replaced + 1
      end
      add(P .. 'open', text(now), ref)
    end
  end
end
apply(now)
return { broken, recovered, replaced, more }
