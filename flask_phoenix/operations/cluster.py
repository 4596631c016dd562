"""Asking all nodes, this one included."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gevent.event import Event

from ..exceptions import InvalidOption
from ..protocol.messages import Broadcast
from ..pubsub.local import Subscriber
from ..runtime.engine import Engine
from ..tokens import Secret
from .answers import USUAL
from .requests import ANSWER, REPLY, REQUEST, TOPIC, Request, write

#: Seconds that nodes have to answer.
TIMEOUT = 2.0
#: Bytes of all answers to one request that are kept; what comes beyond them counts as no answer.
ANSWERS_LIMIT = 32 << 20


class Answers(NamedTuple):
    """What the nodes have answered."""

    #: By the names of the nodes.
    by_node: dict[str, dict[str, Any]]
    #: Nodes that have answered the request before, and not this one.
    missing: set[str]


class Pending:
    """A request whose answers are waited for."""

    def __init__(self, nodes: set[str]) -> None:
        self._left = set(nodes)
        self._bytes = 0
        self._known = bool(nodes)
        self.answers: dict[str, dict[str, Any]] = {}
        #: Every node that is known has answered.
        self.complete = Event()

    def take(self, node: str, answer: dict[str, Any], size: int) -> None:
        """Take the answer of a node."""
        self._bytes += size
        if self._bytes <= ANSWERS_LIMIT:
            self.answers[node] = answer
        self._left.discard(node)
        if self._known and not self._left:
            self.complete.set()


class Cluster:
    """Asks all nodes of an app, from one of them: ``with Cluster(engine, secrets) as cluster``.

    The first request takes its whole time, since nobody knows which nodes there are; each further one returns when all
    that have answered the one before have answered.

    :param secrets: returns the app's secrets; the first one signs.
    :param timeout: seconds that nodes have to answer.
    """

    def __init__(self, engine: Engine, secrets: Callable[[], Sequence[Secret]], timeout: float = TIMEOUT) -> None:
        self._engine = engine
        self._secrets = secrets
        self._timeout = timeout
        self._reply = f"{REPLY}{new_id()}"
        self._subscriber = Subscriber(self._receive)
        self._pending: dict[str, Pending] = {}
        #: The nodes that have answered.
        self.nodes: set[str] = set()

    def __enter__(self) -> Cluster:
        self._secrets()  # there are some, or it raises
        self._engine.pubsub.subscribe(self._reply, self._subscriber)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.pubsub.unsubscribe(self._reply, self._subscriber)

    def ask(self, name: str, **about: Any) -> Answers:
        """Ask all nodes for something: ``report``, ``connections``, ``topics``, ``disconnect``.

        :param about: what else the request says; see :class:`.Operations`.
        :raises NotPublished: no node can be reached.
        """
        request = Request(new_id(), self._reply, name, about)
        pending = self._pending[request.id] = Pending(self.nodes)
        try:
            token = write(request, self._secrets()[0])
            self._engine.broadcast(Broadcast(TOPIC, REQUEST, {"token": token}))
            pending.complete.wait(self._timeout)
        finally:
            del self._pending[request.id]
        missing, self.nodes = self.nodes - pending.answers.keys(), set(pending.answers)
        return Answers(pending.answers, missing)

    def reports(self) -> list[dict[str, Any]]:
        """Return the report of each node, ordered by host and process."""
        found = [answer["report"] for answer in self._ask("report")]
        return sorted(found, key=lambda report: (report["host"], report["pid"]))

    def connections(self, limit: int = USUAL, **filters: str) -> tuple[int, list[dict[str, Any]]]:
        """Return how many connections the filters leave, and some of them: those for which the most waits.

        :param filters: of :data:`.FILTERS`.
        """
        answers = self._ask("connections", limit=limit, **filters)
        found = [each for answer in answers for each in answer["connections"]]
        found.sort(key=lambda each: (-each["outbox_bytes"] - each["inbox_bytes"], each["connection"]))
        return sum(answer["count"] for answer in answers), found[:limit]

    def topics(self, pattern: str = "*", limit: int = USUAL) -> tuple[int, dict[str, int]]:
        """Return how many topics of a pattern the fullest node has, and the largest ones with their subscribers."""
        answers = self._ask("topics", pattern=pattern, limit=limit)
        sizes: Counter[str] = Counter()
        for each in [each for answer in answers for each in answer["topics"]]:
            sizes[each["topic"]] += each["subscribers"]
        return max([answer["count"] for answer in answers], default=0), dict(sizes.most_common(limit))

    def disconnect(self, **filters: str) -> int:
        """Close the connections that the filters leave; return how many.

        :raises InvalidOption: no filter is given.
        """
        return sum(answer["closed"] for answer in self._ask("disconnect", **filters))

    def _ask(self, name: str, **about: Any) -> list[dict[str, Any]]:
        """Return what nodes have answered, but for those that failed.

        :raises InvalidOption: all of them say what is wrong with the request.
        """
        answers = self.ask(name, **about).by_node.values()
        good = [answer for answer in answers if "error" not in answer]
        if answers and not good:
            raise InvalidOption(next(iter(answers))["error"])
        return good

    def _receive(self, broadcast: Broadcast) -> None:
        if broadcast.event != ANSWER:
            return
        size = len(broadcast.payload)
        answer = self._engine.pubsub.read(broadcast).payload
        node, pending = answer.pop("node"), self._pending.get(answer.pop("id"))
        if pending is not None:
            pending.take(node, answer, size)
        else:
            self.nodes.add(node)  # it was too slow this time


def new_id() -> str:
    """Return what nobody can guess."""
    return secrets.token_urlsafe(16)
