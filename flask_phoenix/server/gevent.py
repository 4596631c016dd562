"""Our own HTTP server, on gevent."""

from __future__ import annotations

import errno
import logging
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from io import BytesIO
from socket import IPPROTO_TCP, SHUT_RDWR, TCP_NODELAY
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import Input, WSGIHandler, WSGIServer
from gevent.ssl import Purpose, create_default_context
from geventwebsocket.handler import Client, WebSocketHandler
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from .. import clock
from ..exceptions import Unsupported
from ..runtime.engine import Engine
from ..runtime.settings import Settings
from ..runtime.turns import MAX_ACCEPT, Turns
from .detection import SERVER
from .drain import drain
from .garbage import PartialCollector
from .head import Head
from .upgrade import HAND_OVER, SOCKET

log = logging.getLogger("flask_phoenix.server")

UNPATCHED = (
    "gevent has not patched the standard library: a handler that waits (time.sleep, a database, an HTTP request) would"
    " stop every client. Put these two lines at the very top of the file that you start: from gevent import monkey;"
    " monkey.patch_all() -- or start it with 'flask run' or 'gunicorn -k gevent', which patch by themselves"
)

#: Bytes of a body that have to come in time.
PIECE = 1 << 16
#: Seconds without new connections after one that could not be accepted, as when all file descriptors are in use.
ACCEPT_PAUSE = 0.1
#: Connections that wait to be accepted, as gunicorn has it. With gevent's 256 the kernel would drop most of those who
#: come back at once, and they ask again after seconds.
BACKLOG = 2048
#: Seconds between two lines that say the same of clients.
REPORT_PERIOD = 60.0

#: What a log line shows for control characters, which a client may send.
ESCAPED = {number: f"\\x{number:02x}" for number in (*range(0x20), *range(0x7F, 0xA0))}


class UpgradeInput(BytesIO):
    """The body of a request for an upgrade: none, though the client goes on writing.

    :param rfile: where other libraries look for the socket.
    """

    def __init__(self, rfile: Any) -> None:
        super().__init__()
        self.rfile = rfile


class BodyReader:
    """Reads the body of a request; each piece of it has to come in time."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._begun = False

    def read(self, size: int) -> bytes:
        """Read so many bytes, or fewer at the end of the stream."""
        pieces = []
        while size > 0:
            piece = self._read_in_time(self._handler.rfile.read, min(size, PIECE))
            pieces.append(piece)
            size -= len(piece) or size
        return b"".join(pieces)

    def readline(self, size: int) -> bytes:
        """Read a line, or a part of one that is so long."""
        return self._read_in_time(self._handler.rfile.readline, min(size, PIECE))

    def _read_in_time(self, read: Callable[[int], bytes], size: int) -> bytes:
        if self._begun:  # what has come already is read without a switch: as fast as clients can send
            self._handler.server.turns.share()
        self._begun = True
        self._handler.watch("upload_timeout")
        try:
            return read(size)
        finally:
            self._handler.unwatch()


class LateWebSocket:
    """gevent-websocket's object for a request: the client is told 101 when a view first uses it.

    So a route that wants ``wsgi.websocket`` has it, and nothing has been said to the client of one that does not.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler.open_websocket(), name)


class Handler(WebSocketHandler):
    """Serves one HTTP connection: our mounts get the bare socket, other WebSocket routes gevent-websocket's."""

    server: Server
    websocket: Any = None
    wsgi_input: Any
    #: Carries frames from the end of the request on.
    carry: Callable[[], None] | None = None
    status: Any
    _timer: Any = None
    _served = False

    def handle(self) -> None:
        """Serve requests until the client goes; that it hangs up is no error."""
        try:
            with suppress(ConnectionError):
                super().handle()
        finally:
            self.unwatch()

    def watch(self, limit: str) -> None:
        """Cut the connection if what is read now takes longer than a setting of that name allows."""
        self.unwatch()
        self._timer = self.server.loop.timer(getattr(self.server.settings, limit))
        self._timer.start(self._cut, limit, self.socket)

    def unwatch(self) -> None:
        """Let it take its time."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _cut(self, limit: str, sock: Any) -> None:
        self.server.report_slow(limit)
        with suppress(OSError):  # it may have ended already
            sock.shutdown(SHUT_RDWR)

    def read_requestline(self) -> str:
        """Read the first line; the whole head has to come in time after its first byte, and that after a request."""
        if self._served:
            self.watch("keepalive_timeout")
            self.rfile.peek(1)
        self._served = True
        self.watch("head_timeout")
        return str(super().read_requestline())

    def read_request(self, raw_requestline: str) -> bool:
        """Read the head of a request; a client that goes meanwhile ends the connection without a word."""
        try:
            return bool(super().read_request(raw_requestline))
        except OSError:
            raise gevent.GreenletExit from None
        finally:
            self.unwatch()

    def MessageClass(self, stream: Any, *_: Any) -> Head:
        """Read the fields of a head."""
        return Head(stream)

    def get_environ(self) -> dict[str, Any]:
        """Add what our endpoints take, and what other WebSocket routes do."""
        environ: dict[str, Any] = super().get_environ()
        environ[SOCKET], environ[SERVER], environ[HAND_OVER] = self.socket, self.server, self.hand_over
        self.wsgi_input.rfile = BodyReader(self)
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
            environ["wsgi.input"], environ["wsgi.input_terminated"] = UpgradeInput(self.rfile), True
            environ["wsgi.websocket"] = LateWebSocket(self)
        return environ

    def run_application(self) -> None:
        """Let the app answer; a WebSocket of gevent-websocket's is closed after that."""
        try:
            WSGIHandler.run_application(self)
        finally:
            websocket, self.websocket = self.websocket, None
            if websocket is not None:
                self.server.clients.pop(self.client_address, None)
                if not websocket.closed:
                    websocket.close()
        if self.status is None:
            self.close_connection = True  # the app has taken the socket, and used it without us

    def hand_over(self, carry: Callable[[], None]) -> None:
        """End the connection as one of HTTP after this request; nothing more is read or written for it."""
        self.carry, self.close_connection = carry, True
        self.wsgi_input = Input(self.rfile, 0)
        self.socket = None

    def open_websocket(self) -> Any:
        """Upgrade the request in gevent-websocket's way, unless that was done."""
        if self.websocket is None:
            self._upgrade()
        return self.websocket

    def _upgrade(self) -> None:
        try:
            lines = self.upgrade_websocket()
        except ValueError as error:  # its key is no base64
            lines = [str(error)]
        if self.websocket is None:
            text = "".join(lines or ["this is no request for a WebSocket"])
            headers = {"Sec-WebSocket-Version": ", ".join(self.SUPPORTED_VERSIONS)}
            raise HTTPException(response=Response(text, self.code or 400, headers))
        self.write(b"")
        self.server.clients[self.client_address] = Client(self.client_address, self.websocket)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Begin an answer; after a 101 of gevent-websocket's there is none."""
        if self.websocket is None:
            return WSGIHandler.start_response(self, status, headers, exc_info)
        return self.write if self.headers_sent else super().start_response(status, headers, exc_info)

    def write(self, data: bytes) -> None:
        """Write a piece of the answer."""
        if self.carry is None and (self.websocket is None or not self.headers_sent):
            super().write(data)

    def log_request(self) -> None:
        """Write a line to the server's access log, if it has one; where that fails, it costs the line alone."""
        if self.server.logs_requests:
            try:
                self.write_line()
            except OSError:
                pass  # the disk is full, and to log that would fail, too
            except Exception:
                log.exception("the access log failed, and a line of it is lost")

    def write_line(self) -> None:
        """Write the line."""
        WSGIHandler.log_request(self)

    def format_request(self) -> str:
        """Return that line; what a client has sent cannot control a terminal."""
        return str(super().format_request()).translate(ESCAPED)


class ConnectionGreenlet(gevent.Greenlet):  # type: ignore[type-arg]
    """Serves one connection; it does not remember from where it was spawned, which would be kept as long."""

    spawning_stack_limit = 0


class Server(WSGIServer):
    """gevent's server, which drains the engines of its apps before it ends.

    :param engines: those that are known; others join with the first request that they answer.
    """

    handler_class = Handler
    max_accept = MAX_ACCEPT
    backlog = BACKLOG

    def __init__(self, address: tuple[str, int], app: Any, engines: Iterable[Engine] = (), **options: Any) -> None:
        if "certfile" in options:
            # Made once: gevent would make one for each connection, with a protocol that is deprecated.
            context = create_default_context(Purpose.CLIENT_AUTH)
            context.load_cert_chain(options.pop("certfile"), options.pop("keyfile", None))
            options["ssl_context"] = context
        #: Whether there is an access log.
        self.logs_requests = options.get("log", "default") is not None
        self._greenlets = Pool(greenlet_class=ConnectionGreenlet)
        super().__init__(address, app, spawn=self._greenlets, **options)
        self.engines: set[Engine] = set()
        #: gevent-websocket's clients, by their addresses.
        self.clients: dict[Any, Client] = {}
        #: The sockets that outlive their requests.
        self._handed_over: set[Any] = set()
        self._stopping, self._ended = Event(), Event()
        self.settings, self.turns = Settings(), Turns()
        self._reported: defaultdict[str, float] = defaultdict(lambda: float("-inf"))
        for engine in engines:
            self.join(engine)

    def join(self, engine: Engine) -> None:
        """Drain an engine, too, before the server ends, which an author's code may ask for by SystemExit."""
        self.engines.add(engine)
        self.settings, self.turns = engine.settings, engine.turns
        engine.served, engine.stop_server = True, self._stopping.set

    def init_socket(self) -> None:
        """Listen, on a socket whose connections send at once: an answer goes out as head and body, in two writes."""
        super().init_socket()
        self.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)

    def do_read(self) -> Any:
        """Accept a connection; where that is impossible, pause, and say so in one line."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self._pause(error)
            return None

    def handle(self, sock: Any, address: Any) -> None:
        """Serve a connection: by HTTP, and then in a greenlet of its own, which keeps nothing of the requests alive."""
        handler = self.handler_class(sock, address, self)
        handler.handle()
        carry = handler.carry
        handler.__dict__.clear()  # it and its environ hold each other
        if carry is not None:
            self._handed_over.add(sock)
            self._greenlets.spawn(self._carry, sock, carry)

    def _carry(self, sock: Any, carry: Callable[[], None]) -> None:
        try:
            carry()
        finally:
            self.do_close(sock)

    def do_close(self, sock: Any, *address: Any) -> None:
        """Close the socket of a connection, unless it was handed over."""
        if sock in self._handed_over:
            self._handed_over.discard(sock)
        else:
            super().do_close(sock, *address)

    def wrap_socket_and_handle(self, client_socket: Any, address: Any) -> None:
        """Serve a connection over TLS; a client whose handshake fails, or takes too long, is no error."""
        wrap: Any = getattr(self, "wrap_socket")  # noqa: B009 - typed as a method that it is not
        with (
            suppress(OSError),
            closing(wrap(client_socket, do_handshake_on_connect=False, **(self.ssl_args or {}))) as sock,
        ):
            if gevent.with_timeout(self.settings.head_timeout, sock.do_handshake, timeout_value=self) is not self:
                self.handle(sock, address)

    def serve_until_stopped(self) -> None:
        """Serve until SIGINT or SIGTERM, then let the clients go: with 1012, which tells them to come back."""
        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, self._stopping.set)
        self.start()
        collector = PartialCollector()
        collector.start()
        try:
            self._stopping.wait()
        finally:
            collector.stop()
            self.close()
            gevent.joinall([gevent.spawn(drain, engine) for engine in self.engines])
            self.stop(timeout=1)
            for engine in self.engines:
                engine.stop()
            self._ended.set()

    def end(self) -> None:
        """Let :meth:`serve_until_stopped`, in another greenlet, end in good order, and wait for it."""
        self._stopping.set()
        self._ended.wait()

    def report_slow(self, limit: str) -> None:
        """Tell of a client that is cut off for being slow; that one is idle between its requests is no news."""
        if limit == "keepalive_timeout":
            return
        for engine in self.engines:
            engine.reach(limit)
        if self._may_report(limit):
            log.warning("clients that send a request too slowly are cut off (PHOENIX_%s)", limit.upper())

    def _may_report(self, what: str) -> bool:
        """Tell whether it is time for another line about something."""
        now = clock.monotonic()
        due = now - self._reported[what] > REPORT_PERIOD
        if due:
            self._reported[what] = now
        return due

    def _pause(self, error: OSError) -> None:
        if self._may_report("accept"):
            log.error("no connection can be accepted: %s; raise the limit (ulimit -n)", error.strerror)
        self.stop_accepting()
        gevent.spawn_later(ACCEPT_PAUSE, self._resume)

    def _resume(self) -> None:
        if self.started:
            self.start_accepting()


def require_patched() -> None:
    """See that handlers may block.

    :raises Unsupported: gevent has not patched the standard library.
    """
    if not monkey.is_module_patched("socket") or not monkey.is_module_patched("time"):
        raise Unsupported(UNPATCHED)
