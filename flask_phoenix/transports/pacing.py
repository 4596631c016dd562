"""Messages of one client at a rate: what comes faster makes its reader wait, and so the client in the end."""

from __future__ import annotations

import logging
from math import inf

import gevent

from ..protocol.messages import Frame
from ..runtime.caps import Rate
from ..runtime.connection import Connection

log = logging.getLogger("flask_phoenix.connection")

#: Seconds of the rate that may come at once, after a pause.
MESSAGE_BURST = 2.0


def pace(connection: Connection, per_second: float) -> None:
    """Let the messages of a client through at a rate."""
    rate, receive_now = Rate(per_second, MESSAGE_BURST, inf), connection.receive
    told = False

    def receive(frame: Frame) -> None:
        nonlocal told
        if delay := rate.delay():
            if not told:
                told = True
                connection.engine.reach("messages_per_second", connection=connection)
                kind = type(connection.socket).__name__
                log.warning("a client of %s sends more than messages_per_second=%s; it is slowed", kind, per_second)
            gevent.sleep(delay)
            if not connection.open:
                return
        receive_now(frame)

    connection.receive = receive  # type: ignore[method-assign]
