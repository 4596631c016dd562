"""Which other nodes there are, where the adapter does not say: they tell each other when they come and go."""

from __future__ import annotations

import logging
from typing import Any

import gevent

from .. import clock
from ..protocol.messages import INTERNAL, Broadcast
from ..pubsub.failures import log_failure
from ..pubsub.local import Subscription
from .engine import Engine
from .inbox import Inbox
from .node import Service

log = logging.getLogger("flask_phoenix.pubsub")

TOPIC = f"{INTERNAL}nodes"
#: What nodes say there: a sign of life, and the last word.
HERE, GONE = "here", "gone"
#: Seconds between two signs of life.
PERIOD = 5.0
#: Seconds of silence after which a node counts as gone. Since it is looked for once in a period, that is known within
#: half a minute.
LIMIT = 25.0


class Peers(Service):
    """Tells the other nodes of this one, and this one of them.

    Silence is no end: what a node that fell silent has tracked is the trackers' to judge.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        #: Receivers of the signals may block, which what brings broadcasts may not.
        self._inbox = Inbox(engine.runners)
        #: When each of the other nodes was heard last.
        self._heard: dict[str, float] = {}
        self._subscription = Subscription(engine.pubsub, TOPIC, self._receive)
        #: None: this node says nothing, or no more.
        self._timer: Any = None
        self._last_sign = 0.0

    def start(self) -> None:
        """Wait for :meth:`greet`, which may block."""

    def greet(self) -> None:
        """Tell the other nodes, and listen to them."""
        adapter = self._engine.node.adapter
        if adapter is None or adapter.meets or not self._subscription.start():
            return
        self._last_sign = clock.monotonic()
        self._timer = gevent.get_hub().loop.timer(PERIOD, PERIOD)
        self._timer.start(self._look)
        self._say(HERE)

    def farewell(self) -> None:
        """Say that this node goes, once."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()
            self._say(GONE)

    def stop(self) -> None:
        """Know nobody any more."""
        self.farewell()
        self._inbox.clear()
        self._heard.clear()
        self._subscription.stop()

    def gone(self, node: str) -> None:
        """Expect no sign of a node of which the adapter knows that it has ended."""
        self._heard.pop(node, None)

    def _receive(self, broadcast: Broadcast) -> None:
        node = self._engine.pubsub.read(broadcast).payload["node"]
        if broadcast.event == HERE:
            if node not in self._heard:
                self._inbox.put(self._engine.node.note_joined, node)
            self._heard[node] = clock.monotonic()
        elif self._heard.pop(node, None) is not None:
            log.info("node %s has ended", node)
            self._inbox.put(self._engine.node.note_gone, node)

    def _look(self) -> None:
        """Give a sign of life, and look who gives none.

        A process that did not run for a while, or whose way to the others is lost, has heard nothing meanwhile; that
        says nothing about the other nodes.
        """
        now, adapter = clock.monotonic(), self._engine.node.adapter
        if now - self._last_sign > 2 * PERIOD or (adapter is not None and adapter.lost):
            self._heard = dict.fromkeys(self._heard, now)
        self._last_sign = now
        self._say(HERE)
        for node in [node for node, heard in self._heard.items() if now - heard > LIMIT]:
            del self._heard[node]
            log.warning("node %s has not been heard for %.0f s, and counts as gone", node, LIMIT)
            self._inbox.put(self._engine.node.note_gone, node)

    def _say(self, event: str) -> None:
        try:
            self._engine.publish(Broadcast(TOPIC, event, {"node": self._engine.node.name}))
        except BaseException:  # the timer goes on
            log_failure(log, "the other nodes do not hear of this one")
