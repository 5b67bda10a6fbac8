"""What the server carries out in one step. Every key is made of the lane's own, KEYS[1] = "prefix:{lane}"; times are
the server's, whose clock is the only one that counts here.

Of a script's writes the first is refused where the server has no memory left; once it has begun it goes through.
"""

# (name, milliseconds, epoch) -> the token, or nothing where somebody leads.
TAKE = """
local p = KEYS[1]
if redis.call('EXISTS', p .. ':lease') == 1 then return false end
local term = redis.call('INCR', p .. ':term')
redis.call('SET', p .. ':epoch', ARGV[3], 'NX')
local token = ARGV[1] .. '|' .. term .. '|' .. redis.call('GET', p .. ':epoch')
redis.call('SET', p .. ':lease', token, 'PX', ARGV[2])
return token
"""

# (token, milliseconds; 0: let it go) -> whether it was ours.
HOLD = """
local key = KEYS[1] .. ':lease'
if redis.call('GET', key) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', key) else redis.call('PEXPIRE', key, ARGV[2]) end
return 1
"""

# The place of a burst: never one before the last, though the clock be set back.
_APPEND = """
local function append(p, n)
  local time = redis.call('TIME')
  local ms = time[1] * 1000 + math.floor(time[2] / 1000)
  local last = tonumber(redis.call('HGET', p .. ':seqs', 'ms') or '0')
  if ms < last then ms = last end
  local id = string.format('%.0f-%.0f', ms, n)
  redis.call('HSET', p .. ':seqs', 'n', string.format('%.0f', n), 'ms', string.format('%.0f', ms))
  return id, ms
end
local function trimmed(key, id, from, body)
  redis.call('XADD', key, 'MINID', '~', string.format('%.0f-0', from), id, 'd', body)
end
"""

# KEYS: of each lane. (log ms, memory ms, memory bursts, bars, then for each lane: token, n, the whole as msgpack, of
# how many topics, and of each of these: its name, its part as msgpack, the number of its last event or '', its present
# or '', how many bars it closes, their open times and texts)
# -> for each lane 1 said, 0 said before, -1 fenced, -2 the server is older than what it had acknowledged.
SAY = (
    _APPEND
    + """
local log_ms, memory_ms, bursts, bars = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local function close(p, topic, open_time, text)
  local before = tonumber(redis.call('HGET', p .. ':closed', topic) or '-1')
  local open = tonumber(open_time)
  if open <= before then return end
  local kept, last = p .. ':bars:' .. topic, -1
  local newest = redis.call('XREVRANGE', kept, '+', '-', 'COUNT', 1)
  if newest[1] then last = tonumber(string.match(newest[1][1], '^%d+')) end
  if open > last then  -- else it was written with the older ones already
    redis.call('XADD', kept, 'MAXLEN', '~', bars, open_time .. '-1', 'd', text)
  end
  redis.call('HSET', p .. ':closed', topic, open_time)
end
local i, answers = 5, {}
for _, p in ipairs(KEYS) do
  local n, said = tonumber(ARGV[i + 1]), 1
  if redis.call('GET', p .. ':lease') ~= ARGV[i] then said = -1
  else
    local last = tonumber(redis.call('HGET', p .. ':seqs', 'n') or '0')
    if n > last + 1 or (n <= last and n == tonumber(redis.call('GET', p .. ':renewed') or '-1')) then said = -2
    elseif n <= last then said = 0 end
  end
  answers[#answers + 1] = said
  local id, ms
  if said == 1 then
    id, ms = append(p, n)
    trimmed(p .. ':log', id, ms - log_ms, ARGV[i + 2])
  end
  local topics = tonumber(ARGV[i + 3])
  i = i + 4
  for _ = 1, topics do
    local topic, seq, present, closed = ARGV[i], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
    if said == 1 then
      local key = p .. ':t:' .. topic
      trimmed(key, id, ms - memory_ms, ARGV[i + 1])
      redis.call('XTRIM', key, 'MAXLEN', '~', bursts)
      redis.call('PEXPIRE', key, ARGV[2])
      if seq ~= '' then redis.call('HSET', p .. ':seqs', topic, seq) end
      if present ~= '' then redis.call('HSET', p .. ':now', topic, present) end
      for bar = 1, closed do close(p, topic, ARGV[i + 3 + 2 * bar], ARGV[i + 4 + 2 * bar]) end
    end
    i = i + 5 + 2 * closed
  end
end
return answers
"""
)

# KEYS: of what is shared, then of each source, a lane in one epoch. (log ms, memory ms, memory bursts, the known epoch
# and n of what is shared, each source's epoch, then of each thing: the number of its source, the n of its burst there,
# its topic, "1" where it is to be numbered, and its msgpack before and behind the number)
# -> epoch, n, whether these agree with what is known
SHARE = (
    _APPEND
    + """
local p, known = KEYS[1], ARGV[4]
local epoch = redis.call('GET', p .. ':epoch') or ''
local n = tonumber(redis.call('HGET', p .. ':seqs', 'n') or '0')
if known ~= '' and (known ~= epoch or tonumber(ARGV[5]) > n) then return {epoch, n, 0} end
local above, upto, newest = {}, {}, {}
for i = 2, #KEYS do
  local lane, its = KEYS[i], ARGV[i + 4]
  above[i], upto[i] = 0, -1
  if (redis.call('GET', lane .. ':epoch') or '') == its then
    upto[i] = tonumber(redis.call('HGET', lane .. ':seqs', 'n') or '0')
    local shared = redis.call('HGET', p .. ':shared', lane) or ''
    if string.sub(shared, 1, #its + 1) == its .. '|' then above[i] = tonumber(string.sub(shared, #its + 2)) end
  end
end
local whole, seqs, topics, parts = {}, {}, {}, {}
for i = #KEYS + 5, #ARGV, 6 do
  local source, burst = tonumber(ARGV[i]) + 1, tonumber(ARGV[i + 1])
  if burst > above[source] and burst <= upto[source] then
    local topic, number = ARGV[i + 2], string.char(0xc0)
    newest[source] = ARGV[i + 1]
    if not parts[topic] then
      topics[#topics + 1], parts[topic] = topic, {}
    end
    if ARGV[i + 3] == '1' then
      seqs[topic] = (seqs[topic] or tonumber(redis.call('HGET', p .. ':seqs', topic) or '0')) + 1
      number = cmsgpack.pack(seqs[topic])
    end
    local entry = ARGV[i + 4] .. number .. ARGV[i + 5]
    whole[#whole + 1] = entry
    table.insert(parts[topic], entry)
  end
end
if #whole == 0 then return {epoch, n, 1} end
local function list(entries)
  return string.char(0xdc, math.floor(#entries / 256), #entries % 256) .. table.concat(entries)
end
local id, ms = append(p, n + 1)
for i, burst in pairs(newest) do redis.call('HSET', p .. ':shared', KEYS[i], ARGV[i + 4] .. '|' .. burst) end
trimmed(p .. ':log', id, ms - tonumber(ARGV[1]), list(whole))
for _, topic in ipairs(topics) do
  local key = p .. ':t:' .. topic
  trimmed(key, id, ms - tonumber(ARGV[2]), list(parts[topic]))
  redis.call('XTRIM', key, 'MAXLEN', '~', ARGV[3])
  redis.call('PEXPIRE', key, ARGV[2])
  if seqs[topic] then redis.call('HSET', p .. ':seqs', topic, string.format('%.0f', seqs[topic])) end
end
return {epoch, n + 1, 1}
"""
)

# KEYS: of the lane, of what is shared. (old epoch or "", new epoch, log ms, the entry that says so as msgpack)
RENEW = (
    _APPEND
    + """
local function begin(p)
  redis.call('SET', p .. ':epoch', ARGV[2])
  local n = tonumber(redis.call('HGET', p .. ':seqs', 'n') or '0') + 1
  local id, ms = append(p, n)
  redis.call('SET', p .. ':renewed', n)
  trimmed(p .. ':log', id, ms - tonumber(ARGV[3]), ARGV[4])
end
local p, shared = KEYS[1], KEYS[2]
if (redis.call('GET', p .. ':epoch') or '') ~= ARGV[1] then return 0 end
begin(p)
if p ~= shared and redis.call('GET', shared .. ':epoch')
  and redis.call('HGET', shared .. ':seqs', 'n') ~= redis.call('GET', shared .. ':renewed') then begin(shared) end
return 1
"""
)

# -> epoch, token, the time in ms, all numbers, the present, the closed
PRESENT = """
local p, time = KEYS[1], redis.call('TIME')
return {redis.call('GET', p .. ':epoch') or '', redis.call('GET', p .. ':lease') or '',
  time[1] * 1000 + math.floor(time[2] / 1000), redis.call('HGETALL', p .. ':seqs'),
  redis.call('HGETALL', p .. ':now'), redis.call('HGETALL', p .. ':closed')}
"""

# (topic, place, count) -> the time in ms, so much of its memory up to a place, the newest first
RECALL = """
local time = redis.call('TIME')
return {time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('XREVRANGE', KEYS[1] .. ':t:' .. ARGV[1], ARGV[2], '-', 'COUNT', ARGV[3])}
"""

# (token, topic, then the open times and texts of bars, ascending) -> whether the lane is ours
WRITE_BARS = """
local p = KEYS[1]
if redis.call('GET', p .. ':lease') ~= ARGV[1] then return 0 end
local key = p .. ':bars:' .. ARGV[2]
local newer = #ARGV > 2 and redis.call('XRANGE', key, '(' .. ARGV[#ARGV - 1] .. '-1', '+') or {}
redis.call('DEL', key)
for i = 3, #ARGV, 2 do redis.call('XADD', key, ARGV[i] .. '-1', 'd', ARGV[i + 1]) end
for _, bar in ipairs(newer) do redis.call('XADD', key, bar[1], 'd', bar[2][2]) end
return 1
"""

# (topics...) -> of each the id of the oldest bar that is kept, or ''
BARS_SINCE = """
local found = {}
for i, topic in ipairs(ARGV) do
  local oldest = redis.call('XRANGE', KEYS[1] .. ':bars:' .. topic, '-', '+', 'COUNT', 1)
  found[i] = oldest[1] and oldest[1][1] or ''
end
return found
"""

# (milliseconds, names...) -> all names: KEYS[1] is a set of topics that are wanted, or of nodes that are there, by the
# time until which they are
WANT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + tonumber(ARGV[1]), ARGV[i]) end
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""

# -> for each of KEYS, the leases of lanes, its token and the milliseconds that are left of it
HOLDERS = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = {redis.call('GET', key) or '', redis.call('PTTL', key)} end
return found
"""

# (milliseconds, topic, reason; or nothing) -> topics and reasons: KEYS[1] has for each the time until which it stands
REFUSE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] then
  redis.call('HSET', KEYS[1], ARGV[2], string.format('%.0f', now + tonumber(ARGV[1])) .. '|' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[1]), redis.call('PTTL', KEYS[1])))
end
local found, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local until_ms, reason = string.match(all[i + 1], '^(%d+)|(.*)$')
  if tonumber(until_ms) > now then
    found[#found + 1], found[#found + 2] = all[i], reason
  else
    redis.call('HDEL', KEYS[1], all[i])
  end
end
return found
"""
