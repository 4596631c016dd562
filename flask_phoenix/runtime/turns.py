"""Turns of the event loop, shared out: what comes from many clients at once is taken up over several of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import gevent
from greenlet import getcurrent

from .. import clock

#: Connections that are accepted in one turn; gevent would take 100, and serve them all in the next.
MAX_ACCEPT = 8
#: Seconds after which a turn has been long: whoever reads from a client then waits for another one.
LONG_TURN = 0.005
#: Seconds of each turn for those who wait, and for those who wait with more to do.
SHARE = 0.005
LATE_SHARE = 0.002
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

    __slots__ = ("_late", "_rested", "_timer", "_waiting")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Wait for nothing any more, in a process that was forked from the one in which this ran."""
        self._waiting, self._late = deque[Callable[[], Any]](), deque[Callable[[], Any]]()
        self._timer: Any = None
        #: When all that was too much is made up for, by the clock.
        self._rested = 0.0

    def rest(self, seconds: float) -> None:
        """Wait for longer than a client's message took, if that was too long for one turn.

        A kilobyte that was deflated may cost 50 ms. Where several clients send such, each waits for the others too: all
        of them together get a third of the time, and the others the rest.
        """
        if seconds > LONG_TURN:
            now = clock.monotonic()
            self._rested = max(self._rested, now) + seconds * REST
            gevent.sleep(min(self._rested - now, MAX_REST))

    def wait(self) -> None:
        """Wait for a later turn that has time left. Not for the event loop's own greenlet."""
        self._wait(self._waiting)

    def wait_late(self) -> None:
        """Do the same for who has had a turn to the end, and more to do: behind those who have not."""
        self._wait(self._late)

    def share(self) -> None:
        """Let others have a turn who also read much, and those for whom a turn has been long."""
        if self._late or clock.time() - gevent.get_hub().loop.now() > LONG_TURN:  # that clock stands still in each turn
            self._wait(self._late)

    def _wait(self, queue: deque[Callable[[], Any]]) -> None:
        resume = getcurrent().switch
        queue.append(resume)
        if self._timer is None:
            self._set_timer()
        try:
            gevent.get_hub().switch()
        except BaseException:  # it is killed
            with suppress(ValueError):
                queue.remove(resume)
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
        for queue, share in ((self._waiting, SHARE), (self._late, LATE_SHARE)):  # of each, one at least
            deadline = perf_counter() + share
            while queue:
                queue.popleft()()
                if perf_counter() >= deadline:
                    break
        if (self._waiting or self._late) and self._timer is None:
            self._set_timer()
