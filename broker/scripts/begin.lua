-- ARGV[1] = [[ref, epoch, worst case, fact, scopes, hard limit, endpoint, tokens, rpm, tpm,
-- batch, line, family, above, submitted], …]: the worst case is reserved in every scope or in none,
-- and the intent recorded, before the call leaves. A worst case below 0 is an unknown price, a hard limit below 0 is none.
-- One word a task: go, lost (another holds it now), cancel, or why it must not leave: over|scope|period|left|limit,
-- killed|scope, closed|scope|period, unpriced|scope|period, busy|microseconds|1 for its failures (its endpoint takes no
-- call before that; an endpoint of '' takes all). A call of a batch is from now on that batch's, under its line, and no
-- lease holds it: it is in place as long as the batch is there.
local now = clock()
local day = day_of(now)
local words = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local ref, epoch, worst, fact, scopes, hard, endpoint, tokens, rpm, tpm, batch, line, family, above,
    came = unpack(item)
  local key = task_key(ref)
  local current, done, cancel, call, starts, started, cost, raised, human, family_used, shares, submitted =
    unpack(redis.call('HMGET', key, 'epoch', 'done', 'cancel', 'call', 'starts', 'started', 'cost', 'hard', 'human',
      'family', 'shares', 'submitted'))
  if current ~= epoch or done == epoch or came > 0 and tonumber(submitted) ~= came then -- of a later task of the same id
    words[i] = 'lost'
  elseif cancel then
    words[i] = 'cancel'
  elseif call then
    words[i] = 'go'
  else
    local own = tonumber(cost) - tonumber(human or '0') - tonumber(shares or '0')
    local spent = own + ((family_used or amounts[key]) and shared(ref) or 0)
    local why = refusal(now, day, scopes, worst, spent, tonumber(raised or hard)) or family_refusal(family, worst)
    local wait, broken = 0, 0
    if not why and endpoint ~= '' then
      wait, broken = admit(now, endpoint, tokens, rpm, tpm)
    end
    if wait > 0 then
      words[i] = 'busy|' .. text(wait) .. '|' .. broken
    elseif why then
      words[i] = why
    else
      words[i] = 'go'
      worst = math.max(0, worst)
      use(day, scopes, worst)
      hold(day, scopes, worst)
      use_of_family(above, worst)
      redis.call('HSET', key, 'status', 'running', 'reserved', text(worst), 'held', day, 'scopes', scopes, 'above', above,
        'call', fact, 'starts', text(tonumber(starts or '0') + 1), 'started', started or text(now))
      if batch ~= '' then
        redis.call('HSET', key, 'batch', batch)
        redis.call('HSET', P .. 'batch:' .. batch .. ':lines', line, ref .. '|' .. epoch)
        remove(P .. 'leases', ref)
      end
    end
  end
end
apply(now)
return words
