"""Virtual time: it stands still, and what is due later happens when a test advances it."""

from __future__ import annotations

import time
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

import gevent
from gevent.hub import Waiter
from greenlet import getcurrent

from .. import clock
from ..exceptions import PhoenixError
from .settling import settle

#: Waits of fewer seconds are turns of the event loop: they end when it comes round.
TURN = 0.005
#: What sums of floating point numbers may lack, in seconds.
TOLERANCE = 1e-9

ACTIVE = "there is a clock already, and time is one: use that of the fixture phoenix_clock"


class Clock:
    """Time that stands still, in this thread: the fixture ``phoenix_clock``, or ``with Clock() as clock``.

    Meanwhile all timers of gevent's event loop wait for :meth:`advance`: ``send_after``, ``expires_at``, every period
    and time limit of this package, and the author's own ``gevent.sleep`` and ``gevent.Timeout``. Those of the test
    itself go on as ever. ``time.time()`` tells this time, too.
    """

    def __enter__(self) -> Clock:
        if clock.monotonic is not time.monotonic:
            raise PhoenixError(ACTIVE)
        hub = gevent.get_hub()
        self._monotonic, self._time, self._real_time = time.monotonic(), time.time(), time.time
        self._loop = hub.loop = Loop(hub.loop, self)
        clock.monotonic, clock.time, time.time = self.monotonic, self.time, self.time
        return self

    def __exit__(self, *_: object) -> None:
        time.time = clock.time = self._real_time
        clock.monotonic = time.monotonic
        gevent.get_hub().loop = self._loop.real
        self._loop.end()

    def monotonic(self) -> float:
        """Return the time in seconds, from some beginning."""
        return self._monotonic + self._loop.elapsed

    def time(self) -> float:
        """Return the time as ``time.time()`` does now: seconds of Unix time, the real ones when this clock began."""
        return self._time + self._loop.elapsed

    @property
    def elapsed(self) -> float:
        """How many seconds have passed on it."""
        return self._loop.elapsed

    @property
    def next(self) -> float | None:
        """In how many seconds something is due; None: nothing is."""
        due = self._loop.due()
        return None if due is None else max(0.0, due - self._loop.elapsed)

    def advance(self, seconds: float) -> None:
        """Let time pass: what comes due happens in order, each thing with all that follows from it at once."""
        settle()
        end = self._loop.elapsed + seconds
        while self._loop.fire(end + TOLERANCE):
            settle()
        self._loop.elapsed = max(self._loop.elapsed, end)

    def advance_to_next(self) -> bool:
        """Let time pass up to what is due next, and have it happen; return False if nothing is due."""
        fired = self._loop.fire(float("inf"))
        settle()
        return fired


class Loop:
    """gevent's event loop with the timers and the time of a clock.

    :param real: the event loop.
    """

    def __init__(self, real: Any, clock: Clock) -> None:
        self.real = real
        self.clock = clock
        #: Seconds that have passed.
        self.elapsed = 0.0
        self._test = getcurrent()
        self._numbers = count()
        self._due: list[tuple[float, int, Timer]] = []
        #: Time goes on as ever.
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def timer(self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None) -> Any:
        """Make a timer."""
        if self.ended or (not after and not repeat):
            return self.real.timer(after, repeat, ref, priority)
        return Timer(self, after, repeat)

    def now(self) -> float:
        """Return the time."""
        return self.clock.time()

    def add(self, due: float, timer: Timer) -> None:
        """Remember a timer."""
        heappush(self._due, (due, next(self._numbers), timer))

    def due(self) -> float | None:
        """Return when something is due next; None: nothing is."""
        while self._due and self._due[0][2].due != self._due[0][0]:  # stopped, or started anew
            heappop(self._due)
        return self._due[0][0] if self._due else None

    def fire(self, end: float) -> bool:
        """Have the next timers go off that are due up to a moment, all of one moment, which comes with them."""
        due = self.due()
        if due is None or due > end:
            return False
        self.elapsed = max(self.elapsed, due)
        while self.due() == due:
            heappop(self._due)[2].fire()
        return True

    def is_of_test(self, callback: Callable[..., Any]) -> bool:
        """Tell whether the test itself waits: with ``gevent.sleep`` or a ``gevent.Timeout``."""
        return getcurrent() is self._test and isinstance(getattr(callback, "__self__", None), Waiter | gevent.Timeout)

    def end(self) -> None:
        """Let the timers go on in real time."""
        self.ended = True
        for due, _, timer in self._due:
            if timer.due == due:
                timer.go_on(due - self.elapsed)
        self._due.clear()


class Timer:
    """A timer of the event loop that goes off when the clock says so; see gevent's ``loop.timer``."""

    ref = True

    def __init__(self, loop: Loop, after: float, repeat: float) -> None:
        self._loop = loop
        self._after = after
        self._repeat = repeat
        #: What the real loop is to call: when this has gone off, or by its own timer.
        self._call: Any = None
        #: When it goes off; None: the clock has nothing to do with it.
        self.due: float | None = None
        self.callback: Callable[..., Any] | None = None
        self.args: tuple[Any, ...] = ()

    @property
    def active(self) -> bool:
        """True from the start to the end."""
        return self.due is not None or self.pending

    @property
    def pending(self) -> bool:
        """True from when it goes off until it has called."""
        return self._call is not None and bool(self._call.pending or getattr(self._call, "active", False))

    def start(self, callback: Callable[..., Any], *args: Any, update: bool | None = None) -> None:
        """Begin to wait."""
        self.stop()
        self.callback, self.args = callback, args
        if self._loop.ended:
            self.go_on(self._after)
        elif self._after < TURN and not self._repeat:
            self._call = self._loop.real.timer(0)
            self._call.start(self._turn)
        elif self._loop.is_of_test(callback):
            self._call = self._loop.real.timer(self._after, self._repeat)
            self._call.start(callback, *args, update=True)
        else:
            self._wait(self._after)

    def again(self, callback: Callable[..., Any], *args: Any, update: bool = True) -> None:
        """Begin to wait anew for the period."""
        self.callback, self.args = callback, args
        self._wait(self._repeat)

    def stop(self) -> None:
        """Wait no more."""
        self.due, self.callback, self.args = None, None, ()
        if self._call is not None:
            self._call.stop()
            self._call = None

    close = stop

    def fire(self) -> None:
        """Go off."""
        self.due = None
        self._call = self._loop.real.run_callback(self.callback, *self.args)
        if self._repeat:
            self._wait(self._repeat)

    def go_on(self, seconds: float) -> None:
        """Wait for so many real seconds."""
        self.due = None
        self._call = self._loop.real.timer(seconds, self._repeat)
        self._call.start(self.callback, *self.args, update=True)

    def __enter__(self) -> Timer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self, seconds: float) -> None:
        self.due = self._loop.elapsed + seconds
        self._loop.add(self.due, self)

    def _turn(self) -> None:
        callback, args = self.callback, self.args
        self.stop()
        self._loop.elapsed += self._after  # who waits for a moment to come must see it come
        if callback is not None:
            callback(*args)
