"""The frames that wait for one client's next poll, and how long it may stay away."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent
from gevent.event import Event

from ... import clock
from ...exceptions import InvalidPayload
from ...protocol.messages import Frame
from ...runtime.connection import Carrier, Connection

log = logging.getLogger("flask_phoenix.connection")

#: The close code of a client that is too slow.
TRY_AGAIN_LATER = 1013

#: Seconds that a poll which has been woken waits at most for the rest of a burst.
BURST = 0.1

#: Windows after which a client that has not polled is gone (``transports/long_poll_server.ex``).
ABSENT_WINDOWS = 1.5
#: Seconds by which the timer may go off late.
LATE = 1.0


class LongPollCarrier(Carrier):
    """Keeps the frames of one client until it polls. It costs no greenlet; one timer ends it when the client is gone.

    :param window: seconds that a poll waits.
    :param limit: characters that may wait for a poll when more comes; one message may be larger.
    :param ended: called when the connection has ended, by whichever side.
    """

    transport = "longpoll"
    stream = False

    def __init__(self, window: float, limit: int, ended: Callable[[], None]) -> None:
        self.window = window
        self._limit = limit
        self._ended = ended
        self._frames: list[str] = []
        self._size = 0
        self._poll: Event | None = None
        #: All polls that wait, also those whose place another has taken.
        self._waiting: set[Event] = set()
        self._polled = self._checked = clock.monotonic()
        self._timer = gevent.get_hub().loop.timer(window * ABSENT_WINDOWS, window * ABSENT_WINDOWS)
        self.to_wire = text_only
        #: None: the session has not begun, or has ended.
        self.connection: Connection | None = None

    @property
    def waiting(self) -> int:
        """Characters that wait for a poll."""
        return self._size

    def serve(self, connection: Connection) -> None:
        """Begin: the client has a session."""
        self.connection = connection
        connection.opened()
        self._timer.start(self._check)

    def poll(self) -> list[str]:
        """Wait for frames and hand out all there are; none, when the window has run out or the session has ended.

        One poll is remembered: a newer one takes the older one's place, which then runs into its window.
        """
        self._polled = clock.monotonic()
        poll = self._poll = Event()
        self._waiting.add(poll)
        remembered = False
        try:
            if not self._frames and (connection := self.connection) is not None:
                poll.wait(self.window)
                self._linger(poll, connection)
        finally:
            self._waiting.discard(poll)
            if self._poll is poll:
                remembered, self._poll = True, None
        if not remembered:
            return []
        frames, self._frames, self._size = self._frames, [], 0
        return frames

    def note_presence(self) -> None:
        """Take the client for one that has just polled: another process holds its poll, whose answer was lost."""
        self._polled = clock.monotonic()

    def restore(self, frames: list[str]) -> None:
        """Take frames back whose answer has not reached the client: they are the next poll's, before all others."""
        self._frames[:0] = frames
        self._size += sum(map(len, frames))
        self._wake()

    def close(self, code: int, reason: str) -> None:
        """End the session. What waits can still be fetched by a poll that is under way."""
        self._timer.close()
        self._ended()
        self.connection = None
        for poll in self._waiting:
            poll.set()

    def write(self, frame: str) -> None:
        """Keep a frame for the next poll."""
        connection = self.connection
        if connection is None or not connection.open:
            return
        if self._size >= self._limit:
            log.warning(
                "a client of %s polls too slowly: %d characters wait (outbox_limit); its session ends",
                type(connection.socket).__name__,
                self._size,
            )
            connection.tell_slow(self._size)
            connection.close(TRY_AGAIN_LATER, "too slow")
            return
        self._frames.append(frame)
        self._size += len(frame)
        self._wake()

    def _linger(self, poll: Event, connection: Connection) -> None:
        """Let the rest of a burst come: one answer carries many frames as cheaply as the first."""
        latest = clock.monotonic() + BURST
        while connection.open and connection.engine.hub.owes(connection, connection.topics):
            if self._poll is not poll or self._size >= self._limit or clock.monotonic() > latest:
                return
            gevent.sleep(0)

    def _wake(self) -> None:
        if self._poll is not None:
            self._poll.set()

    def _check(self) -> None:
        absent, now = self.window * ABSENT_WINDOWS, clock.monotonic()
        if now - self._checked > absent + LATE:  # the process stood still, and has not read what came meanwhile
            self._polled = now
        self._checked = now
        if self._poll is None and now - self._polled > absent and self.connection is not None:
            self.connection.close(1000, "inactive")


def text_only(frame: Frame) -> str:
    """Let text pass.

    :raises InvalidPayload: long polling answers in JSON, where bytes have no place.
    """
    if isinstance(frame, bytes):
        raise InvalidPayload("bytes cannot go to a client that polls: send a dict, or let it use a WebSocket")
    return frame
