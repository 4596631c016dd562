"""From an HTTP request to a WebSocket: taking the socket, close frames in place of refusals, late bodies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.exceptions import HTTPException

from ..exceptions import Unsupported
from ..runtime.connection import INTERNAL_ERROR
from ..runtime.engine import Engine
from .drain import SERVICE_RESTART

#: The close code of a refusal where a close frame is the only way to tell.
POLICY_VIOLATION = 1008
#: Where our own server hands the socket over.
SOCKET = "flask_phoenix.socket"

NO_SOCKET = (
    "the server that runs this app cannot carry WebSockets for flask_phoenix; start it with 'flask run',"
    " phoenix.run(app) or 'gunicorn -k gevent'"
)


def late_body(make: Callable[[], bytes]) -> Iterator[bytes]:
    """Make a body while the server iterates over the answer, after Flask has torn the request down."""
    yield make()


def take_socket(environ: dict[str, Any]) -> tuple[Any, bool]:
    """Return the request's socket, and whether the server has sent the 101 already.

    :raises Unsupported: the server has no socket to give.
    """
    for key in (SOCKET, "gunicorn.socket", "gunicorn.sock"):  # ours, gunicorn's gevent worker, its gevent_pywsgi worker
        if key in environ:
            return environ[key], False
    if environ.get("wsgi.websocket") is not None:
        return environ["wsgi.websocket"].handler.socket, True
    raise Unsupported(NO_SOCKET)


@contextmanager
def close_refused(engine: Engine, environ: dict[str, Any]) -> Iterator[None]:
    """Refuse with a close frame where gevent-websocket has said 101 before anybody was asked."""
    websocket = environ.get("wsgi.websocket")
    try:
        yield
    except Exception as error:
        if websocket is not None:
            refusal = SERVICE_RESTART if engine.draining else POLICY_VIOLATION
            code = refusal if isinstance(error, HTTPException) else INTERNAL_ERROR
            # Its own close() forgets the code.
            websocket.send_frame(code.to_bytes(2, "big"), websocket.OPCODE_CLOSE)
            websocket.closed = True
        raise
