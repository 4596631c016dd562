"""Metrics of one app for Prometheus, of one process or of several."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gevent
from flask import Blueprint, Flask
from flask.typing import ResponseReturnValue
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from .. import signals
from ..runtime.engine import Engine
from ..runtime.meter import COUNTERS, Timing
from ..runtime.node import Service

#: Bounds of the histograms, in seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Seconds between two looks at what the gauges show: with several processes, another one answers the scrape.
REFRESH_PERIOD = 5.0
#: Where prometheus_client has several processes keep their values.
DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
#: The close codes that are told apart; a client may send any.
CLOSE_CODES = {*range(1000, 1004), *range(1005, 1015)}
#: Topics whose patterns are remembered.
REMEMBERED = 10_000


class Metrics(Timing, Service):
    """What one app counts and measures.

    :param inspect: returns the state of the process.
    :param registry: where the metrics are registered; a registry of their own, unless given.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        inspect: Callable[[], dict[str, Any]],
        registry: CollectorRegistry | None,
        buckets: Sequence[float],
    ) -> None:
        self._engine = engine
        self._inspect = inspect
        self.registry = CollectorRegistry() if registry is None else registry
        self._timer: Any = None
        self._totals: dict[str, int] = {}
        self._patterns: dict[str, str] = {}
        #: The histograms of each set of labels: to find one costs more than to use it.
        self._handlers: dict[tuple[str, ...], Any] = {}
        self._make_histograms(buckets)
        self._make_counters()
        self._make_gauges()
        self._connect(app)
        engine.add_timing(self)
        engine.node.add(self)

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus reads them; of all processes, where they keep them together."""
        self._refresh()
        if DIRECTORY not in os.environ:
            return generate_latest(self.registry)
        forget_dead(Path(os.environ[DIRECTORY]))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    # What is told on the hot path.

    def handled(self, mount: str, pattern: str, outcome: str, seconds: float) -> None:
        """Measure a handler."""
        key = mount, pattern, outcome
        histogram = self._handlers.get(key)
        if histogram is None:
            known = outcome if outcome in ("ok", "error", "noreply", "crashed") else "other"
            histogram = self._handlers[key] = self._handle_in.labels(mount, pattern, known)
            if len(self._handlers) > REMEMBERED:
                self._handlers.clear()
        histogram.observe(seconds)

    def written(self, topic: str, seconds: float, remote: bool) -> None:
        """Measure how long a broadcast took from its publisher to the sockets."""
        pattern = self._patterns.get(topic)
        if pattern is None:
            if len(self._patterns) >= REMEMBERED:
                self._patterns.clear()
            pattern = self._patterns[topic] = self._engine.pattern(topic)
        origin = "remote" if remote else "local"
        histogram = self._handlers.get((pattern, origin))
        if histogram is None:
            histogram = self._handlers[pattern, origin] = self._broadcast.labels(pattern, origin)
        histogram.observe(seconds)

    # With the connections of a process.

    def start(self) -> None:
        """Count what passes, and look now and then."""
        self._totals = {}
        self._engine.watch()
        self._timer = gevent.get_hub().loop.timer(REFRESH_PERIOD, REFRESH_PERIOD, ref=False)
        self._timer.start(self._refresh)

    def greet(self) -> None:
        """Tell nobody."""

    def farewell(self) -> None:
        """Tell nobody."""

    def gone(self, node: str) -> None:
        """Keep nothing of another node."""

    def stop(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _make_histograms(self, buckets: Sequence[float]) -> None:
        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"phoenix_{name}_seconds", text, labels, registry=self.registry, buckets=buckets)

        self._handle_in = histogram("handle_in", "Time of a handler", "mount", "pattern", "outcome")
        self._join = histogram("join", "Time from a join to its reply", "mount", "pattern", "outcome")
        self._broadcast = histogram("broadcast", "Time from publishing to writing", "pattern", "origin")

    def _make_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"phoenix_{name}", text, labels, registry=self.registry)

        self._passed = {name: counter(name, f"{name.replace('_', ' ').capitalize()}") for name in COUNTERS}
        self._connects = counter("connects", "Clients let in", "mount", "transport")
        self._refusals = counter("refusals", "Clients refused at the door", "mount", "transport", "reason")
        self._disconnects = counter("disconnects", "Connections that ended", "mount", "code")
        self._crashes = counter("crashes", "Callbacks of channels that failed", "mount", "pattern")
        self._slow = counter("slow_clients", "Clients closed for reading too slowly", "mount")
        self._missed = counter("missed", "Broadcasts that clients went without", "mount")
        self._limits = counter("limits", "Limits that were reached", "limit")
        self._unpublished = counter("unpublished", "Messages that other nodes did not get")

    def _make_gauges(self) -> None:
        def gauge(name: str, text: str, mode: Any = "livesum", *labels: str) -> Gauge:
            return Gauge(f"phoenix_{name}", text, labels, registry=self.registry, multiprocess_mode=mode)

        self._gauges = {
            "connections": gauge("connections", "Clients"),
            "channels": gauge("channels", "Channels"),
            "topics": gauge("topics", "Topics with subscribers, of each process"),
            "inbox_bytes": gauge("inbox_bytes", "Bytes that wait for handlers"),
            "outbox_bytes": gauge("outbox_bytes", "Bytes that wait for clients"),
            "loop_lag": gauge("loop_lag_seconds", "By how much the latest event loop was late", "livemax"),
            "draining": gauge("draining", "Processes that let their clients go"),
        }
        self._adapter = gauge("adapter_up", "Whether other nodes are reached, from all processes", "livemin")
        self._presence = gauge("presence_entries", "Entries of a presence, on all nodes", "livemax", "presence")

    def _connect(self, app: Flask) -> None:
        """Receive the signals of what happens seldom."""

        def on(signal: Any, receive: Callable[..., Any]) -> None:
            signal.connect(lambda app, **about: receive(**about), app, weak=False)

        on(
            signals.socket_connected,
            lambda connection, mount, **_: self._connects.labels(mount, connection.carrier.transport).inc(),
        )
        on(
            signals.socket_refused,
            lambda mount, transport, reason, **_: self._refusals.labels(mount, transport, reason).inc(),
        )
        on(
            signals.socket_disconnected,
            lambda mount, code, **_: self._disconnects.labels(mount, code if code in CLOSE_CODES else "other").inc(),
        )
        on(
            signals.channel_joined,
            lambda mount, pattern, seconds, **_: self._join.labels(mount, pattern, "ok").observe(seconds),
        )
        on(
            signals.channel_refused,
            lambda mount, pattern, seconds, **_: self._join.labels(mount, pattern, "refused").observe(seconds),
        )
        on(signals.channel_crashed, lambda mount, pattern, **_: self._crashes.labels(mount, pattern).inc())
        on(signals.slow_client, lambda mount, **_: self._slow.labels(mount).inc())
        on(signals.broadcast_missed, lambda mount, **_: self._missed.labels(mount).inc())
        on(signals.limit_reached, lambda limit, **_: self._limits.labels(limit).inc())

    def _refresh(self) -> None:
        """Take over what is not told but looked at."""
        state = self._inspect()
        for name, gauge in self._gauges.items():
            gauge.set(state[name])
        adapter = state["adapter"] or {"lost": False, "unpublished": 0}
        self._adapter.set(not adapter["lost"])
        for presence, entries in state["presence"].items():
            self._presence.labels(presence).set(entries)
        totals = {**state["totals"], "unpublished": adapter["unpublished"]}
        for name, counter in {**self._passed, "unpublished": self._unpublished}.items():
            counter.inc(max(0, totals[name] - self._totals.get(name, 0)))
        self._totals = totals


def forget_dead(directory: Path) -> None:
    """Let gauges show processes that live: of others, that no hook of a server has told of, the files are removed."""
    for path in directory.glob("gauge_live*.db"):
        found = re.search(r"_(\d+)\.db$", path.name)
        if found is not None and not Path(f"/proc/{found[1]}").exists():
            mark_process_dead(int(found[1]))  # type: ignore[no-untyped-call]


def metrics_blueprint(exposition: Callable[[], bytes], name: str) -> Blueprint:
    """Make a blueprint whose ``GET /metrics`` answers a scrape."""
    blueprint = Blueprint(name, __name__)

    @blueprint.get("/metrics")
    def view() -> ResponseReturnValue:
        return exposition(), {"Content-Type": CONTENT_TYPE_LATEST, "Cache-Control": "no-store"}

    return blueprint
