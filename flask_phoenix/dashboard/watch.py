"""Looking on: which nodes have viewers, when each node measures, and how its reports come to the viewers."""

from __future__ import annotations

import logging
from contextvars import Context
from typing import Any

import gevent

from .. import clock
from ..exceptions import PhoenixError
from ..protocol.messages import Broadcast
from ..pubsub.failures import log_failure
from ..pubsub.local import Subscription
from ..runtime.engine import Engine
from ..runtime.node import Service
from .collector import Collector
from .names import REPORTS, TOPIC, WATCHING
from .overview import Overview

log = logging.getLogger("flask_phoenix.server")

#: Seconds between two reports; more, where one takes more than this share of them.
PERIOD, SHARE = 1.0, 0.02
#: Seconds after the whole second at which viewers are told: the reports of other nodes have come by then.
GATHER = 0.25
#: Seconds between two calls of a node with viewers to the others, and after which these take it to have none.
CALL_PERIOD, CALL_LIMIT = 4.0, 12.0


class Watch(Service):
    """Has this node report while anybody looks, on whichever node, and tells those who look here of all nodes."""

    def __init__(self, engine: Engine, collector: Collector) -> None:
        self._engine = engine
        self._collector = collector
        self.overview = Overview()
        self._viewers: set[Any] = set()
        #: The other nodes that have viewers, and when they are taken to have none.
        self._callers: dict[str, float] = {}
        self._called_at = 0.0
        self._calls = Subscription(engine.pubsub, WATCHING, self._receive_call)
        self._reports = Subscription(engine.pubsub, REPORTS, self._receive_report)
        self._greenlet: Any = None

    # Who looks on here.

    def enter(self, viewer: Any) -> None:
        """Let somebody look on; may block until other nodes know."""
        self._viewers.add(viewer)
        if len(self._viewers) == 1:
            self.overview = Overview()
            try:
                self._hear_reports()
            except BaseException:
                self.leave(viewer)
                raise
        self._call()
        self._collector.tell_again()
        self._run_while_watched()

    def leave(self, viewer: Any) -> None:
        """Let somebody go."""
        self._viewers.discard(viewer)
        if not self._viewers:
            self._publish(WATCHING, "left", {"node": self._engine.node.name})
            self._reports.stop()
            self._end_unless_watched()

    @property
    def node(self) -> str:
        """The name of this node."""
        return self._engine.node.name

    @property
    def watched(self) -> bool:
        """Whether anybody looks, here or elsewhere."""
        return bool(self._viewers or self._callers)

    def alive(self) -> list[str]:
        """Return the nodes that have reported lately."""
        return self.overview.alive(clock.monotonic())

    # With the connections of this process.

    def start(self) -> None:
        """Do nothing: nobody looks."""

    def greet(self) -> None:
        """Listen to nodes with viewers; may block."""
        if self._engine.node.adapter is not None:
            self._calls.start()

    def farewell(self) -> None:
        """Tell nobody: other nodes see that this one has ended."""

    def stop(self) -> None:
        """End."""
        self._calls.stop()
        self._viewers.clear()
        self._callers.clear()
        self._reports.stop()
        self._end_unless_watched()

    def gone(self, node: str) -> None:
        """Take note that another node has ended."""
        self._callers.pop(node, None)
        self.overview.gone(node, round(clock.time(), 3))

    # What nodes tell each other.

    def _receive_call(self, broadcast: Broadcast) -> None:
        node = self._engine.pubsub.read(broadcast).payload["node"]
        if broadcast.event == "left":
            self._callers.pop(node, None)
            self._end_unless_watched()
            return
        if node not in self._callers:
            self._collector.tell_again()
        self._callers[node] = clock.monotonic() + CALL_LIMIT
        self._run_while_watched()

    def _receive_report(self, broadcast: Broadcast) -> None:
        self.overview.take(self._engine.pubsub.read(broadcast).payload, clock.monotonic())

    def _hear_reports(self) -> None:
        if self._engine.node.adapter is not None:
            self._reports.start()

    def _call(self) -> None:
        self._called_at = clock.monotonic()
        self._publish(WATCHING, "watch", {"node": self._engine.node.name})

    def _publish(self, topic: str, event: str, payload: dict[str, Any]) -> None:
        """Tell the other nodes; what is lost comes again soon."""
        try:
            self._engine.publish(Broadcast(topic, event, payload))
        except PhoenixError as error:
            log.debug("the dashboards of other nodes are not told: %s", error)

    # What happens each second.

    def _run_while_watched(self) -> None:
        if self._greenlet is None and self.watched:
            self._collector.start()
            self._greenlet = Context().run(gevent.spawn, self._run)

    def _end_unless_watched(self) -> None:
        if self._greenlet is not None and not self.watched:
            greenlet, self._greenlet = self._greenlet, None
            self._collector.stop()
            greenlet.kill(block=False)

    def _run(self) -> None:
        pause = PERIOD
        while True:
            gevent.sleep(pause - clock.time() % pause)
            began = clock.monotonic()
            try:
                self._forget_callers(began)
                if self._greenlet is not gevent.getcurrent():
                    return
                self._report()
                pause = max(PERIOD, round((clock.monotonic() - began) / SHARE))
                if self._viewers:
                    gevent.sleep(GATHER)
                    self._tell_viewers()
            except Exception:
                log_failure(log, "the dashboard has missed a second")

    def _forget_callers(self, now: float) -> None:
        for node in [node for node, until in self._callers.items() if until < now]:
            del self._callers[node]
        self._end_unless_watched()

    def _report(self) -> None:
        report = self._collector.report()
        if self._viewers:
            self.overview.take(report, clock.monotonic())
            if clock.monotonic() - self._called_at >= CALL_PERIOD:
                self._call()
        if self._callers:
            self._publish(REPORTS, "report", report)

    def _tell_viewers(self) -> None:
        told = self.overview.tell(clock.monotonic(), clock.time())
        self._engine.broadcast(Broadcast(TOPIC, "second", told), local=True)
