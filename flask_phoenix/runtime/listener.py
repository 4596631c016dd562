"""A function of the app that is called with broadcasts: in order, in an app context, within bounds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..exceptions import InvalidOption
from ..protocol.messages import Broadcast, shown
from .engine import FAILURES, Engine
from .inbox import Inbox

log = logging.getLogger("flask_phoenix.pubsub")

#: Bytes of broadcasts that may wait for one function; further ones are lost for it.
LISTENER_LIMIT = 64 << 20
#: What a broadcast takes in memory beside its payload, in bytes.
BROADCAST_OVERHEAD = 500


class Listener:
    """Calls a function with broadcasts, and delays nobody.

    :raises InvalidOption: it is no function.
    """

    def __init__(self, engine: Engine, function: Callable[[Broadcast], Any]) -> None:
        if not callable(function):
            raise InvalidOption(f"expected a function, which is called with each broadcast; got {shown(function)}")
        self._engine = engine
        self._function = function
        self._inbox = Inbox(engine.runners)
        self._waiting = 0
        self._lost = 0

    def notify(self, broadcast: Broadcast) -> None:
        """Queue a broadcast, whose payload is text or bytes yet."""
        # Where nothing is served, in a script or a shell, no event loop runs that would call it later.
        if not self._engine.hub.running:
            self._call(broadcast)
        elif self._waiting < LISTENER_LIMIT:
            self._waiting += size_of(broadcast)
            self._inbox.put(self._call_queued, broadcast)
        else:
            self._lose()

    def _call_queued(self, broadcast: Broadcast) -> None:
        self._waiting -= size_of(broadcast)
        if self._lost and self._waiting < LISTENER_LIMIT // 2:
            log.error("%r has lost %d broadcasts, for which it was too slow", self._function, self._lost)
            self._lost = 0
        self._call(broadcast)

    def _call(self, broadcast: Broadcast) -> None:
        try:
            with self._engine.context():
                self._function(self._engine.pubsub.read(broadcast))
        except FAILURES as error:
            log.exception("%r failed at a broadcast on %s", self._function, shown(broadcast.topic))
            self._engine.caught(error)

    def _lose(self) -> None:
        self._lost += 1
        if self._lost == 1:
            self._engine.reach("listener")
            log.error(
                "%r is slower than its broadcasts: %d MiB of them wait, and further ones are lost for it",
                self._function,
                LISTENER_LIMIT >> 20,
            )


def size_of(broadcast: Broadcast) -> int:
    """Return the bytes that a broadcast takes while it waits."""
    return len(broadcast.payload) + BROADCAST_OVERHEAD
