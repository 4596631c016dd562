"""What those who run the app are told of one process: signals, counts, times and traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from blinker import Signal

from ..pubsub.hub import Hub
from ..pubsub.local import PubSub
from ..signals import limit_reached
from .logs import ParameterFilter
from .meter import Meter, Timing, Timings
from .tracing import Tracing


class ProcessTelemetry:
    """Tells of one process, of its hub, its pubsub and its connections; where nobody wants to know, it costs a look."""

    #: Sends a signal from the app, in its context.
    send: Callable[[Signal, dict[str, Any]], Any] = staticmethod(lambda signal, about: signal.send(None, **about))
    #: How many broadcasts did not reach a client, since its transport or its vsn cannot carry them.
    missed = 0

    def __init__(self, hub: Hub, pubsub: PubSub) -> None:
        self.hub = hub
        self.pubsub = pubsub
        #: Each :class:`.Connection` that is open.
        self.connections: set[Any] = set()
        #: Takes out of parameters what no log is to tell.
        self.filter_parameters = ParameterFilter()
        #: Counts what passes, once somebody looks.
        self.meter: Meter | None = None
        #: Is told how long handlers and broadcasts take, where that is measured: see :meth:`add_timing`.
        self.timing: Timing | None = None
        self._timings: tuple[Timing, ...] = ()
        #: Writes traces, where there are any.
        self.tracing: Tracing | None = None
        #: How often each bound was reached, by its name in docs/explanation/security.md.
        self.limits: Counter[str] = Counter()
        #: The topic patterns that some client has joined.
        self.joined_patterns: set[str] = set()

    def tell(self, signal: Signal, **about: Any) -> None:
        """Send a signal, if anybody receives it. What is costly to make is made after a look at its receivers."""
        if signal.receivers:
            self.send(signal, about)

    def reach(self, limit: str, **about: Any) -> None:
        """Count that a bound was reached, and signal it; who calls this logs it, once for each client at most."""
        self.limits[limit] += 1
        self.tell(limit_reached, limit=limit, **about)

    def watch(self) -> Meter:
        """Count what passes, from now on; for the thread of the event loop."""
        if self.meter is None:
            self.meter = self.pubsub.meter = Meter()
        return self.meter

    def stop_watching(self) -> None:
        """Count no more; whoever asks for the counts next begins anew."""
        meter, self.meter, self.pubsub.meter = self.meter, None, None
        if meter is not None:
            meter.close()

    def add_timing(self, timing: Timing) -> None:
        """Tell somebody how long handlers and broadcasts take, from now on; for the thread of the event loop."""
        self._set_timings((*self._timings, timing))

    def remove_timing(self, timing: Timing) -> None:
        """Tell it no more."""
        self._set_timings(tuple(each for each in self._timings if each is not timing))

    def _set_timings(self, timings: tuple[Timing, ...]) -> None:
        self._timings = timings
        self.timing = self.hub.timing = Timings(timings) if len(timings) > 1 else timings[0] if timings else None
        for connection in list(self.connections):
            connection.observe()
