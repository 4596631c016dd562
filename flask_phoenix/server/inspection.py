"""What the first request of a process tells about the server that runs it."""

from __future__ import annotations

from typing import Any

from ..runtime.engine import Engine
from .gunicorn import drain_on_sigterm


def inspect_server(engine: Engine, environ: dict[str, Any]) -> None:
    """Look at the server once, with the first client of a process, and do what that server makes necessary."""
    if engine.server_inspected:
        return
    engine.server_inspected = True
    engine.one_of_many = bool(environ.get("wsgi.multiprocess"))
    if "gunicorn" in str(environ.get("SERVER_SOFTWARE", "")):
        drain_on_sigterm(engine)
