"""Letting clients go in good order before a process ends."""

from __future__ import annotations

from ..runtime.engine import Engine

#: The close code for a server that goes down and comes back (RFC 6455's registry: service restart).
SERVICE_RESTART = 1012
#: Seconds that clients have to go when the server stops, and handlers to finish.
GRACE = 10.0


def drain(engine: Engine) -> None:
    """Close every connection with 1012, let no new one in, and wait for :data:`GRACE` seconds at most."""
    engine.draining = True
    for close in list(engine.connections):
        close(SERVICE_RESTART, "draining")
    engine.wait_until_quiet(GRACE)
    engine.farewell()
