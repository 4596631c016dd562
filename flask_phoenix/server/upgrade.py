"""From an HTTP request to a WebSocket: taking the socket, and close frames in place of refusals."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_RD
from typing import Any

from gevent import monkey
from gevent.socket import socket
from gevent.ssl import SSLSocket
from werkzeug.exceptions import HTTPException

from ..exceptions import Unsupported
from ..runtime.connection import INTERNAL_ERROR
from ..runtime.engine import Engine
from .drain import SERVICE_RESTART

#: The close codes of refusals where a close frame is the only way to tell: for good, and for now (HTTP 503).
POLICY_VIOLATION, TRY_AGAIN_LATER = 1008, 1013
SERVICE_UNAVAILABLE = 503
#: Where our own server hands the socket over.
SOCKET = "flask_phoenix.socket"
#: Where it takes what carries the frames, and ends the request: called with a function, after the head of the answer.
HAND_OVER = "flask_phoenix.hand_over"
#: Where servers do: ours, gunicorn's gevent worker, its gevent_pywsgi worker.
SOCKETS = (SOCKET, "gunicorn.socket", "gunicorn.sock")

#: What tells that the far end of a socket has gone. Linux alone tells of the end of a stream, and Windows of nothing.
GONE: int = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0) if hasattr(select, "POLLHUP") else 0

NO_SOCKET = (
    "the server that runs this app cannot carry WebSockets for flask_phoenix; start it with 'flask run',"
    " phoenix.run(app) or 'gunicorn -k gevent'"
)


def take_socket(environ: dict[str, Any]) -> tuple[Any, bool]:
    """Return the request's socket, and whether the server has sent the 101 already.

    :raises Unsupported: the server has no socket to give.
    """
    sock = _find_socket(environ)
    if sock is not None:
        return sock, False
    websocket = _foreign_websocket(environ)
    if websocket is not None:
        return websocket.handler.socket, True
    raise Unsupported(NO_SOCKET)


def find_hand_over(environ: dict[str, Any]) -> Callable[[Callable[[], None]], None] | None:
    """Return what takes the frames of a request, where they need not be carried inside of it.

    A request holds some 15 KiB while it is answered. Over TLS the server's wrapper of the socket ends with it.
    """
    hand_over: Callable[[Callable[[], None]], None] | None = environ.get(HAND_OVER)
    return None if isinstance(environ.get(SOCKET), SSLSocket) else hand_over


def has_hung_up(environ: dict[str, Any]) -> bool:
    """Tell whether the client of a request is known to have gone, so that an answer would be lost."""
    sock = _find_socket(environ)
    if sock is None or not GONE:
        return False
    watcher = monkey.get_original("select", "poll")()  # gevent's may switch to another greenlet
    watcher.register(sock.fileno(), GONE)
    return bool(watcher.poll(0))


def stop_reading(environ: dict[str, Any]) -> None:
    """Let the server find the end of the stream behind a request, so that it closes the connection."""
    with suppress(OSError, AttributeError):  # it may have ended, or there is none
        _find_socket(environ).shutdown(SHUT_RD)


def _find_socket(environ: dict[str, Any]) -> Any:
    """Return the request's socket, if the server gives one that belongs to gevent."""
    for key in SOCKETS:
        if isinstance(sock := environ.get(key), (socket, SSLSocket)):
            return sock
    return None


def _foreign_websocket(environ: dict[str, Any]) -> Any:
    """Return gevent-websocket's object where it has said 101 already."""
    return None if SOCKET in environ else environ.get("wsgi.websocket")


@contextmanager
def close_refused(engine: Engine, environ: dict[str, Any]) -> Iterator[None]:
    """Refuse with a close frame where gevent-websocket has said 101 before anybody was asked."""
    websocket = _foreign_websocket(environ)
    try:
        yield
    except Exception as error:
        if websocket is not None:
            # Its own close() forgets the code.
            websocket.send_frame(_close_code(engine, error).to_bytes(2, "big"), websocket.OPCODE_CLOSE)
            websocket.closed = True
        raise


def _close_code(engine: Engine, error: Exception) -> int:
    """Return what stands for a refusal by HTTP."""
    if not isinstance(error, HTTPException):
        return INTERNAL_ERROR
    if engine.draining:
        return SERVICE_RESTART
    return TRY_AGAIN_LATER if error.get_response().status_code == SERVICE_UNAVAILABLE else POLICY_VIOLATION
