-- Appends messages to a stream, each of them once.
--
-- KEYS  the stream; what is remembered of it
-- ARGV  how long to remember, in microseconds (0: not at all); how many to remember;
--       about how many entries to keep (0: all);
--       then of each message: its event id, how many fields and values follow, and these
local stream, memory = KEYS[1], KEYS[2]
local window, most, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local kind = redis.call('TYPE', stream).ok
if kind ~= 'stream' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE the key holds a ' .. kind)
end

local now = 0
if window > 0 then
    if kind == 'none' then
        -- Somebody removed the stream, and with it what is remembered.
        redis.call('DEL', memory)
    end
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
    -- Before anything is appended: who may not write here must not append the same again and again.
    redis.call('ZREMRANGEBYSCORE', memory, '-inf', string.format('(%.0f', now - window))
end

local at, appended = 4, 0
while at <= #ARGV do
    local id, count = ARGV[at], tonumber(ARGV[at + 1])
    local first, last = at + 2, at + 1 + count
    if window == 0 or not redis.call('ZSCORE', memory, id) then
        if length > 0 then
            redis.call('XADD', stream, 'MAXLEN', '~', length, '*', unpack(ARGV, first, last))
        else
            redis.call('XADD', stream, '*', unpack(ARGV, first, last))
        end
        if window > 0 then
            redis.call('ZADD', memory, string.format('%.0f', now), id)
        end
        appended = appended + 1
    end
    at = last + 1
end

if window > 0 then
    redis.call('ZREMRANGEBYRANK', memory, 0, -most - 1)
    redis.call('PEXPIRE', memory, math.ceil(window / 1000))
end
return appended
