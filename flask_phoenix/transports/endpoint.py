"""Endpoints: the views that answer at a mount, and the connections that they make."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

from flask import Flask, Response, abort, current_app, make_response, request
from werkzeug.exceptions import HTTPException

from ..channel import level_of
from ..exceptions import (
    InvalidMessage,
    InvalidOption,
    InvalidReturn,
    PhoenixError,
    Refused,
    UnknownVersion,
    Unsupported,
)
from ..protocol.json import Json
from ..protocol.serializers import Serializer, choose_serializer, default_table
from ..protocol.state import Protocol
from ..runtime.caps import Place
from ..runtime.channel_connection import ChannelConnection
from ..runtime.connection import Bounds, Carrier, Connection, RawConnection
from ..runtime.engine import Engine
from ..runtime.logs import write_line
from ..server.detection import detect_server
from ..server.upgrade import close_refused, find_hand_over, has_hung_up, take_socket
from ..signals import socket_refused
from ..socket import RawSocket, Socket
from .contexts import surroundings_of_handshake
from .handshake import Admission, admit, check_origin, choose_protocol, http_error, offered_protocols, parse_query
from .middleware import UPGRADE, Upgrade
from .options import Mount
from .pacing import pace
from .websocket import Limits, WebSocketCarrier, accept_upgrade

log = logging.getLogger("flask_phoenix.handshake")
server_log = logging.getLogger("flask_phoenix.server")

#: Seconds after which a client that was refused for a cap may try again.
RETRY_AFTER = "10"
#: How the names of our endpoints begin in Flask; no other one has a space in it by accident.
NAME = "phoenix "

NO_GATEWAY = (
    "app.wsgi_app has been replaced since init_app, and no WebSocket can begin: wrap app.wsgi_app in a middleware"
    " instead, as in app.wsgi_app = Middleware(app.wsgi_app)"
)


class EveryMethod(set[str]):
    """The methods of an endpoint as others read them; wrong ones are routed to it too, and get its own answer."""

    def __contains__(self, method: object) -> bool:
        return True


def _places(app: Flask) -> list[tuple[str | None, str | None]]:
    """Return the hosts and subdomains at which an app finds an endpoint: all of them, as in Phoenix."""
    if app.url_map.host_matching:
        return [("<_phoenix_host>", None)]
    return [(None, None), (None, "<_phoenix_subdomain>")] if app.subdomain_matching else [(None, None)]


class Endpoint:
    """One transport of one mount in one app."""

    #: The methods that it answers.
    methods: tuple[str, ...]

    def __init__(self, engine: Engine, json: Json, mount: Mount) -> None:
        self.engine = engine
        self.json = json
        self.mount = mount
        self.serializers = _serializers(mount, json)
        options = mount.options
        self._bounds = Bounds(options.inbox_limit, options.join_timeout, options.expiry_notice, mount.path)
        self._log_level = level_of(options.log, "log")
        self._unsupported_logged = False

    @property
    def name(self) -> str:
        """Flask's name for this endpoint: without dots, which would make it one of a blueprint's."""
        return f"{NAME}{self.mount.url}".replace(".", "%2E")

    def register(self, app: Flask) -> None:
        """Add the rules of this endpoint to an app, with and without a slash at the end.

        :raises InvalidOption: another socket is mounted there.
        """
        if self.name in app.view_functions:
            raise InvalidOption(f"two sockets are mounted at {self.mount.url}; mount each at a path of its own")
        app.endpoint(self.name)(self.view)
        for host, subdomain in _places(app):
            for websocket in (True, False):
                # Not through add_url_rule, which lets no WebSocket rule take every method.
                rule = app.url_rule_class(
                    self.mount.url,
                    endpoint=self.name,
                    host=host,
                    subdomain=subdomain,
                    websocket=websocket,
                    strict_slashes=False,
                )
                rule.methods = EveryMethod(self.methods)
                rule.provide_automatic_options = False  # type: ignore[attr-defined]
                app.url_map.add(rule)

    def view(self, **variables: Any) -> Response:
        """Answer a request."""
        raise NotImplementedError

    def detect_server(self) -> None:
        """Look at the server with the first client; one that cannot serve any is HTTP 501, and said once in the log."""
        try:
            detect_server(self.engine, request.environ)
        except Unsupported as error:
            server_log.log(logging.DEBUG if self._unsupported_logged else logging.ERROR, "%s", error)
            self._unsupported_logged = True
            http_error(501, str(error))

    def tell_refused(self, reason: str, **about: Any) -> None:
        """Send the signal that the client of the current request is refused."""
        if socket_refused.receivers:
            mount = self.mount
            address = request.remote_addr
            self.engine.tell(
                socket_refused, mount=mount.path, transport=mount.transport, reason=reason, address=address, **about
            )

    def refuse_draining(self) -> NoReturn:
        """Refuse the current request, since this process is about to end, with HTTP 503."""
        self.tell_refused("draining")
        http_error(503)

    def check_origin(self) -> bool:
        """Tell whether the request's origin may use this mount."""
        allowed = check_origin(self.mount)
        if not allowed:
            self.tell_refused("origin")
        return allowed

    def serve_engine(self) -> None:
        """Start what connections need, while a client can still be refused: never a 101 that cannot be served."""
        try:
            self.engine.serve()
        except PhoenixError as error:
            if not self.engine.draining:
                log.error("refused a client of %s, which cannot be served: %s", self.mount.path, error)
                self.tell_refused("cannot be served")
            http_error(503)
        if self.engine.draining:  # meanwhile
            self.refuse_draining()

    def accept(self, carrier: Carrier, variables: dict[str, Any]) -> Connection:
        """Make a connection from the current request with a carrier that needs no socket.

        :raises Refused: by the author.
        """
        if not self.check_origin():
            http_error(403)
        _, token = offered_protocols(self.mount)
        admission = self.admit(token, variables)
        return self.connect(admission, carrier) if admission else http_error(403)

    def place(self) -> Place:
        """Take a place for the client of the current request, and wait for its turn; or refuse it with HTTP 503."""
        caps = self.engine.caps
        place = caps.take(request.remote_addr or "")
        if isinstance(place, str):
            self.refuse(place)
        if caps.handshakes is not None:
            with place:
                if not caps.handshakes.wait():
                    self.refuse("handshakes_per_second")
                if self.engine.draining:  # meanwhile
                    self.refuse_draining()
                if has_hung_up(request.environ):
                    http_error(400)
        return place

    def refuse(self, cap: str) -> NoReturn:
        """Refuse the current request, for a cap of this process, with HTTP 503."""
        self.engine.reach(cap, address=request.remote_addr)
        self.engine.caps.report(cap)
        self.tell_refused(cap)
        http_error(503, headers={"Retry-After": RETRY_AFTER})

    def admit(self, token: str | None, variables: dict[str, Any]) -> Admission | None:
        """Let the author decide about the current request; None: refused for its version, or by an author's mistake.

        :raises Refused: by the author.
        """
        began = perf_counter()
        try:
            return admit(self.mount, self.serializers, token, variables)
        except Refused as refused:
            self.tell_refused("refused", response=refused.response)
            self._write_line("REFUSED CONNECTION TO", parse_query(request.query_string), perf_counter() - began, "-")
            raise
        except UnknownVersion as error:
            log.warning("refused a client of %s: %s", self.mount.path, error)
            self.tell_refused("version")
        except InvalidReturn as error:
            log.error("refused a client of %s: %s", self.mount.path, error)
            self.tell_refused("crashed")
        except HTTPException:
            raise
        except Exception:
            self.tell_refused("crashed")
            raise
        return None

    def connect(self, admission: Admission, carrier: Carrier) -> Connection:
        """Make the connection of an admitted client."""
        connection = self._make_connection(admission, carrier)
        if self.engine.tracing is not None:
            connection.trace = request.headers.get("traceparent", "")
        self._write_line("CONNECTED TO", admission.socket.params, admission.seconds, connection.number)
        if self.mount.options.messages_per_second is not None:
            pace(connection, self.mount.options.messages_per_second)
        return connection

    def _write_line(self, what: str, parameters: Any, seconds: float, number: int | str) -> None:
        """Log that a client was let in, or that its socket refused it."""
        mount, level = self.mount, self._log_level
        if level is not None and log.isEnabledFor(level):
            what = f"{what} {mount.socket.__name__} by {mount.transport}"
            told = self.engine.filter_parameters(parameters)
            write_line(log, level, what, seconds, told, connection=number, mount=mount.path, transport=mount.transport)

    def _make_connection(self, admission: Admission, carrier: Carrier) -> Connection:
        socket, name, serializer, _ = admission
        options, around = self.mount.options, surroundings_of_handshake()
        if isinstance(socket, RawSocket):
            return RawConnection(self.engine, socket, name, carrier, around, self._bounds)
        assert isinstance(socket, Socket)
        protocol = Protocol(serializer, socket.match, options.max_channels, options.max_name_length)
        return ChannelConnection(self.engine, socket, name, carrier, protocol, around, self._bounds)


class WebSocketEndpoint(Endpoint):
    """Answers requests for a WebSocket."""

    methods = ("GET",)

    def __init__(self, engine: Engine, json: Json, mount: Mount) -> None:
        super().__init__(engine, json, mount)
        options = mount.options
        self._limits = Limits(
            options.timeout,
            options.max_frame_size,
            options.outbox_limit,
            options.outbox_timeout,
            options.conflate,
        )

    def view(self, **variables: Any) -> Response:
        """Answer a request: our refusals pass by the app's error pages, also where it traps HTTP errors."""
        try:
            return self._respond(variables)
        except HTTPException as error:
            if error.response is None:
                raise  # an error of the author's
            return make_response(error.get_response())

    def _respond(self, variables: dict[str, Any]) -> Response:
        """Take the steps of the handshake; each may refuse, in Phoenix's order (``transports/websocket.ex``)."""
        if request.method != "GET":
            http_error(400)
        self.detect_server()
        with close_refused(self.engine, request.environ):
            if self.engine.draining:
                self.refuse_draining()
            if not self.check_origin():
                http_error(403)
            offered, token = offered_protocols(self.mount)
            protocol = choose_protocol(self.mount, offered)
            with self.place() as place:
                try:
                    admission = self.admit(token, variables)
                except Refused as refused:
                    self._answer(refused)
                if admission is None:
                    http_error(403)
                return self._upgrade(admission, protocol, place)

    def _answer(self, refused: Refused) -> NoReturn:
        handler = self.mount.options.error_handler
        if handler is None:
            http_error(403)
        abort(make_response(handler(refused)))

    def _upgrade(self, admission: Admission, protocol: str | None, place: Place) -> Response:
        options, environ = self.mount.options, request.environ
        try:
            headers, extensions = accept_upgrade(environ, options.compress)
            sock, upgraded = take_socket(environ)
        except InvalidMessage as error:
            # RFC 6455, 4.2.2: whose version is unknown is told the known one.
            http_error(400, str(error), {"Sec-WebSocket-Version": "13"})
        except Unsupported as error:
            server_log.error("%s", error)
            http_error(501, str(error))
        upgrade: Upgrade | None = environ.get(UPGRADE)
        if upgrade is None:
            log.error(NO_GATEWAY)
            http_error(501)
        self.serve_engine()
        # A server that has sent its own 101 has agreed on no extensions.
        carrier = WebSocketCarrier(sock, [] if upgraded else extensions, self._limits)
        connection = self.connect(admission, carrier)
        upgrade.carry = partial(_carry, self.engine, place, carrier, connection)
        upgrade.sock, upgrade.upgraded = sock, upgraded
        upgrade.hand_over = find_hand_over(environ)
        if protocol:
            headers.append(("Sec-WebSocket-Protocol", protocol))
        return current_app.response_class(status=101, headers=headers)


def _carry(engine: Engine, place: Place, carrier: WebSocketCarrier, connection: Connection) -> None:
    """Carry a client's frames, and give its place back."""
    try:
        with engine.transports:
            carrier.serve(connection)
    finally:
        place.close()


def _serializers(mount: Mount, json: Json) -> list[tuple[Serializer, str]]:
    """Return the serializers of a mount; a class in its table gets the app's JSON."""
    table = mount.options.serializer
    made = (
        default_table(json)
        if table is None
        else [(entry(json) if isinstance(entry, type) else entry, versions) for entry, versions in table]
    )
    with suppress(UnknownVersion):
        choose_serializer("0.0.0", made)  # looks at every entry
    if mount.options.vsn is None:
        return made
    try:
        return [(choose_serializer(vsn, made), f"~> {vsn}") for vsn in mount.options.vsn]
    except UnknownVersion as error:
        raise InvalidOption(f"vsn={mount.options.vsn!r} names a version that no serializer speaks: {error}") from error
