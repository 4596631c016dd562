"""Letting clients go in good order before a process ends."""

from __future__ import annotations

from math import ceil, inf

import gevent

from .. import clock
from ..runtime.engine import Engine
from ..signals import drain_begun, drain_done

#: The close code for a server that goes down and comes back (RFC 6455's registry: service restart).
SERVICE_RESTART = 1012
#: Seconds that clients have to go after the last of them was told to, and handlers to finish.
GRACE = 10.0
#: Clients that are closed in a second, where the window has room for them.
CLOSE_RATE = 2000
#: Seconds between two batches of them.
BATCH_PERIOD = 0.05
#: Where the server gives less time: the share of it in which clients are closed.
WINDOW_SHARE = 0.3


def drain(engine: Engine, limit: float = inf) -> None:
    """Let no client in, close all of them with 1012, one batch after another, and wait until all is over.

    :param limit: seconds in which it must be done.
    """
    engine.draining = True
    began, clients = clock.monotonic(), len(engine.connections)
    engine.tell(drain_begun, connections=clients)
    end = began + limit
    engine.node.drain()
    _close_all(engine, min(engine.settings.drain_window, limit * WINDOW_SHARE))
    end = min(end, clock.monotonic() + GRACE)
    engine.wait_until_quiet(end - clock.monotonic())
    engine.hand_over(end - clock.monotonic())
    engine.node.farewell()
    engine.tell(drain_done, connections=clients, seconds=clock.monotonic() - began)


def _close_all(engine: Engine, window: float) -> None:
    """Close the connections over a while, so that they come back as a slope and not as a wall."""
    connections = list(engine.connections)
    begin, spread, done = clock.monotonic(), min(window, len(connections) / CLOSE_RATE), 0
    while done < len(connections):
        share = (clock.monotonic() - begin + BATCH_PERIOD) / (spread + BATCH_PERIOD)
        due = ceil(len(connections) * min(1.0, share))
        for connection in connections[done:due]:
            connection.close(SERVICE_RESTART, "draining")
        done = due
        if done < len(connections):
            gevent.sleep(BATCH_PERIOD)
    for connection in list(engine.connections):  # whose handshakes were under way
        connection.close(SERVICE_RESTART, "draining")
