"""Our own HTTP server, on gevent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer
from gevent.ssl import Purpose, create_default_context
from geventwebsocket.handler import WebSocketHandler

from ..exceptions import Unsupported
from ..runtime.engine import Engine
from .drain import drain
from .upgrade import SOCKET

UNPATCHED = (
    "gevent has not patched the standard library: a handler that waits (time.sleep, a database, an HTTP request) would"
    " stop every client. Put these two lines at the very top of the file that you start: from gevent import monkey;"
    " monkey.patch_all() -- or start it with 'flask run' or 'gunicorn -k gevent', which patch by themselves"
)


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


def require_patched() -> None:
    """See that handlers may block.

    :raises Unsupported: gevent has not patched the standard library.
    """
    if not monkey.is_module_patched("socket") or not monkey.is_module_patched("time"):
        raise Unsupported(UNPATCHED)
