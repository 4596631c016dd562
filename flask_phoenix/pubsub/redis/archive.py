"""What nodes keep in Redis: a stream for each topic, written and published to in one step."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError

from ...exceptions import InvalidOption, NotPublished
from ...protocol.messages import INTERNAL
from ..adapter import Archive
from ..history import MEMORY, OVERHEAD, QUIET, History, Position, check_size
from .client import Command, RedisClient

#: What the keys of all topics end with; no client can join such a topic.
ALL = (f"{INTERNAL}histories:due", f"{INTERNAL}histories:sizes")

#: Keeps, reads or forgets. The keys: where the topic is; its messages, each under its offset and its time in
#: milliseconds; the offsets of idempotency keys; and, but in a cluster, two of all topics: when each will have grown
#: too old, and the bytes of each, of all, and how many all may have. What is kept belongs to one life of one server:
#: one that has started anew, or has taken another's place, may have lost what it had confirmed, and gives the topic
#: another epoch. What is known is read also from one that takes no writes, since its memory or its disk is full.
SCRIPT = """
local place, log, keys, due, sizes = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local verb, count, ttl = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, overhead, memory = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local found = redis.call('HMGET', place, 'run', 'epoch', 'head', 'size')
local epoch, head, size = found[2], tonumber(found[3]), tonumber(found[4])
if found[1] ~= run then
    redis.call('DEL', place, log, keys)
    epoch, head, size = ARGV[2], 0, 0
end
if size and redis.call('XLEN', log) == 0 then size = 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function too_old(id)
    return tonumber(string.match(id, '-(%d+)')) <= now - ttl
end

local function trim(kept)
    while true do
        local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
        if not first then
            size = 0
            return
        end
        if kept <= count and size <= limit and not too_old(first[1]) then return end
        redis.call('XDEL', log, first[1])
        if first[2][4] then redis.call('HDEL', keys, first[2][4]) end
        size = size - #first[2][2] - overhead
        kept = kept - 1
    end
end

-- Finds the keys of what is kept, if Redis has evicted them alone.
local function know_keys()
    for _, kept in ipairs(redis.call('XRANGE', log, '-', '+')) do
        if kept[2][4] then redis.call('HSET', keys, kept[2][4], string.match(kept[1], '^%d+')) end
    end
end

local function remember()
    redis.call('HSET', place, 'run', run, 'epoch', epoch, 'head', string.format('%.0f', head), 'size', size)
    redis.call('PEXPIRE', place, head > 0 and ttl + memory or tonumber(ARGV[8]))
end

local function uncount(topic)
    local counted = tonumber(redis.call('HGET', sizes, topic) or 0)
    redis.call('HDEL', sizes, topic)
    redis.call('ZREM', due, topic)
    return counted
end

-- Counts what the topic has now, and has those that would be forgotten first make room for it; returns how many.
local function make_room(bound)
    if redis.call('EXISTS', due) == 0 then redis.call('DEL', sizes) end
    local known = redis.call('HMGET', sizes, place, 'total', 'bound')
    local total, dropped = size + tonumber(known[2] or 0) - tonumber(known[1] or 0), 0
    for _, topic in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 8)) do
        if topic ~= place then total = total - uncount(topic) end
    end
    bound = tonumber(bound) or tonumber(known[3]) or math.huge
    while total > bound do
        local first = redis.call('ZRANGE', due, 0, 1)
        local topic = first[1] ~= place and first[1] or first[2]
        if not topic then break end
        total, dropped = total - uncount(topic), dropped + 1
        redis.call('DEL', topic .. ':log', topic .. ':keys')
    end
    redis.call('ZADD', due, string.format('%.0f', now + ttl), place)
    redis.call('HSET', sizes, place, size, 'total', string.format('%.0f', total))
    if bound < math.huge then redis.call('HSET', sizes, 'bound', string.format('%.0f', bound)) end
    for _, key in ipairs({due, sizes}) do redis.call('PEXPIRE', key, ttl + memory) end
    return dropped
end

if verb == 'keep' then
    local key, entry = ARGV[9], ARGV[10]
    if key ~= '' then
        trim(0)
        if redis.call('EXISTS', keys) == 0 then know_keys() end
    end
    local known = key ~= '' and redis.call('HGET', keys, key)
    if known then return {epoch, tonumber(known), 0, 0} end
    head, size = head + 1, size + #entry + overhead
    local id = string.format('%.0f-%.0f', head, now)
    if key == '' then
        redis.call('XADD', log, id, 'd', entry)
    else
        redis.call('XADD', log, id, 'd', entry, 'k', key)
        redis.call('HSET', keys, key, string.format('%.0f', head))
        redis.call('PEXPIRE', keys, ttl)
    end
    redis.call('PEXPIRE', log, ttl)
    trim(redis.call('XLEN', log))
    remember()
    local dropped = sizes and make_room(ARGV[14]) or 0
    local offset = struct.pack('>I4I4', math.floor(head / 4294967296), head % 4294967296)
    redis.call(ARGV[13], ARGV[11], ARGV[12] .. 'K' .. string.char(#epoch) .. epoch .. offset .. entry)
    return {epoch, head, 1, dropped}
end
if verb == 'forget' then
    redis.call('DEL', place, log, keys)
    if sizes then redis.call('HINCRBY', sizes, 'total', -uncount(place)) end
    return {epoch, 0}
end
if found[1] == run then pcall(remember) else remember() end
if verb == 'position' then return {epoch, head} end
local since = tonumber(ARGV[10])
if ARGV[9] ~= '' and (ARGV[9] ~= epoch or since > head) then return {epoch, head, 0} end
local entries = redis.call('XRANGE', log, string.format('%.0f-0', since + 1), '+')
local first, missed = 1, {}
while entries[first] and too_old(entries[first][1]) do first = first + 1 end
for number = first, #entries do missed[#missed + 1] = entries[number] end
if ARGV[9] ~= '' and #missed ~= head - since then return {epoch, head, 0} end
return {epoch, head, 1, missed}
"""
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisArchive:
    """The histories of topics in Redis.

    :param client: who knows the channels, and the servers that carry them.
    :param mark: what stands before the messages of this node.
    :param execute: has commands carried out; returns their answers, which may be errors.
    :param total: bytes that all topics keep together, but in a cluster; None: as many as the nodes say.
    :param reached: called when that bound has dropped what its topic would have kept.
    """

    def __init__(
        self,
        client: RedisClient,
        mark: bytes,
        execute: Callable[[list[Command]], list[Any]],
        total: int | None = None,
        reached: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._mark = mark
        self._execute = execute
        self._total = total
        self._reached = reached

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry, and publish it with its position.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: Redis has not said that it is kept.
        """
        check_size(len(entry) + OVERHEAD, history, topic)
        channel, publish = self._client.channel(topic), self._client.command("PUBLISH")
        total = "" if self._total is None else self._total
        epoch, head, new, dropped = self._run(topic, history, "keep", key, entry, channel, self._mark, publish, total)
        if dropped:
            self._reached()
        return Position(epoch.decode(), head), bool(new)

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all; None: some are lost.

        :raises NotPublished: Redis does not say.
        """
        epoch, head, *rest = self._run(topic, history, "read", *(since or ("", -1)))
        position = Position(epoch.decode(), head)
        if not rest[0]:
            return position, None
        return position, [(int(id.partition(b"-")[0]), fields[1]) for id, fields in rest[1]]

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is.

        :raises NotPublished: Redis does not say.
        """
        epoch, head = self._run(topic, history, "position")
        return Position(epoch.decode(), head)

    def forget(self, topic: str) -> None:
        """Remove a topic, so that nothing is left of it.

        :raises NotPublished: Redis does not say that it has done so.
        """
        self._run(topic, History(), "forget")

    def _run(self, topic: str, history: History, verb: str, *rest: Any) -> Any:
        channel = self._client.channel(topic)
        most = min(history.max_bytes, self._total or history.max_bytes)
        bounds = history.size, int(history.ttl * 1000), most, OVERHEAD, int(MEMORY * 1000), int(QUIET * 1000)
        keys = self._keys(channel)
        arguments = (len(keys), *keys, verb, secrets.token_hex(4), *bounds, *rest)
        [answer] = self._execute([(channel, ("EVALSHA", SHA, *arguments))])
        if isinstance(answer, NoScriptError):
            [answer] = self._execute([(channel, ("EVAL", SCRIPT, *arguments))])
        if isinstance(answer, Exception):
            denied = isinstance(answer, NoPermissionError)
            remedy = self._client.history_remedy if denied else "look whether it runs and is the one meant"
            raise NotPublished(f"Redis has not said that it keeps it ({answer}): {remedy}") from answer
        return answer

    def _keys(self, channel: bytes) -> list[bytes]:
        """Return the keys of a topic, and those of all; in a cluster they have the slot of its channel, and all none.

        :raises InvalidOption: there are no such keys.
        """
        start = channel.find(b"{")
        end = channel.find(b"}", start + 1) if start >= 0 else -1
        if self._client.sharded and end <= start + 1:  # the slot is that of the whole channel
            if b"}" in channel:
                raise InvalidOption(f"in a cluster, a topic with a history has no '}}': {channel!r}")
            channel = b"{" + channel + b"}"
        keys = [channel + suffix for suffix in (b":history", b":history:log", b":history:keys")]
        return keys if self._client.sharded else [*keys, *(self._client.channel(each) for each in ALL)]


class KeepsInRedis(Archive):
    """What keeps in Redis, whether it is a node or publishes from outside."""

    keeps = True
    _archive: RedisArchive

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry in Redis, and publish it, as one step.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: Redis has not said that it is kept.
        """
        return self._archive.keep(topic, history, entry, key)

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all."""
        return self._archive.kept(topic, history, since)

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is."""
        return self._archive.position(topic, history)
