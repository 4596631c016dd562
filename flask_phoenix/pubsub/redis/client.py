"""redis-py's client for one Redis or a cluster: URLs, channels, connections, and publishing."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis import ConnectionPool, Redis, RedisCluster
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import (
    MovedError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from ...exceptions import InvalidOption
from ..adapter import sharing_key

log = logging.getLogger("flask_phoenix.redis")

URL = "redis://127.0.0.1:6379/0"
PREFIX = "phoenix"
#: The size in bytes of what stands before each payload: the mark of the node that published it, which drops its own.
MARK_SIZE = 8
#: What goes wrong with Redis, with a cluster of it, or on the way there.
FAILURES = (RedisError, RedisClusterException, OSError)
BACKOFF = EqualJitterBackoff(cap=4, base=0.05)
#: Seconds of idleness up to which a connection is taken to be alive without a look.
FRESH = 0.005
#: Seconds for which a server that has not answered in time is left alone, and how long it has to answer then.
LATE_REST, LATE_TIMEOUT = 1.0, 0.25
#: A command that was sent and not answered may have been carried out: redis-py is not to repeat it.
NO_RETRY = Retry(NoBackoff(), 0)
#: Seconds in which one line about what Redis refuses is enough.
REFUSAL_SILENCE = 60.0
#: How a Redis answers a ping, and whatever writes, while it cannot write to its disk; it carries messages all the same.
FULL_DISK = "MISCONF"
#: The part of a URL's query that is ours.
OPTIONS: dict[str, type] = {"prefix": str, "subscribe_timeout": float, "check_interval": float, "queue_limit": int}

#: A channel of Redis, and the bytes that it carries.
ChannelMessage = tuple[bytes, bytes]
#: A channel, by which a server is found, and a command for that server.
Command = tuple[bytes, tuple[Any, ...]]


def pause(failures: int) -> float:
    """Return the seconds before the next attempt: a twentieth at first, then up to four, and never quite the same."""
    return BACKOFF.compute(min(failures, 10))  # redis-py's arithmetic ends at a thousand


def split_url(url: str) -> tuple[str, dict[str, Any]]:
    """Take our own options out of a URL; the rest of it is for redis-py.

    :raises InvalidOption: a value is no number.
    """
    base, _, query = url.partition("?")
    options: dict[str, Any] = {}
    rest = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            rest.append((name, value))
            continue
        try:
            options[name] = OPTIONS[name](value)
        except ValueError as error:
            raise InvalidOption(f"expected a number for {name} in the URL of Redis, got {value!r}") from error
    return f"{base}?{urlencode(rest)}" if rest else base, options


class RedisClient:
    """A client of one Redis, or of a cluster, in which each topic has its own server (sharded pub/sub).

    :param url: as redis-py takes it, or with the scheme ``redis+cluster`` or ``rediss+cluster``.
    :param client: a client of redis-py, instead of the URL.
    :param timeout: seconds that a server may be silent when it ought to say something.
    :raises InvalidOption: the URL or the client cannot be used.
    """

    def __init__(self, url: str, client: Any, prefix: str, timeout: float) -> None:
        self._timeout = timeout
        self._forget()
        scheme, separator, rest = url.partition("://")
        self._url = scheme.removesuffix("+cluster") + separator + rest
        self._given = self._made = client
        self._prefix = f"{prefix}:"
        #: It is a client of a cluster.
        self.sharded = scheme.endswith("+cluster") if client is None else isinstance(client, RedisCluster)
        try:
            decodes = ConnectionPool.from_url(self._url).get_encoder().decode_responses
        except ValueError as error:
            raise InvalidOption(f"expected the URL of a Redis, got one that redis-py refuses: {error}") from error
        if decodes or (client is not None and client.get_encoder().decode_responses):
            raise InvalidOption("payloads are bytes: connect to Redis without decode_responses")

    @property
    def client(self) -> Any:
        """The client that was handed in, or one of our own; that of a cluster asks for the nodes when it is made."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made

    def _make(self) -> Any:
        # With version 3 of its protocol, redis-py writes each message it gets into a string for its log.
        if self.sharded:
            return RedisCluster.from_url(self._url, protocol=2)
        return Redis.from_url(self._url, protocol=2, retry=NO_RETRY)

    def _forget(self) -> None:
        """Begin without connections, and with a lock that no thread of a parent holds."""
        self._process, self._lock = os.getpid(), threading.Lock()
        self._busy = set[Any]()
        #: Until when each server that has not answered in time is left alone.
        self._late: dict[Any, float] = {}
        #: The connections that nobody uses, and when they were used, by server and by who may share them.
        self._idle: dict[tuple[Any, int], list[tuple[Any, float]]] = defaultdict(list)

    @property
    def acl_remedy(self) -> str:
        """What to do where Redis does not permit something."""
        commands = " ".join(f"+{self.command(name).lower()}" for name in ("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"))
        return (
            f"give its user {commands} +ping &{self._prefix}* in Redis' ACL, or name the prefix"
            " that the user has, with ?prefix= in the URL"
        )

    @property
    def history_remedy(self) -> str:
        """What to do where Redis does not permit to keep something."""
        keys = "{" + self._prefix if self.sharded else self._prefix
        commands = "+evalsha +eval +info +@hash +@stream +@sortedset +@keyspace +time"
        return f"give its user also {commands} ~{keys}* in Redis' ACL"

    @property
    def lead_remedy(self) -> str:
        """What to do where Redis does not permit that this node leads."""
        return f"give its user also +eval +get +set +del ~{self._prefix}* in Redis' ACL"

    def command(self, name: str) -> str:
        """Return the name of a command of pub/sub, as one Redis or a cluster has it."""
        return f"S{name}" if self.sharded else name

    def channel(self, topic: str) -> bytes:
        """Return the channel of a topic."""
        return (self._prefix + topic).encode("utf-8", "surrogatepass")

    def topic(self, channel: bytes) -> str:
        """Return the topic of a channel."""
        return channel.decode("utf-8", "surrogatepass")[len(self._prefix) :]

    def pool(self, channel: bytes) -> Any:
        """Return the connection pool of the server that carries a channel."""
        if self.sharded:
            return self.client.get_redis_connection(self.client.get_node_from_key(channel)).connection_pool
        return self.client.connection_pool

    def connect(self, pool: Any, timeout: float | None = None) -> Any:
        """Return a new connection, made as those of a pool are but not one of them."""
        options = {**pool.connection_kwargs, "socket_timeout": timeout or self._timeout, "retry": NO_RETRY}
        if timeout is not None:
            options["socket_connect_timeout"] = timeout
        connection = pool.connection_class(**options)
        connection.connect()
        return connection

    def refresh(self) -> None:
        """Ask a cluster anew who carries what."""
        if self.sharded:
            self.client.nodes_manager.initialize()

    def redirect(self, error: MovedError) -> None:
        """Learn from a node who carries a slot now; the others may not know it yet."""
        if hasattr(self.client.nodes_manager, "move_slot"):
            self.client.nodes_manager.move_slot(error)
        else:  # redis-py before version 8
            self.refresh()

    def close(self) -> None:
        """Close all connections but those of a client that was handed in; who waits for an answer on one wakes."""
        idle, self._idle = self._idle, defaultdict(list)
        for connection in [*self._busy, *(connection for some in list(idle.values()) for connection, _ in some)]:
            connection.disconnect()
        client, self._made = self._made, self._given
        if client is not None and client is not self._given:
            client.close()
            if self.sharded:  # one that was made by a URL closes nothing itself, and forgets whom it asked first
                for node in (*client.get_nodes(), *getattr(client, "startup_nodes", ())):
                    if node.redis_connection is not None:
                        node.redis_connection.connection_pool.disconnect()

    def publish(self, messages: Iterable[ChannelMessage]) -> list[tuple[ChannelMessage, Exception]]:
        """Publish in one round trip to each server; return what may not have been published, and why."""
        due = list(messages)
        publish = self.command("PUBLISH")
        answers = self.execute([(message[0], (publish, *message)) for message in due])
        return [each for each in zip(due, answers, strict=True) if isinstance(each[1], Exception)]

    def execute(self, commands: list[Command]) -> list[Any]:
        """Have commands carried out in one round trip to each server; return an answer for each, or an error.

        What has moved to another server is sent there.
        """
        answers = self._execute(commands)
        moved = [number for number, answer in enumerate(answers) if isinstance(answer, MovedError)]
        for number in moved:
            self.redirect(answers[number])
        if moved:
            again = self._execute([commands[number] for number in moved])
            for number, answer in zip(moved, again, strict=True):
                answers[number] = answer
        return answers

    def _execute(self, commands: list[Command]) -> list[Any]:
        answers: list[Any] = [None] * len(commands)
        groups: dict[Any, list[int]] = {}
        try:
            self.client  # noqa: B018 (once, and not for each message: a cluster that is away takes its time)
        except FAILURES as error:
            return [error] * len(commands)
        for number, (channel, _) in enumerate(commands):
            try:
                groups.setdefault(self.pool(channel), []).append(number)
            except FAILURES as error:
                answers[number] = error
        for pool, numbers in groups.items():
            found = self.exchange(pool, [commands[number][1] for number in numbers])
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers

    def exchange(self, pool: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one go; return an answer for each, or the error that stands in its place.

        A server that has not answered in time is waited for no more: until it answers, it is tried once in a while, and
        has a moment to answer.
        """
        answers: list[Any] = []
        if self._process != os.getpid():  # what a fork has inherited is its parent's
            self._forget()
        idle = self._idle
        try:
            connection = self._connection(pool)
            try:
                connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                for _ in commands:
                    answers.append(read_answer(connection))
            except BaseException:
                connection.disconnect()
                raise
            finally:
                self._busy.discard(connection)
            self._late.pop(pool, None)
            idle[pool, sharing_key()].append((connection, time.monotonic()))
            if idle is not self._idle:  # all were closed meanwhile
                connection.disconnect()
        except FAILURES as error:
            if isinstance(error, TimeoutError) and not isinstance(error, StillLate):
                self._late[pool] = time.monotonic() + LATE_REST
            answers += [error] * (len(commands) - len(answers))
        return answers

    def _connection(self, pool: Any) -> Any:
        """Return a connection that nobody uses; those that a server has closed are replaced."""
        until = self._late.get(pool)
        if until is not None and time.monotonic() < until:
            raise StillLate(f"it has not answered in {self._timeout} s, and is tried again in a moment")
        idle = self._idle[pool, sharing_key()]
        while idle:
            connection, used = idle.pop()
            if time.monotonic() - used < FRESH or not is_stale(connection):
                break
        else:
            connection = self.connect(pool, None if until is None else min(LATE_TIMEOUT, self._timeout))
        self._busy.add(connection)
        return connection


class StillLate(TimeoutError):
    """A server is not waited for, since it has not answered in time before."""


def read_answer(connection: Any) -> Any:
    """Read what a server answers, a refusal too."""
    try:
        return connection.read_response()
    except ResponseError as refusal:
        return refusal


def is_stale(connection: Any) -> bool:
    """Tell whether a server has closed a connection on which nobody waits for an answer; that leaves it closed here."""
    try:
        stale = bool(connection.can_read(0))
    except FAILURES:
        stale = True
    if stale:
        connection.disconnect()
    return stale


class PublishingClient(RedisClient):
    """A client that publishes on and on: a server that fails is left to rest for a while."""

    def __init__(self, url: str, client: Any, prefix: str, timeout: float) -> None:
        super().__init__(url, client, prefix, timeout)
        #: How often a server has failed in succession, until when it rests, and why.
        self._resting: dict[Any, tuple[int, float, Exception]] = {}
        self._told_refusal = -REFUSAL_SILENCE

    def exchange(self, pool: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands, unless the server rests."""
        failures, until, error = self._resting.get(pool, (0, 0.0, None))
        if time.monotonic() < until:
            return [error] * len(commands)
        answers = super().exchange(pool, commands)
        last = answers[-1]
        if not isinstance(last, FAILURES) or isinstance(last, ResponseError):
            if failures:
                log.warning("what is published reaches Redis again")
            self.reopen(pool)
            return answers
        if not failures:
            log.error("what is published does not reach Redis, nor other nodes, until it is back: %s", last)
        self._resting[pool] = failures + 1, time.monotonic() + (pause(failures) if failures else 0), last
        return answers

    def reopen(self, pool: Any) -> None:
        """Let a server rest no longer."""
        self._resting.pop(pool, None)

    def tell_refusal(self, channel: bytes, error: Exception) -> None:
        """Log that Redis refuses what it is told or asked, and the remedy: one line, whatever else it refuses then."""
        if time.monotonic() - self._told_refusal < REFUSAL_SILENCE:
            return
        self._told_refusal = time.monotonic()
        if isinstance(error, NoPermissionError):
            log.error(
                "Redis does not let this node use the channel %r (%s): other nodes do not hear it, or it does not hear"
                " them; %s",
                channel.decode("utf-8", "replace"),
                error,
                self.acl_remedy,
            )
        else:
            log.error("Redis does not take what is published: %s", error)
