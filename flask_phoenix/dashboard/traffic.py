"""What is broadcast on one topic: how much of it there is, and some of it to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import clock
from ..exceptions import PhoenixError
from ..protocol.messages import Broadcast
from ..pubsub.local import Subscriber
from ..runtime.engine import Engine
from .shown import parameters, shortened

#: Messages that are told at a time; the others are counted.
TOLD = 8
#: Bytes of a payload that is read.
READ_LIMIT = 16384


class Traffic:
    """Hears one topic, on all nodes, until :attr:`end` is called; it may block when it begins."""

    def __init__(self, engine: Engine, topic: str) -> None:
        self._engine = engine
        self._taken: list[tuple[float, Broadcast]] = []
        self._skipped = 0
        #: How much has come since :meth:`rate` was asked.
        self._count = self._size = 0
        self._since = clock.monotonic()
        self.end: Callable[[], None] = engine.listen(topic, Subscriber(self._notify))

    def _notify(self, broadcast: Broadcast) -> None:
        self._count += 1
        self._size += len(broadcast.payload)
        if len(self._taken) < TOLD:
            self._taken.append((clock.time(), broadcast))
        else:
            self._skipped += 1

    def take(self) -> dict[str, Any]:
        """Return what has come since it was asked last, the oldest first."""
        taken, skipped, self._taken, self._skipped = self._taken, self._skipped, [], 0
        return {"messages": [self._told(*each) for each in taken], "skipped": skipped}

    def rate(self) -> dict[str, Any]:
        """Return how much comes in a second."""
        now = clock.monotonic()
        seconds, count, size = max(now - self._since, 1e-3), self._count, self._size
        self._since, self._count, self._size = now, 0, 0
        return {"at": clock.time(), "messages": round(count / seconds, 2), "bytes": round(size / seconds)}

    def _told(self, at: float, broadcast: Broadcast) -> dict[str, Any]:
        size = len(broadcast.payload)
        return {
            "at": round(at, 3),
            "event": shortened(broadcast.event),
            "size": size,
            "payload": self._payload(broadcast),
        }

    def _payload(self, broadcast: Broadcast) -> str:
        if len(broadcast.payload) > READ_LIMIT:
            return "too large to show"
        try:
            return parameters(self._engine.pubsub.read(broadcast).payload, self._engine.filter_parameters)
        except PhoenixError as error:
            return f"unreadable: {error}"
