-- ARGV[1] = [[endpoint, word, tokens, blocked_us, rpm, tpm], …]: how calls to endpoints went. A word of 1 is an answer, 0 a
-- failure of the endpoint, -1 neither. tokens is what the call used beyond what it was let in for, blocked_us for how
-- long the endpoint wants no calls, rpm and tpm are limits a minute that it told of (0: none).
-- After BREAK_AFTER failures in a row an endpoint is shut for a while that doubles with each further one; then one call at
-- a time is let through until one is answered. No word of a provider holds its calls up for more than an hour: then a call
-- finds out whether it still holds. Gives [failures, microseconds shut, microseconds blocked] of each.
local FIRST_US, LONGEST_US, HOUR_US = 10000000, 300000000, 3600000000
local now = clock()
local states = {}
for i, item in ipairs(cmsgpack.unpack(ARGV[1])) do
  local endpoint, word, tokens, blocked, rpm, tpm = unpack(item)
  local key = P .. 'endpoint:' .. endpoint
  local h = redis.call('HMGET', key, 'failures', 'shut', 'blocked', 'tok', 'pace')
  local failures, shut, until_us = tonumber(h[1] or '0'), tonumber(h[2] or '0'), tonumber(h[3] or '0')
  if word == 1 then
    failures, shut = 0, 0
  elseif word == 0 then
    failures = failures + 1
    if failures >= BREAK_AFTER then
      shut = now + math.min(LONGEST_US, FIRST_US * 2 ^ math.min(10, failures - BREAK_AFTER))
    end
  end
  until_us = math.max(until_us, blocked > 0 and now + math.min(HOUR_US, blocked) or 0)
  local fields = { 'failures', text(failures), 'shut', text(shut), 'probe', '0', 'blocked', text(until_us) }
  for name, limit in pairs({ rpm = rpm, tpm = tpm }) do
    if limit > 0 then
      fields[#fields + 1] = name
      fields[#fields + 1] = text(limit)
    end
  end
  local limit = tonumber(h[5] or '0')
  if h[4] and limit > 0 and tokens ~= 0 then
    fields[#fields + 1] = 'tok'
    fields[#fields + 1] = text(tonumber(h[4]) + math.min(HOUR_US, tokens * MINUTE_US / limit))
  end
  redis.call('HSET', key, unpack(fields))
  redis.call('EXPIRE', key, 86400)
  states[i] = { failures, text(math.max(0, shut - now)), text(math.max(0, until_us - now)) }
end
return states
