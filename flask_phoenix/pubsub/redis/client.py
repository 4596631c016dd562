"""redis-py's client for one Redis or a cluster: URLs, channels, connections, and publishing."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis import ConnectionPool, Redis, RedisCluster
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import MovedError, RedisClusterException, RedisError, ResponseError
from redis.retry import Retry

from ...exceptions import InvalidOption

log = logging.getLogger("flask_phoenix.redis")

URL = "redis://127.0.0.1:6379/0"
PREFIX = "phoenix"
#: The size in bytes of what stands before each payload: the mark of the node that published it, which drops its own.
MARK_SIZE = 8
#: What goes wrong with Redis, with a cluster of it, or on the way there.
FAILURES = (RedisError, RedisClusterException, OSError)
BACKOFF = EqualJitterBackoff(cap=4, base=0.05)
#: A command that was sent and not answered may have been carried out: redis-py is not to repeat it.
NO_RETRY = Retry(NoBackoff(), 0)
#: The part of a URL's query that is ours.
OPTIONS: dict[str, type] = {"prefix": str, "subscribe_timeout": float, "check_interval": float, "queue_limit": int}

#: A channel of Redis, and the bytes that it carries.
ChannelMessage = tuple[bytes, bytes]


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

    #: Seconds of idleness up to which a connection is taken to be alive without a look.
    fresh_for = 0.0

    def __init__(self, url: str, client: Any, prefix: str, timeout: float) -> None:
        self._timeout = timeout
        self._process, self._busy = os.getpid(), set[Any]()
        #: The connections that nobody uses, and when they were used.
        self._idle: dict[Any, list[tuple[Any, float]]] = defaultdict(list)
        scheme, separator, rest = url.partition("://")
        self._url = scheme.removesuffix("+cluster") + separator + rest
        self._given = client
        self._prefix = f"{prefix}:"
        #: It is a client of a cluster.
        self.sharded = scheme.endswith("+cluster") if client is None else isinstance(client, RedisCluster)
        try:
            decodes = ConnectionPool.from_url(self._url).get_encoder().decode_responses
        except ValueError as error:
            raise InvalidOption(f"expected the URL of a Redis, got one that redis-py refuses: {error}") from error
        if decodes or (client is not None and client.get_encoder().decode_responses):
            raise InvalidOption("payloads are bytes: connect to Redis without decode_responses")

    @cached_property
    def client(self) -> Any:
        """The client that was handed in, or one of our own; that of a cluster asks for the nodes when it is made."""
        if self._given is not None:
            return self._given
        # With version 3 of its protocol, redis-py writes each message it gets into a string for its log.
        if self.sharded:
            return RedisCluster.from_url(self._url, protocol=2)
        return Redis.from_url(self._url, protocol=2, retry=NO_RETRY)

    def command(self, name: str) -> str:
        """Return the name of a command of pub/sub, as one Redis or a cluster has it."""
        return f"S{name}" if self.sharded else name

    def channel(self, topic: str) -> bytes:
        """Return the channel of a topic."""
        return (self._prefix + topic).encode()

    def topic(self, channel: bytes) -> str:
        """Return the topic of a channel."""
        return channel.decode()[len(self._prefix) :]

    def pool(self, channel: bytes) -> Any:
        """Return the connection pool of the server that carries a channel."""
        if self.sharded:
            return self.client.get_redis_connection(self.client.get_node_from_key(channel)).connection_pool
        return self.client.connection_pool

    def connect(self, pool: Any) -> Any:
        """Return a new connection, made as those of a pool are but not one of them."""
        options = {**pool.connection_kwargs, "socket_timeout": self._timeout, "retry": NO_RETRY}
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
        for connection in [*self._busy, *(connection for some in idle.values() for connection, _ in some)]:
            connection.disconnect()
        client = self.__dict__.pop("client", None)
        if client is not None and self._given is None:
            client.close()
            if self.sharded:  # one that was made by a URL closes nothing itself, and forgets whom it asked first
                for node in (*client.get_nodes(), *getattr(client, "startup_nodes", ())):
                    if node.redis_connection is not None:
                        node.redis_connection.connection_pool.disconnect()

    def publish(self, messages: Iterable[ChannelMessage]) -> list[tuple[ChannelMessage, Exception]]:
        """Publish in one round trip to each server; return what may not have been published, and why."""
        failed = self._publish(messages)
        moved = [(message, error) for message, error in failed if isinstance(error, MovedError)]
        if not moved:
            return failed
        for _, error in moved:
            self.redirect(error)
        rest = [each for each in failed if not isinstance(each[1], MovedError)]
        return rest + self._publish(message for message, _ in moved)

    def _publish(self, messages: Iterable[ChannelMessage]) -> list[tuple[ChannelMessage, Exception]]:
        failed: list[tuple[ChannelMessage, Exception]] = []
        groups: dict[Any, list[ChannelMessage]] = {}
        try:
            self.client  # noqa: B018 (once, and not for each message: a cluster that is away takes its time)
        except FAILURES as error:
            return [(message, error) for message in messages]
        for message in messages:
            try:
                groups.setdefault(self.pool(message[0]), []).append(message)
            except FAILURES as error:
                failed.append((message, error))
        for pool, group in groups.items():
            answers = self.exchange(pool, [(self.command("PUBLISH"), *message) for message in group])
            failed += [each for each in zip(group, answers, strict=True) if isinstance(each[1], Exception)]
        return failed

    def exchange(self, pool: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one go; return an answer for each, or the error that stands in its place."""
        answers: list[Any] = []
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
            self._idle[pool].append((connection, time.monotonic()))
        except FAILURES as error:
            answers += [error] * (len(commands) - len(answers))
        return answers

    def _connection(self, pool: Any) -> Any:
        """Return a connection that nobody uses; those that a server has closed are replaced."""
        if self._process != os.getpid():  # what a fork has inherited is its parent's
            self._process, self._idle, self._busy = os.getpid(), defaultdict(list), set()
        try:
            connection, used = self._idle[pool].pop()
        except IndexError:
            connection = None
        if connection is None or (time.monotonic() - used > self.fresh_for and is_stale(connection)):
            connection = self.connect(pool)
        self._busy.add(connection)
        return connection


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

    fresh_for = 0.1

    def __init__(self, url: str, client: Any, prefix: str, timeout: float) -> None:
        super().__init__(url, client, prefix, timeout)
        #: How often a server has failed in succession, until when it rests, and why.
        self._resting: dict[Any, tuple[int, float, Exception]] = {}

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
        self._resting[pool] = failures + 1, time.monotonic() + pause(failures), last
        return answers

    def reopen(self, pool: Any) -> None:
        """Let a server rest no longer."""
        self._resting.pop(pool, None)
