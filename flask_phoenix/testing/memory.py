"""A client of an app without a network, and the factory that the fixture ``phoenix_client`` is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec
from urllib.parse import urlencode

import gevent
from flask import Flask, abort, request
from flask.testing import FlaskClient
from gevent.queue import Queue

from .. import clock
from ..app_state import state_of
from ..channel import Channel
from ..exceptions import InvalidMessage, PhoenixError
from ..protocol.messages import Frame
from ..protocol.serializers import choose_serializer
from ..runtime.connection import INTERNAL_ERROR, Connection
from ..socket import Socket
from ..transports.endpoint import Endpoint
from ..transports.handshake import Admission, identify
from .client import WITHIN, BaseClient
from .client import heartbeat as heartbeat_message
from .frames import WIRES, Wire
from .in_memory import MemoryCarrier
from .settling import call, settle
from .transcript import Transcript

log = logging.getLogger("flask_phoenix.connection")

#: As in .client.
__tracebackhide__ = __unittest = True

Arguments = ParamSpec("Arguments")

#: Seconds between two signs of life of the npm client.
HEARTBEAT_PERIOD = 30.0
#: The close code for a client that fell silent, as a WebSocket's.
PROTOCOL_ERROR = 1002

#: Where a client comes from, as Flask's own test client.
PLACE = {"REMOTE_ADDR": "127.0.0.1"}

#: The parameter in which a client sends its CSRF token.
CSRF_PARAMETER = "_csrf_token"


class Client(BaseClient):
    """One client of an app, through the app's real handshake, engine and serializer, without a network.

    ``before_request`` functions run; cookies and headers count.

    :param path: where the socket is mounted, with its variables filled in: ``"/shop/7"``. Unless given, where the only
        one is, or the only one of ``socket``; or ``"/socket"``.
    :param params: the client's parameters, nested or not.
    :param headers: of the handshake request, such as an Origin.
    :param environ: of its WSGI environ, what servers and proxies say: ``REMOTE_ADDR``, ``wsgi.url_scheme``.
    :param http: a test client of the app: its cookies, and the CSRF token of its session.
    :param session: what the session holds, if there is no ``http``; its CSRF token goes with it.
    :param assigns: begins without a handshake, and without ``connect``: with these values.
    :param id: the socket's id then, unless ``id()`` is to tell.
    :param socket: the class whose mount is meant.
    :param vsn: the version of the wire.
    :param heartbeat: seconds between two signs of life; None: none, so that it may fall silent.
    :param name: by which failures tell it from others; the socket's id unless given.
    :param wire: how it writes and reads the frames of an author's own serializer.
    :raises Refused: the socket refuses.
    :raises werkzeug.exceptions.HTTPException: the handshake refuses, for its origin or version.
    """

    def __init__(
        self,
        app: Flask,
        path: str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Any = None,
        *,
        environ: Mapping[str, Any] | None = None,
        http: FlaskClient | None = None,
        session: Mapping[str, Any] | None = None,
        assigns: Mapping[str, Any] | None = None,
        id: str | EllipsisType | None = ...,
        socket: type[Socket] | None = None,
        vsn: str = "2.0.0",
        heartbeat: float | None = HEARTBEAT_PERIOD,
        name: str = "",
        wire: Wire | None = None,
        within: float = WITHIN,
        transcript: Transcript | None = None,
    ) -> None:
        self._app = app
        self._own_transcript = None if transcript is not None else Transcript(app)
        wire = wire or WIRES.get(vsn, WIRES["2.0.0"])
        transcript = self._own_transcript or transcript
        assert transcript is not None
        super().__init__(transcript, name or "client", wire, within)
        self._frames: Queue[Any] = Queue()
        self._carrier = MemoryCarrier(self._arrive, wire.read, self._end)
        self._last_sent = clock.monotonic()
        self._timers: list[Any] = []
        self._heartbeat = wire.write(heartbeat_message())
        try:
            endpoint, url = find_endpoint(app, path, socket)
            handshake = Handshake(app, endpoint, url, {"vsn": vsn, **(params or {})}, headers, environ, http, session)
            if assigns is None:
                self._connection = call(handshake.connect, self._carrier, within=within)
            else:
                self._connection = call(handshake.skip, self._carrier, assigns, id, within=within)
            self.name = name or transcript.name_for(self._connection.id)
            self._open(endpoint.mount.options.timeout, heartbeat)
        except BaseException:
            self._close_transcript()
            raise

    @property
    def socket(self) -> Any:
        """The author's socket."""
        return self._connection.socket

    def broadcast_from(self, topic: str, event: str, payload: Any) -> None:
        """Broadcast as another subscriber does: all who have joined the topic get it, this client too.

        It is what ``phoenix.broadcast`` does, without an app context.

        :raises InvalidPayload: the payload is neither a dict of JSON nor bytes.
        """
        state_of(self._app).broadcast(topic, event, payload)
        settle()

    def channel(self, topic: str) -> Any:
        """Return the author's channel that this client has joined.

        :raises AssertionError: there is none.
        """
        settle()
        membership = self._connection.topics.get(topic)
        channel = getattr(getattr(membership, "server", None), "channel", None)
        if not isinstance(channel, Channel):
            raise self._failure(f"{topic!r} is not joined")
        return channel

    def close(self) -> None:
        """Go away, as when a page is closed; ``terminate`` has run then, unless it waits for something."""
        call(self._connection.closed, "closed", within=self.within)
        self._stop()
        settle()
        self._close_transcript()

    def _close_transcript(self) -> None:
        if self._own_transcript is not None:
            self._own_transcript.close()

    def _open(self, timeout: float | None, heartbeat_period: float | None) -> None:
        call(self._connection.opened, within=self.within)
        gevent.spawn(self._read)
        loop = gevent.get_hub().loop
        if heartbeat_period is not None:
            timer = loop.timer(heartbeat_period, heartbeat_period)
            timer.start(self._beat)
            self._timers.append(timer)
        if timeout is not None:
            timer = loop.timer(timeout)
            timer.start(self._check_idle, timer, timeout)
            self._timers.append(timer)

    def _end(self, code: int, reason: str) -> None:
        super()._end(code, reason)
        self._stop()

    def _stop(self) -> None:
        """Hand nothing to the connection any more."""
        while self._timers:
            self._timers.pop().close()
        self._frames.put(StopIteration)

    def _send(self, frame: Frame) -> None:
        self._last_sent = clock.monotonic()
        self._frames.put(frame)
        settle()

    def _read(self) -> None:
        """Hand the frames to the connection, one after another, as a transport does."""
        for frame in self._frames:
            try:
                self._connection.receive(frame)
            except InvalidMessage as error:
                log.error("a client of %s sent an invalid message: %s", type(self.socket).__name__, error)
                self._connection.close(INTERNAL_ERROR, "invalid message")

    def _beat(self) -> None:
        if self._connection.open:
            self._last_sent = clock.monotonic()
            self._frames.put(self._heartbeat)

    def _check_idle(self, timer: Any, timeout: float) -> None:
        left = self._last_sent + timeout - clock.monotonic()
        timer.stop()
        if left <= 0.001:
            self._connection.close(PROTOCOL_ERROR, "timeout")
            return
        self._timers.remove(timer)
        timer = gevent.get_hub().loop.timer(left)
        timer.start(self._check_idle, timer, timeout)
        self._timers.append(timer)


class Handshake:
    """A client's request."""

    def __init__(
        self,
        app: Flask,
        endpoint: Endpoint,
        url: str,
        params: dict[str, Any],
        headers: Any,
        environ: Mapping[str, Any] | None,
        http: FlaskClient | None,
        session: Mapping[str, Any] | None,
    ) -> None:
        self._app = app
        self._endpoint = endpoint
        self._url = url
        self._params = params
        self._headers = headers
        self._environ = {**(http.environ_base if http is not None else PLACE), **(environ or {})}
        self._http = http
        self._session = session

    def connect(self, carrier: MemoryCarrier) -> Connection:
        """Let the app decide, and make the connection."""
        app = self._app
        with self._context():
            answer = app.preprocess_request()
            if answer is not None:
                abort(app.make_response(answer))
            return self._endpoint.accept(carrier, request.view_args or {})

    def skip(self, carrier: MemoryCarrier, assigns: Mapping[str, Any], id: str | EllipsisType | None) -> Connection:
        """Make the connection without asking."""
        mount = self._endpoint.mount
        socket = mount.socket(dict(self._params), mount.transport)
        socket.assigns.update(assigns)
        serializer = choose_serializer(self._params["vsn"], self._endpoint.serializers)
        with self._context():
            name = identify(socket) if isinstance(id, EllipsisType) else id
            return self._endpoint.connect(Admission(socket, name, serializer), carrier)

    def _context(self) -> Any:
        http, params = self._http, dict(self._params)
        if http is None and self._session is not None:
            http = self._begin_session(self._session)
        if http is not None and "session" in self._endpoint.mount.options.info_keys:
            with http.session_transaction() as session:
                token = session.get(self._endpoint.mount.options.csrf_token_key)
            if token is not None:
                params.setdefault(CSRF_PARAMETER, token)
        query = urlencode(list(flatten(params)))
        context = self._app.test_request_context(
            self._url, query_string=query, headers=self._headers, environ_overrides=self._environ
        )
        if http is not None:
            http._add_cookies_to_wsgi(context.request.environ)  # what a request of its own would send
        return context

    def _begin_session(self, values: Mapping[str, Any]) -> FlaskClient:
        if not self._app.secret_key:
            raise PhoenixError("session= needs the app's SECRET_KEY, with which its cookie is signed: set one")
        http = self._app.test_client()
        with http.session_transaction() as session:
            session[self._endpoint.mount.options.csrf_token_key] = "a token"
            session.update(values)
        return http


def takes_arguments_of(
    kind: Callable[Concatenate[Any, Arguments], Client],
) -> Callable[[Callable[..., Client]], Callable[Concatenate[Any, Arguments], Client]]:
    """Type a method that hands its arguments on, after an app, as what it hands them to."""
    return lambda method: method


class Clients:
    """Makes clients of one app, which fail with one transcript; ``with Clients(app) as connect``.

    It is what the fixture ``phoenix_client`` returns. At the end all clients are closed, and the app serves nobody, as
    before.
    """

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.transcript = Transcript(app)
        self._clients: list[Client] = []
        self._engine = state_of(app).engine
        self._served = bool(self._engine.node.name)

    @takes_arguments_of(Client)
    def __call__(self, *arguments: Any, **options: Any) -> Client:
        """Connect a client; the arguments are those of :class:`Client` after the app."""
        client = Client(self.app, *arguments, transcript=self.transcript, **options)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close all clients.

        :raises AssertionError: a channel has crashed, and nothing has asserted that.
        """
        for client in reversed(self._clients):
            client.close()
        self.transcript.close()
        if not self._served:
            call(self._engine.stop, within=WITHIN)
        clients, self._clients = self._clients, []
        for client in clients:
            client._refute_crash()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self.transcript.failed |= failure is not None
        self.close()


def find_endpoint(app: Flask, path: str | None, socket: type[Socket] | None) -> tuple[Endpoint, str]:
    """Return where a client connects, and its URL.

    :raises PhoenixError: no socket is mounted there, or it is not clear which is meant.
    """
    state = state_of(app)
    every = [endpoint for endpoint in state.endpoints if issubclass(endpoint.mount.socket, Socket)]
    every.sort(key=lambda endpoint: endpoint.mount.transport != "websocket")
    meant = [endpoint for endpoint in every if socket in (None, endpoint.mount.socket)]
    paths = list(dict.fromkeys(endpoint.mount.path for endpoint in meant))
    if path is None:
        path = paths[0] if len(paths) == 1 else "/socket"
    for endpoint in meant:
        url = "/".join([path.rstrip("/"), endpoint.mount.options.path.strip("/")])
        with app.test_request_context(url):
            if request.endpoint == endpoint.name:
                return endpoint, url
    of = f" of {socket.__name__}" if socket is not None else ""
    raise PhoenixError(f"no socket{of} is mounted at {path!r}; there are {[each.mount.url for each in every]}")


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the parameters of a query string as the npm client writes them: ``a[b]=1``, ``c[]=2``."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from flatten(each, f"{name}[{key}]" if name else str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from flatten(each, f"{name}[]")
    elif value is not None:
        yield name, str(value).lower() if isinstance(value, bool) else str(value)
