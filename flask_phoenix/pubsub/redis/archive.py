"""What nodes keep in Redis: a stream for each topic, written and published to in one step."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import sha1
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError

from ...exceptions import InvalidOption, NotPublished
from ..adapter import Archive
from ..history import OVERHEAD, History, Position, check_size
from .client import Command, RedisClient

#: Seconds for which Redis remembers where a topic is, when nothing comes any more.
MEMORY = 86_400

#: Keeps, or reads. The keys: where the topic is; its messages, each under its offset and its time in milliseconds; the
#: offsets of idempotency keys. What is kept belongs to one life of one server: one that has started anew, or has taken
#: another's place, may have lost what it had confirmed, and gives the topic another epoch. What is known is read also
#: from one that takes no writes, since its memory or its disk is full.
SCRIPT = """
local place, log, keys = KEYS[1], KEYS[2], KEYS[3]
local verb, count, ttl = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local limit, overhead = tonumber(ARGV[5]), tonumber(ARGV[6])
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

local function remember()
    redis.call('HSET', place, 'run', run, 'epoch', epoch, 'head', string.format('%.0f', head), 'size', size)
    redis.call('PEXPIRE', place, ttl + tonumber(ARGV[7]))
end

if verb == 'keep' then
    local key, entry = ARGV[8], ARGV[9]
    if key ~= '' then trim(0) end
    local known = key ~= '' and redis.call('HGET', keys, key)
    if known then return {epoch, tonumber(known), 0} end
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
    local offset = struct.pack('>I4I4', math.floor(head / 4294967296), head % 4294967296)
    redis.call(ARGV[12], ARGV[10], ARGV[11] .. 'K' .. string.char(#epoch) .. epoch .. offset .. entry)
    return {epoch, head, 1}
end
if found[1] == run then pcall(remember) else remember() end
if verb == 'position' then return {epoch, head} end
local since = tonumber(ARGV[9])
if ARGV[8] ~= '' and (ARGV[8] ~= epoch or since > head) then return {epoch, head, 0} end
local entries = redis.call('XRANGE', log, string.format('%.0f-0', since + 1), '+')
local first, due = 1, {}
while entries[first] and too_old(entries[first][1]) do first = first + 1 end
for number = first, #entries do due[#due + 1] = entries[number] end
if ARGV[8] ~= '' and #due ~= head - since then return {epoch, head, 0} end
return {epoch, head, 1, due}
"""
SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisArchive:
    """The histories of topics in Redis.

    :param client: who knows the channels, and the servers that carry them.
    :param mark: what stands before the messages of this node.
    :param execute: has commands carried out; returns their answers, which may be errors.
    """

    def __init__(self, client: RedisClient, mark: bytes, execute: Callable[[list[Command]], list[Any]]) -> None:
        self._client = client
        self._mark = mark
        self._execute = execute

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry, and publish it with its position.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: Redis has not said that it is kept.
        """
        check_size(len(entry) + OVERHEAD, history, topic)
        channel, publish = self._client.channel(topic), self._client.command("PUBLISH")
        epoch, head, new = self._run(topic, history, "keep", key, entry, channel, self._mark, publish)
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

    def _run(self, topic: str, history: History, verb: str, *rest: Any) -> Any:
        channel = self._client.channel(topic)
        bounds = history.size, int(history.ttl * 1000), history.max_bytes, OVERHEAD, MEMORY * 1000
        arguments = (3, *self._keys(channel), verb, secrets.token_hex(4), *bounds, *rest)
        [answer] = self._execute([(channel, ("EVALSHA", SHA, *arguments))])
        if isinstance(answer, NoScriptError):
            [answer] = self._execute([(channel, ("EVAL", SCRIPT, *arguments))])
        if isinstance(answer, Exception):
            denied = isinstance(answer, NoPermissionError)
            remedy = self._client.history_remedy if denied else "look whether it runs and is the one meant"
            raise NotPublished(f"Redis has not said that it keeps it ({answer}): {remedy}") from answer
        return answer

    def _keys(self, channel: bytes) -> list[bytes]:
        """Return the keys of a topic; in a cluster they have the slot of its channel.

        :raises InvalidOption: there are no such keys.
        """
        start = channel.find(b"{")
        end = channel.find(b"}", start + 1) if start >= 0 else -1
        if self._client.sharded and end <= start + 1:  # the slot is that of the whole channel
            if b"}" in channel:
                raise InvalidOption(f"in a cluster, a topic with a history has no '}}': {channel!r}")
            channel = b"{" + channel + b"}"
        return [channel + suffix for suffix in (b":history", b":history:log", b":history:keys")]


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
