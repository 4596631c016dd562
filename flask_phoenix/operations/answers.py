"""What a node answers to operators: what it has and does, its clients, its topics; and clients are closed for them."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from heapq import nlargest
from typing import Any

import gevent
from gevent.pool import Pool

from ..exceptions import InvalidOption, InvalidToken, NotPublished
from ..protocol.messages import INTERNAL, Broadcast, shown
from ..pubsub.failures import log_failure
from ..pubsub.local import Subscription
from ..runtime.connection import GOING_AWAY, Connection
from ..runtime.engine import Engine
from ..runtime.node import Service
from ..tokens import Secret
from .requests import ANSWER, TOPIC, Guard, Request

log = logging.getLogger("flask_phoenix.server")

#: Requests that are answered at the same time; further ones are not heard.
AT_ONCE = 64
#: Connections or topics that are looked at before others have their turn.
SLICE = 500
#: Connections or topics in one answer, at most, and unless the request says otherwise.
MOST, USUAL = 1000, 100
#: Topics that are named of each connection, and their characters together where there may be many connections.
NAMED_TOPICS, NAMED_CHARACTERS = 20, 200
#: Peers for which the most bytes wait, of those that a report names.
SLOWEST = 10


class Operations(Service):
    """Answers the requests of operators for one app in one process; without a ``SECRET_KEY`` it hears none.

    :param inspect: returns what the process has and does.
    :param secrets: returns what requests may be signed with; raises :class:`.InvalidOption` where there is nothing.
    """

    def __init__(
        self, engine: Engine, inspect: Callable[[], dict[str, Any]], secrets: Callable[[], Sequence[Secret]]
    ) -> None:
        self._engine = engine
        self._inspect = inspect
        self._secrets = secrets
        self._guard = Guard(secrets)
        self._subscription = Subscription(engine.pubsub, TOPIC, self._receive)
        self._working = Pool(AT_ONCE)
        self._refused = False
        self._answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "report": self._report,
            "connections": self._connections,
            "topics": self._topics,
            "disconnect": self._disconnect,
        }

    def start(self) -> None:
        """Wait for :meth:`greet`, which may block."""

    def greet(self) -> None:
        """Hear requests."""
        if self._has_secret():
            self._subscription.start()

    def farewell(self) -> None:
        """Say nothing: who asks sees that no answer comes."""

    def stop(self) -> None:
        """Hear no more."""
        self._subscription.stop()

    def gone(self, node: str) -> None:
        """Another node has ended, which is all the same here."""

    def _has_secret(self) -> bool:
        try:
            return bool(self._secrets())
        except InvalidOption:
            return False

    def _receive(self, broadcast: Broadcast) -> None:
        if self._working.full():
            self._engine.reach("operator_requests")
        else:
            self._working.spawn(self._take, broadcast)

    def _take(self, broadcast: Broadcast) -> None:
        try:
            request = self._guard.read(self._engine.pubsub.read(broadcast).payload.get("token"))
        except Exception as failure:  # of whatever somebody has published there
            self._refuse(failure)
            return
        try:
            answer = self._answer(request)
        except Exception as failure:
            log_failure(log, "a request of an operator, %s, failed", shown(request.name))
            answer = {"error": f"failed: {type(failure).__name__}"}
        try:
            about = {"id": request.id, "node": self._engine.node.name, **answer}
            self._engine.broadcast(Broadcast(request.reply, ANSWER, about))
        except NotPublished:
            """Nobody waits for it any more, or can be reached."""

    def _refuse(self, failure: Exception) -> None:
        """Count a request that is refused; the first is logged."""
        self._engine.reach("operator_requests")
        if not self._refused:
            self._refused = True
            why = failure if isinstance(failure, InvalidToken) else type(failure).__name__
            log.warning("a request of an operator was refused, and others may follow: %s", why)

    def _answer(self, request: Request) -> dict[str, Any]:
        answer = self._answers.get(request.name)
        if answer is None:
            return {"error": f"nothing is known here as {shown(request.name)}: is this process of an older version?"}
        try:
            return answer(request.about)
        except InvalidOption as error:
            return {"error": str(error)}

    def _report(self, about: dict[str, Any]) -> dict[str, Any]:
        """What the process has and does, and the peers for which the most waits."""
        slowest = nlargest(SLOWEST, self._connections_of({}), key=lambda connection: connection.carrier.waiting)
        waiting = [self._described(connection) for connection in slowest if connection.carrier.waiting]
        return {"report": {**self._inspect(), "host": socket.gethostname(), "slowest": waiting}}

    def _connections(self, about: dict[str, Any]) -> dict[str, Any]:
        """The connections that the filters leave, those for which the most waits first."""
        found = list(self._connections_of(about))
        shown_ones = nlargest(limit_of(about), found, key=weight)
        described = [self._described(connection) for connection in shown_ones]
        if text_of(about, "connection"):
            for one, connection in zip(described, shown_ones, strict=True):
                one["topics"] = sorted(connection.topics)[:NAMED_TOPICS]
                one["params"] = shown(self._engine.filter_parameters(connection.socket.params))
        return {"count": len(found), "connections": described}

    def _topics(self, about: dict[str, Any]) -> dict[str, Any]:
        """The topics of a pattern, the largest first."""
        pattern = text_of(about, "pattern") or "*"
        sizes = self._engine.pubsub.sizes()
        ids = {connection.id for connection in self._engine.connections}
        found: list[tuple[int, str]] = []
        for number, (topic, size) in enumerate(sizes.items(), 1):
            if number % SLICE == 0:
                gevent.sleep(0)
            if topic not in ids and not topic.startswith(INTERNAL) and matches(pattern, topic):
                found.append((size, topic))
        largest = nlargest(limit_of(about), found)
        return {"count": len(found), "topics": [{"topic": topic, "subscribers": size} for size, topic in largest]}

    def _disconnect(self, about: dict[str, Any]) -> dict[str, Any]:
        """Close the connections that the filters leave, as ``phoenix.disconnect`` does."""
        if not any(text_of(about, name) for name in FILTERS):
            raise InvalidOption(f"say which connections: {', '.join(FILTERS)}")
        closed = 0
        for connection in self._connections_of(about):
            if connection.open:
                connection.close(GOING_AWAY, "disconnected")
                closed += 1
        return {"closed": closed}

    def _connections_of(self, about: dict[str, Any]) -> Iterator[Connection]:
        """Return the connections that the filters leave; others have their turn meanwhile."""
        wanted = {name: value for name in FILTERS if (value := text_of(about, name))}
        for number, connection in enumerate(list(self._engine.connections), 1):
            if number % SLICE == 0:
                gevent.sleep(0)
            if connection.open and all(FILTERS[name](self, connection, value) for name, value in wanted.items()):
                yield connection

    def _described(self, connection: Connection) -> dict[str, Any]:
        return {
            "connection": self.name_of(connection),
            "id": None if connection.id is None else connection.id[:200],
            "socket": type(connection.socket).__name__,
            "mount": connection.bounds.mount,
            "transport": connection.carrier.transport,
            "seconds": round(connection.seconds, 3),
            "channels": len(connection.topics),
            "topics": first_of(sorted(connection.topics)),
            "inbox_bytes": connection.account.size,
            "outbox_bytes": connection.carrier.waiting,
            "missed": connection.missed_count,
        }

    def name_of(self, connection: Connection) -> str:
        """Return what tells a connection from all others of all nodes; its number stands in the lines of the logs."""
        return f"{self._engine.node.name}-{connection.number}"


def first_of(topics: list[str]) -> list[str]:
    """Return the first topics, so many characters at most, the last of them cut."""
    named, left = [], NAMED_CHARACTERS
    for topic in topics[:NAMED_TOPICS]:
        if left > 0:
            named.append(topic[:left])
            left -= len(topic)
    return named


def weight(connection: Connection) -> int:
    """Return the bytes that wait, for the client and for handlers."""
    return connection.carrier.waiting + connection.account.size


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic is of a pattern: itself, or a beginning and an asterisk."""
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern


#: Which connections are meant: each filter is a text, and all that are given have to hold.
FILTERS: dict[str, Callable[[Operations, Connection, str], bool]] = {
    "connection": lambda operations, connection, name: operations.name_of(connection) == name,
    "id": lambda _, connection, id: connection.id == id,
    "mount": lambda _, connection, path: connection.bounds.mount == path,
    "topic": lambda _, connection, pattern: any(matches(pattern, topic) for topic in connection.topics),
    "transport": lambda _, connection, transport: connection.carrier.transport == transport,
}


def limit_of(about: dict[str, Any]) -> int:
    """Return how many are to be named.

    :raises InvalidOption: that is no number from 1 on.
    """
    limit = about.get("limit", USUAL)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise InvalidOption(f"limit is a number from 1 to {MOST}, got {limit!r}")
    return min(limit, MOST)


def text_of(about: dict[str, Any], name: str) -> str:
    """Return a text of a request; empty: there is none.

    :raises InvalidOption: it is no text.
    """
    value = about.get(name) or ""
    if not isinstance(value, str):
        raise InvalidOption(f"{name} is a text, got {value!r:.100}")
    return value
