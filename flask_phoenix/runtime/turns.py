"""Turns of the event loop, shared out: what comes from many clients at once is taken up over several of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, perf_counter
from typing import Any

import gevent
from greenlet import getcurrent

#: Connections that are accepted in one turn; gevent would take 100, and serve them all in the next.
MAX_ACCEPT = 8
#: Seconds after which a turn has been long: whoever reads from a client then waits for another one.
LONG_TURN = 0.005
#: Seconds of each turn for those who wait.
SHARE = 0.005
#: Seconds that a client rests for each second that its message took to be decoded; to be freed, it takes half as long.
REST = 2.0
#: Seconds that a client rests at most: it goes on to send heartbeats.
MAX_REST = 5.0
#: libev's lowest priority.
LATE = -2


class Turns:
    """Lets those who read from clients go on in the order in which they came, as many in each turn as have time in it.

    The event loop resumes everybody for whom something has come in one turn: a thousand clients that join or vanish
    together would hold up the others for as long as a thousand joins or ends take.
    """

    __slots__ = ("_rested", "_timer", "_waiting")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Wait for nothing any more, in a process that was forked from the one in which this ran."""
        self._waiting = deque[Callable[[], Any]]()
        self._timer: Any = None
        #: When all that was too much is made up for, by :func:`time.monotonic`.
        self._rested = 0.0

    def rest(self, seconds: float) -> None:
        """Wait for longer than a client's message took, if that was too long for one turn.

        A kilobyte that was deflated may cost 50 ms. Where several clients send such, each waits for the others too: all
        of them together get a third of the time, and the others the rest.
        """
        if seconds > LONG_TURN:
            now = monotonic()
            self._rested = max(self._rested, now) + seconds * REST
            gevent.sleep(min(self._rested - now, MAX_REST))

    def wait(self) -> None:
        """Wait for a later turn that has time left. Not for the event loop's own greenlet."""
        resume = getcurrent().switch
        self._waiting.append(resume)
        if self._timer is None:
            self._set_timer()
        try:
            gevent.get_hub().switch()
        except BaseException:  # it is killed
            with suppress(ValueError):
                self._waiting.remove(resume)
            raise

    def _set_timer(self) -> None:
        # It goes off after the event loop has looked at all sockets once, and after those for whom something has come:
        # who has waited for nothing yet goes first.
        self._timer = gevent.get_hub().loop.timer(0, priority=LATE)
        self._timer.start(self._end_turn)

    def _end_turn(self) -> None:
        # After what was sent in this turn has been written.
        gevent.get_hub().loop.run_callback(self._resume)

    def _resume(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:  # or the process was forked in between
            timer.close()
        deadline = perf_counter() + SHARE
        while self._waiting:
            self._waiting.popleft()()
            if perf_counter() >= deadline:
                break
        if self._waiting and self._timer is None:
            self._set_timer()
