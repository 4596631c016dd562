"""What one process does, second by second, while somebody looks at a dashboard, on whichever node."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from heapq import nlargest
from typing import Any

import gevent
from flask import Flask

from .. import clock, signals
from ..protocol.messages import INTERNAL
from ..runtime.connection import Connection
from ..runtime.engine import Engine
from ..runtime.meter import COUNTERS, Timing
from .latencies import Latencies
from .names import TOPIC
from .shown import shortened
from .troubles import Troubles

#: Seconds between two looks at how late the event loop is.
LAG_PERIOD = 0.05
#: Topics and slow clients that a report names.
LARGEST, SLOWEST = 8, 8
#: Bytes that have to wait for a client before it is called slow: others wait for a moment.
SLOW_BYTES = 4096


class Collector(Timing):
    """Measures what happens often: switched on by the first viewer, and off after the last.

    :param mount: of the dashboard itself, which is not measured.
    :param presences: returns how many entries each presence has.
    """

    def __init__(self, app: Flask, engine: Engine, mount: str, presences: Callable[[], dict[str, int]]) -> None:
        self._app = app
        self._engine = engine
        self._mount = mount
        self._presences = presences
        self.troubles = Troubles(app, engine)
        #: How often the dashboard itself hears each topic, beside those who have joined it.
        self.heard: Counter[str] = Counter()
        self.running = False
        #: It has begun to count what passes: nobody else did.
        self._began_meter = False
        self._handlers, self._deliveries = Latencies(), Latencies()
        self._joins = self._connects = 0
        self._lag = self._look_due = self._reported_at = 0.0
        self._timer: Any = None
        self._told = 0
        self._totals: dict[str, int] = {}

    def start(self) -> None:
        """Measure from now on."""
        engine = self._engine
        self.running, self._began_meter = True, engine.meter is None
        self._totals = engine.watch().totals
        engine.add_timing(self)
        signals.channel_joined.connect(self._note_join, self._app)
        signals.socket_connected.connect(self._note_connect, self._app)
        self._joins = self._connects = self._told = 0
        self._handlers, self._deliveries = Latencies(), Latencies()
        self._reported_at, self._lag = clock.monotonic(), 0.0
        self._look_due = self._reported_at + LAG_PERIOD
        self._timer = gevent.get_hub().loop.timer(LAG_PERIOD, LAG_PERIOD, ref=False)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Measure no more."""
        if not self.running:
            return
        self.running = False
        self._timer.close()
        self._engine.remove_timing(self)
        signals.channel_joined.disconnect(self._note_join, self._app)
        signals.socket_connected.disconnect(self._note_connect, self._app)
        if self._began_meter:
            self._engine.stop_watching()

    def tell_again(self) -> None:
        """Tell of all troubles that are remembered with the next report: somebody new looks."""
        self._told = 0

    # What is told on the hot path.

    def handled(self, mount: str, pattern: str, outcome: str, seconds: float) -> None:
        """Measure a handler."""
        if mount != self._mount:
            self._handlers.add(seconds)

    def written(self, topic: str, seconds: float, remote: bool) -> None:
        """Measure how long a broadcast took from its publisher to the sockets."""
        if topic != TOPIC:
            self._deliveries.add(max(0.0, seconds))

    def _note_join(self, app: Flask, mount: str, **_: Any) -> None:
        self._joins += mount != self._mount

    def _note_connect(self, app: Flask, mount: str, **_: Any) -> None:
        self._connects += mount != self._mount

    def _look(self) -> None:
        now = clock.monotonic()
        self._lag = max(self._lag, now - self._look_due)
        self._look_due = now + LAG_PERIOD

    # The report of each second.

    def report(self) -> dict[str, Any]:
        """Return what has happened since the last report, and what there is at this moment, as a dict of JSON.

        It looks at each connection and each topic once, about a microsecond for each.
        """
        engine, now = self._engine, clock.monotonic()
        seconds, self._reported_at = max(now - self._reported_at, 1e-3), now
        lag, self._lag = max(self._lag, now - self._look_due, 0.0), 0.0
        joins, connects, self._joins, self._connects = self._joins, self._connects, 0, 0
        totals, before = engine.watch().totals, self._totals
        self._totals = totals
        self._told, crashes, events = self.troubles.since(self._told)
        return {
            "node": engine.node.name,
            "pid": os.getpid(),
            "at": round(clock.time(), 3),
            "draining": engine.draining,
            "rates": {
                **{name: round(max(0, totals[name] - before.get(name, 0)) / seconds, 2) for name in COUNTERS},
                "joins": round(joins / seconds, 2),
                "connects": round(connects / seconds, 2),
            },
            "lag": round(lag, 5),
            "handlers": self._handlers.take(),
            "deliveries": self._deliveries.take(),
            "busy": engine.runners.busy,
            "inbox_bytes": engine.budget.total,
            "missed": engine.missed,
            "limits": dict(engine.limits),
            "presence": self._presences(),
            "adapter": self._adapter(),
            "nodes": sorted(engine.node.others),
            "crash_count": self.troubles.crash_count,
            "slow_count": self.troubles.slow_count,
            "crashes": crashes,
            "events": events,
            **self._clients(),
            **self._topics(),
        }

    def _adapter(self) -> dict[str, Any] | None:
        adapter = self._engine.node.adapter
        if adapter is None:
            return None
        return {"kind": type(adapter).__name__, "lost": bool(adapter.lost), "unpublished": adapter.unpublished}

    def _clients(self) -> dict[str, Any]:
        """Look at each client but those of the dashboard."""
        clients = [each for each in self._engine.connections if each.bounds.mount != self._mount]
        waiting = [(size, each) for each in clients if (size := each.carrier.waiting)]
        slowest = nlargest(SLOWEST, waiting, key=lambda pair: pair[0])
        return {
            "connections": len(clients),
            "transports": dict(Counter(each.carrier.transport for each in clients)),
            "channels": sum(len(each.topics) for each in clients),
            "outbox_bytes": sum(size for size, _ in waiting),
            "slow": [self._slow(each) for size, each in slowest if size >= SLOW_BYTES],
            "slow_now": sum(size >= SLOW_BYTES for size, _ in waiting),
        }

    def _slow(self, connection: Connection) -> dict[str, Any]:
        return {
            "connection": f"{self._engine.node.name}-{connection.number}",
            "id": shortened(connection.id),
            "seconds": round(connection.seconds),
            "waiting": connection.carrier.waiting,
        }

    def _topics(self) -> dict[str, Any]:
        """Look at each topic but the ids of sockets, and those of nodes and of the dashboard."""
        sizes, ids = self._engine.pubsub.sizes(), {each.id for each in self._engine.connections}
        named = [
            (topic, size - self.heard[topic])
            for topic, size in sizes.items()
            if not topic.startswith((INTERNAL, TOPIC)) and topic not in ids and size > self.heard[topic]
        ]
        largest = nlargest(LARGEST, named, key=lambda each: each[1])
        return {"topic_count": len(named), "topics": [[shortened(topic), size] for topic, size in largest]}
