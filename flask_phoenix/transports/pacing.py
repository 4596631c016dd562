"""Messages of one client at a rate: what comes faster makes its reader wait, and so the client in the end."""

from __future__ import annotations

import logging
from math import inf

import gevent

from ..runtime.caps import Rate
from ..runtime.connection import Connection

log = logging.getLogger("flask_phoenix.connection")

#: Seconds of the rate that may come at once, after a pause.
MESSAGE_BURST = 2.0


def pace(connection: Connection, per_second: float) -> None:
    """Let the messages of a client through at a rate."""
    rate = Rate(per_second, MESSAGE_BURST, inf)

    def wait() -> bool:
        if delay := rate.delay():
            if connection.reach("messages_per_second"):
                kind = type(connection.socket).__name__
                log.warning("a client of %s sends more than messages_per_second=%s; it is slowed", kind, per_second)
            gevent.sleep(delay)
        return connection.open

    connection.pace = wait
