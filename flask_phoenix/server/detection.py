"""Which server runs this process: what its first request tells, and what that server makes necessary."""

from __future__ import annotations

import threading
from typing import Any

import gevent

from ..exceptions import Unsupported
from ..runtime.engine import Engine
from .gunicorn import drain_with_worker

#: Where our own server names itself.
SERVER = "flask_phoenix.server"

NO_EVENT_LOOP = (
    "the server that runs this app has no event loop, which flask_phoenix needs for WebSockets and long polling; start"
    " the app with 'flask run', phoenix.run(app) or 'gunicorn -k gevent'"
)


def detect_server(engine: Engine, environ: dict[str, Any]) -> None:
    """Look at the server once, with the first client of a process, and do what that server makes necessary.

    :raises Unsupported: it serves each request in a thread, or one after another.
    """
    if engine.server_detected:
        return
    if not _in_event_loop(environ):
        raise Unsupported(NO_EVENT_LOOP)
    engine.server_detected = True
    engine.one_of_many = bool(environ.get("wsgi.multiprocess"))
    if SERVER in environ:
        environ[SERVER].join(engine)
    elif "gunicorn" in str(environ.get("SERVER_SOFTWARE", "")):
        drain_with_worker(engine)


def _in_event_loop(environ: dict[str, Any]) -> bool:
    """Tell whether the request is served by a greenlet of gevent's, or by no server at all, as in a test."""
    if gevent.getcurrent().parent is not None:
        return True
    served = "SERVER_SOFTWARE" in environ or "uwsgi.version" in environ
    return not served and threading.current_thread() is threading.main_thread()
