"""The end of a client's time, where its socket says when that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from .. import clock
from ..socket import BaseSocket

#: Registered by IANA as "Unauthorized". The clients of Phoenix come back from it, and ``connect`` decides anew.
EXPIRED = 3000
#: Seconds after which the clock is looked at again: it may have been set, or the machine has slept.
LOOK = 60.0


class Expiry:
    """Tells a client that its time will be over, and closes its connection then.

    :param notice: seconds before the end at which it is told.
    :param tell: tells it, and is given the seconds that are left.
    """

    __slots__ = ("_close", "_notice", "_socket", "_tell", "_timer", "told")

    def __init__(
        self, socket: BaseSocket, notice: float, tell: Callable[[float], None], close: Callable[[int, str], None]
    ) -> None:
        self._socket = socket
        self._notice = notice
        self._tell = tell
        self._close = close
        self._timer: Any = None
        #: The client has been told of the end that the socket has now.
        self.told = False

    @property
    def left(self) -> float:
        """Seconds up to the end; the author may have moved it."""
        expires_at = self._socket.expires_at
        return float("inf") if expires_at is None else expires_at - clock.time()

    def start(self) -> None:
        """Begin, for the end that the socket has now."""
        self.told = False
        self._wait()

    def end(self) -> None:
        """Stop: nothing is told, and nothing closed any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _wait(self) -> None:
        self.end()
        left = self.left
        if left < float("inf"):
            due = max(left if self.told else left - self._notice, 0)
            self._timer = gevent.get_hub().loop.timer(min(due, LOOK))
            self._timer.start(gevent.spawn, self._look)

    def _look(self) -> None:
        """Do what is due now."""
        if self._timer is None:  # it was stopped meanwhile
            return
        left = self.left
        if left <= 0:
            self.end()
            self._close(EXPIRED, "token expired")
            return
        told, self.told = self.told, left <= self._notice
        self._wait()  # first: whatever becomes of the telling, the connection is closed in time
        if self.told and not told:
            self._tell(left)
