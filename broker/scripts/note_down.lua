-- ARGV[1] = hash, ARGV[2] = {field = value, …}, ARGV[3] = [fields to take out], ARGV[4] = 1 for new fields only.
-- What operators and nodes say of the fleet: small, and needed most when Redis is full.
for field, value in pairs(cmsgpack.unpack(ARGV[2])) do
  redis.call(ARGV[4] == '1' and 'HSETNX' or 'HSET', ARGV[1], field, value)
end
for _, field in ipairs(cmsgpack.unpack(ARGV[3])) do
  redis.call('HDEL', ARGV[1], field)
end
return 1
