"""The gevent server, its drain, the gunicorn side."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import gevent
from flask import Response
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.ssl import Purpose, create_default_context
from geventwebsocket.handler import WebSocketHandler
from werkzeug.exceptions import HTTPException

from ..exceptions import Unsupported
from ..runtime.connection import INTERNAL_ERROR
from ..runtime.engine import Engine

log = logging.getLogger(__name__)

#: The close code for a server that goes down and comes back (RFC 6455's registry: service restart).
SERVICE_RESTART = 1012
#: The close codes of a refusal and of a failure where a close frame is the only way to tell.
POLICY_VIOLATION = 1008
#: Seconds that clients have to go when the server stops.
GRACE = 10.0
#: Where our own server hands the socket over.
SOCKET = "flask_phoenix.socket"

UNPATCHED = (
    "gevent has not patched the standard library: a handler that waits (time.sleep, a database, an HTTP request) would"
    " stop every client. Put these two lines at the very top of the file that you start: from gevent import monkey;"
    " monkey.patch_all() -- or start it with 'flask run' or 'gunicorn -k gevent', which patch by themselves"
)
NO_SOCKET = (
    "the server that runs this app cannot carry WebSockets for flask_phoenix; start it with 'flask run',"
    " phoenix.run(app) or 'gunicorn -k gevent'"
)


class UpgradeResponse(Response):
    """The answer that turns a request into a WebSocket.

    The server below writes its head; the frames are carried while it iterates over the answer, after Flask has torn the
    request down, so that no context stays open and the teardown functions have run.

    :param carry: carries the frames until the connection ends.
    :param upgraded: the server has sent its own 101 already.
    """

    def __init__(self, headers: list[tuple[str, str]], carry: Callable[[], None], upgraded: bool) -> None:
        super().__init__(status=101, headers=headers)
        del self.headers["Content-Type"]
        self._carry = carry
        self._upgraded = upgraded

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        """Write the head at once, and return the road as an iterable without items."""
        if not self._upgraded:
            start_response("101 Switching Protocols", self.headers.to_wsgi_list())(b"")
        return carry_frames(self._carry)


def late_body(make: Callable[[], bytes]) -> Iterator[bytes]:
    """Make a body while the server iterates over the answer, after Flask has torn the request down."""
    yield make()


def carry_frames(carry: Callable[[], None]) -> Iterator[bytes]:
    """Carry frames for as long as the server iterates; there is no body. Nothing of the request is kept alive."""
    carry()
    yield from ()


def take_socket(environ: dict[str, Any]) -> tuple[Any, bool]:
    """Return the request's socket, and whether the server has sent the 101 already.

    :raises Unsupported: the server below has no socket to give.
    """
    for key in (SOCKET, "gunicorn.socket", "gunicorn.sock"):  # ours, gunicorn's gevent worker, its gevent_pywsgi worker
        if key in environ:
            return environ[key], False
    if environ.get("wsgi.websocket") is not None:
        return environ["wsgi.websocket"].handler.socket, True
    raise Unsupported(NO_SOCKET)


class Handler(WebSocketHandler):
    """Serves one HTTP connection: our mounts get the bare socket, other WebSocket routes gevent-websocket's."""

    server: Server

    def get_environ(self) -> dict[str, Any]:
        """Add the socket to the request's environ."""
        environ: dict[str, Any] = super().get_environ()
        environ[SOCKET] = self.socket
        return environ

    def run_application(self) -> None:
        """Let gevent-websocket upgrade the requests that the app leaves to it."""
        if self.server.upgrades(self.environ):
            super().run_application()
        else:
            WSGIHandler.run_application(self)


class Server(WSGIServer):
    """gevent's server, for one app.

    :param upgrades: tells from its environ whether gevent-websocket is to upgrade a request.
    """

    handler_class = Handler

    def __init__(
        self,
        address: tuple[str, int],
        app: Any,
        engine: Engine,
        upgrades: Callable[[dict[str, Any]], bool],
        **options: Any,
    ) -> None:
        if "certfile" in options:
            # Made once: gevent would make one for each connection, with a protocol that is deprecated.
            context = create_default_context(Purpose.CLIENT_AUTH)
            context.load_cert_chain(options.pop("certfile"), options.pop("keyfile", None))
            options["ssl_context"] = context
        super().__init__(address, app, spawn=Pool(), **options)
        self.engine = engine
        self.upgrades = upgrades

    def init_socket(self) -> None:
        """Listen, on a socket whose connections send at once: an answer goes out as head and body, in two writes."""
        super().init_socket()
        self.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def serve_until_stopped(self) -> None:
        """Serve until SIGINT or SIGTERM, then let the clients go: with 1012, which tells them to come back."""
        stopping = Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, stopping.set)
        self.start()
        stopping.wait()
        self.close()
        drain(self.engine)
        self.stop(timeout=1)
        self.engine.stop()


def drain(engine: Engine) -> None:
    """Close every connection with 1012, let no new one in, and wait for :data:`GRACE` seconds at most."""
    engine.draining = True
    for close in list(engine.connections):
        close(SERVICE_RESTART, "draining")
    engine.wait_until_quiet(GRACE)
    engine.farewell()


def one_of_many() -> bool:
    """Tell whether this process is one of several workers of gunicorn, which started it and handles its signals."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(getattr(worker, "cfg", None), "workers", 1) > 1)


def is_worker() -> bool:
    """Tell whether this process is a worker of gunicorn, of one or of several."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return hasattr(worker, "cfg") and not is_master()


def is_master() -> bool:
    """Tell whether this process is gunicorn's own, which serves nobody and forks the workers."""
    return hasattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "WORKERS")


def inspect_server(engine: Engine, environ: dict[str, Any]) -> None:
    """Do, with the first client of a process, what the server below makes necessary."""
    if engine.server_inspected:
        return
    engine.server_inspected = True
    engine.one_of_many = bool(environ.get("wsgi.multiprocess"))
    if "gunicorn" in str(environ.get("SERVER_SOFTWARE", "")):
        _drain_with_gunicorn(engine)


def _drain_with_gunicorn(engine: Engine) -> None:
    """Drain when gunicorn stops this worker: only its signal handlers know, so ours stands in front of them."""
    previous = signal.getsignal(signal.SIGTERM)
    worker = getattr(previous, "__self__", None)
    if not getattr(worker, "alive", True):
        # Told to stop before its first client came, who had just been sent away by another worker.
        engine.draining = True

    def handle(number: int, frame: Any) -> None:
        gevent.spawn(drain, engine)
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, handle)


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


def require_patched() -> None:
    """See that handlers may block.

    :raises Unsupported: gevent has not patched the standard library.
    """
    if not monkey.is_module_patched("socket") or not monkey.is_module_patched("time"):
        raise Unsupported(UNPATCHED)
