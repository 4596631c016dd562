"""An adapter and a publisher that remember what they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.event import Event

from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.adapter import Adapter, Publisher
from tests.support.processes import DEADLINE

JSON = Json()
#: A broadcast, and how it is published.
HELLO = Broadcast("room:1", "said", {"n": 1})
PACKED = ("room:1", b'J\x00\x04said{"n":1}')


class Outside(Publisher):
    """Remembers what is published without a node."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def publish(self, topic: str, data: bytes) -> None:
        self.asked.append(("from outside", topic, data))

    def close(self) -> None:
        self.asked.append("close")


class Recording(Adapter):
    """Remembers what it is asked for, and can be told what another node has published.

    :param failures: what is raised by one start after the other.
    """

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[Any] = []
        self.failures = list(failures)
        #: What each of these waits for.
        self.gates = {verb: Event() for verb in ("start", "subscribe", "stop", "greet")}
        for gate in self.gates.values():
            gate.set()
        #: What the next subscription fails with.
        self.failure: Exception | None = None

    def publisher(self) -> Publisher:
        self.asked.append("publisher")
        return Outside(self.asked)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        assert self.gates["start"].wait(DEADLINE)
        if self.failures:
            raise self.failures.pop(0)
        self.asked.append("start")
        self.node, self.receive, self.gone = node, receive, gone

    def stop(self) -> None:
        assert self.gates["stop"].wait(DEADLINE)
        self.asked.append("stop")

    def subscribe(self, topic: str) -> None:
        assert self.gates["subscribe"].wait(DEADLINE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        self.asked.append(f"+{topic}")

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(f"-{topic}")

    def publish(self, topic: str, data: bytes) -> None:
        self.asked.append((topic, data))
