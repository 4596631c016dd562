"""Redis: whether it answers, how old it is, and whether it lets a node do what nodes do."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from ..app_state import State
from ..exceptions import InvalidOption, NotPublished
from ..pubsub.history import History
from ..pubsub.redis.archive import RedisArchive
from ..pubsub.redis.client import FAILURES, FULL_DISK, PREFIX, RedisClient, read_answer, split_url
from ..pubsub.redis.lease import TAKE
from ..pubsub.redis.publisher import NO_NODE
from .findings import Finding, found

#: Seconds that Redis may take to answer.
TIMEOUT = 3.0
#: The oldest Redis with all that a node asks for; with streams, where topics have a history; with sharded pub/sub.
OLDEST, WITH_STREAMS, WITH_SHARDS = (3, 0), (5, 0), (7, 0)
#: Redis' own limits for subscribers, hard and soft, in bytes.
HARD_LIMIT, SOFT_LIMIT = 32 << 20, 8 << 20
#: Seconds that two clocks may be apart.
SKEW = 2.0


def check(state: State, url: str) -> Iterator[Finding]:
    """Do what the nodes of an app do."""
    base, options = split_url(url)
    client = RedisClient(base, None, options.get("prefix", PREFIX), TIMEOUT)
    try:
        yield from _Redis(client, _keeps(state), bool(state.led)).findings()
    finally:
        with suppress(*FAILURES):
            client.close()


def _keeps(state: State) -> bool:
    """Tell whether a topic of the app has a history."""
    routes = [route for socket in state.engine.histories.sockets for route in socket.channels]
    return any(route.channel.history.size for route in routes)


class _Redis:
    """One look at a Redis.

    :param keeps: topics have a history.
    :param leads: a function runs once per cluster.
    """

    def __init__(self, client: RedisClient, keeps: bool, leads: bool) -> None:
        self._client, self._keeps, self._leads = client, keeps, leads
        self._topic = f"doctor:{secrets.token_hex(4)}"
        self._channel = client.channel(self._topic)

    def findings(self) -> Iterator[Finding]:
        """Look at everything, unless it does not answer or is too old."""
        answer = self._ask("PING")
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            yield found("redis-unreachable", f"it does not answer: {answer}")
            return
        if old := self._too_old():
            yield old
            return
        yield from self._refusals(answer)
        yield from self._buffer()
        yield from self._clock()

    def _ask(self, *words: Any) -> Any:
        [answer] = self._client.execute([(self._channel, words)])
        return answer

    def _too_old(self) -> Finding | None:
        info = self._ask("INFO", "server")
        match = re.search(rb"redis_version:(\d+)\.(\d+)", info) if isinstance(info, bytes) else None
        floor, what = OLDEST, "a node"
        if self._keeps:
            floor, what = WITH_STREAMS, "a history"
        if self._client.sharded:
            floor, what = WITH_SHARDS, "a cluster"
        if match is None or (int(match[1]), int(match[2])) >= floor:
            return None
        seen = f"{int(match[1])}.{int(match[2])}"
        return found("redis-version", f"it is Redis {seen}, and {what} needs {floor[0]}.{floor[1]} or newer")

    def _refusals(self, ping: Any) -> Iterator[Finding]:
        publish, subscribe = self._client.command("PUBLISH"), self._client.command("SUBSCRIBE")
        answers = {"PING": ping, publish: self._ask(publish, self._channel, NO_NODE), subscribe: self._subscribe()}
        kept, led = self._keep() if self._keeps else None, self._lead() if self._leads else None
        unwritten = [answer for answer in (*answers.values(), kept, led) if _refuses_writes(answer)]
        if unwritten:
            yield found("redis-writes", f"it answers: {unwritten[0]}")
            return
        refused = [f"{command} ({answer})" for command, answer in answers.items() if isinstance(answer, Exception)]
        if refused:
            yield found("redis-acl", f"it refuses {'; '.join(refused)}", self._client.acl_remedy)
        if kept:
            yield found("redis-acl", f"it refuses to keep a history ({kept})", self._client.history_remedy)
        if isinstance(led, Exception):
            remedy = f"give its user also +eval +get +set +del ~{self._client.channel('leader:').decode()}*"
            yield found("redis-acl", f"it refuses to tell who leads ({led})", remedy)

    def _subscribe(self) -> Any:
        try:
            connection = self._client.connect(self._client.pool(self._channel))
            try:
                connection.send_command(self._client.command("SUBSCRIBE"), self._channel)
                return read_answer(connection)
            finally:
                connection.disconnect()
        except FAILURES as error:
            return error

    def _keep(self) -> BaseException | None:
        """Keep a message, and return what Redis has against it; what is kept is removed."""
        archive = RedisArchive(self._client, NO_NODE, self._client.execute)
        try:
            archive.keep(self._topic, History(size=1, ttl=1), b"{}", "")
            archive.forget(self._topic)
        except (NotPublished, InvalidOption) as error:
            return error.__cause__ or error
        return None

    def _lead(self) -> Any:
        key = self._client.channel(f"leader:{self._topic}")
        [answer] = self._client.execute([(key, ("EVAL", TAKE, 1, key, b"doctor", 1))])
        self._ask("DEL", key)
        return answer

    def _buffer(self) -> Iterator[Finding]:
        answer = self._ask("CONFIG", "GET", "client-output-buffer-limit")
        if not isinstance(answer, list) or len(answer) < 2:
            return  # it is not for us to know
        match = re.search(rb"pubsub (\d+) (\d+) (\d+)", answer[1])
        if match is None:
            return
        hard, soft = int(match[1]), int(match[2])
        if 0 < hard < HARD_LIMIT or 0 < soft < SOFT_LIMIT:
            yield found("redis-buffer", f"client-output-buffer-limit is {match[0].decode()!r}")

    def _clock(self) -> Iterator[Finding]:
        before = time.time()
        answer = self._ask("TIME")
        after = time.time()
        if not isinstance(answer, list):
            return
        there = int(answer[0]) + int(answer[1]) / 1e6
        apart = max(before - there, there - after)
        if apart > SKEW:
            yield found("clock", f"they are {apart:.1f} s apart")


def _refuses_writes(answer: Any) -> bool:
    """Tell whether this is how a Redis answers that takes no writes."""
    return isinstance(answer, OutOfMemoryError | ReadOnlyError) or (
        isinstance(answer, ResponseError) and str(answer).startswith(FULL_DISK)
    )
