"""What a process does in numbers: what passes it, and how late its event loop is. It counts once somebody looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Any

import gevent

from ..pubsub.hub import WriteTiming
from ..pubsub.local import Counts

#: Seconds between two looks at the clock and at the counters.
PERIOD = 0.5
#: So many looks are remembered: rates and the longest lag are of the last ten seconds.
REMEMBERED = 20


class Timing(WriteTiming):
    """Measures what happens often: the wall between the runtime and who measures."""

    def handled(self, mount: str, pattern: str, outcome: str, seconds: float) -> None:
        """A handler has ended."""
        raise NotImplementedError


class Timings(Timing):
    """Several that measure."""

    def __init__(self, timings: Sequence[Timing]) -> None:
        self._timings = timings

    def handled(self, mount: str, pattern: str, outcome: str, seconds: float) -> None:
        """Tell each."""
        for timing in self._timings:
            timing.handled(mount, pattern, outcome, seconds)

    def written(self, topic: str, seconds: float, remote: bool) -> None:
        """Tell each."""
        for timing in self._timings:
            timing.written(topic, seconds, remote)


class Meter(Counts):
    """Counts messages and their bytes, and watches the event loop, in the thread of that loop.

    Its timer keeps no process alive.
    """

    __slots__ = ("_due", "_looks", "_timer", "bytes_in", "bytes_out", "messages_in", "messages_out")

    def __init__(self) -> None:
        #: Frames that have come from clients, and that have been handed to transports for them, since it counts.
        self.messages_in = self.messages_out = 0
        #: Their bytes; of text that came, its characters.
        self.bytes_in = self.bytes_out = 0
        #: When each look was, how late it came, and the counters of then.
        self._looks: deque[tuple[float, float, tuple[int, ...]]] = deque(maxlen=REMEMBERED)
        self._due = monotonic() + PERIOD
        self._timer: Any = gevent.get_hub().loop.timer(PERIOD, PERIOD, ref=False)
        self._timer.start(self._look)

    def receive(self, size: int) -> None:
        """Count a frame of a client."""
        self.messages_in += 1
        self.bytes_in += size

    def send(self, count: int, size: int) -> None:
        """Count frames for clients, of so many bytes together."""
        self.messages_out += count
        self.bytes_out += size

    def close(self) -> None:
        """Watch no more."""
        self._timer.close()

    @property
    def lag(self) -> float:
        """Seconds by which the event loop was late at most, in the last ten seconds and at this moment."""
        return max(0.0, monotonic() - self._due, *(late for _, late, _ in self._looks))

    @property
    def totals(self) -> dict[str, int]:
        """What was counted, by name."""
        return dict(zip(COUNTERS, self._counters(), strict=True))

    @property
    def rates(self) -> dict[str, float]:
        """The same of each second of the last ten."""
        began, _, before = self._looks[0] if self._looks else (self._due - PERIOD, 0.0, (0,) * len(COUNTERS))
        passed = max(monotonic() - began, PERIOD)
        changes = (now - then for now, then in zip(self._counters(), before, strict=True))
        return {name: round(change / passed, 3) for name, change in zip(COUNTERS, changes, strict=True)}

    def _counters(self) -> tuple[int, ...]:
        return tuple(getattr(self, name) for name in COUNTERS)

    def _look(self) -> None:
        now = monotonic()
        self._looks.append((now, max(0.0, now - self._due), self._counters()))
        self._due = now + PERIOD


COUNTERS = ("messages_in", "messages_out", "bytes_in", "bytes_out")
