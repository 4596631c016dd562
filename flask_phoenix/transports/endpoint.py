"""What answers at a mount: the view of each transport, and the connections that grow out of its requests."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, NoReturn

from flask import Flask, Response, abort, make_response, request

from ..exceptions import InvalidMessage, InvalidOption, InvalidReturn, Refused, UnknownVersion, Unsupported
from ..protocol.json import Json
from ..protocol.serializers import Serializer, choose_serializer, default_table
from ..protocol.state import Protocol
from ..runtime.channel_connection import ChannelConnection
from ..runtime.connection import Carrier, Connection, RawConnection
from ..runtime.engine import Engine
from ..server.inspection import inspect_server
from ..server.upgrade import UpgradeResponse, close_refused, take_socket
from ..socket import RawSocket, Socket
from .handshake import Admission, admit, check_origin, choose_protocol, http_error, offered_protocols
from .options import Mount
from .websocket import Limits, WebSocketCarrier, accept_upgrade

log = logging.getLogger(__name__)

#: How the names of our endpoints begin in Flask; no other one has a space in it by accident.
NAME = "phoenix "


class Endpoint:
    """One transport of one mount in one app."""

    def __init__(self, engine: Engine, json: Json, mount: Mount) -> None:
        self.engine = engine
        self.json = json
        self.mount = mount
        self.serializers = _serializers(mount, json)
        self._unsupported_logged = False

    @property
    def name(self) -> str:
        """Flask's name for this endpoint."""
        return f"{NAME}{self.mount.url}"

    def register(self, app: Flask) -> None:
        """Add the rules of this endpoint to an app, with and without a slash at the end.

        :raises InvalidOption: another socket is mounted there.
        """
        if self.name in app.view_functions:
            raise InvalidOption(f"two sockets are mounted at {self.mount.url}; mount each at a path of its own")
        app.endpoint(self.name)(self.view)
        for websocket in (True, False):
            # Past add_url_rule, which lets no WebSocket rule take every method: wrong ones are to get our own answer.
            app.url_map.add(
                app.url_rule_class(self.mount.url, endpoint=self.name, websocket=websocket, strict_slashes=False)
            )

    def view(self, **variables: Any) -> Response:
        """Answer a request."""
        raise NotImplementedError

    def inspect_server(self) -> None:
        """Look at the server with the first client; one that cannot serve any is HTTP 501, and said once in the log."""
        try:
            inspect_server(self.engine, request.environ)
        except Unsupported as error:
            log.log(logging.DEBUG if self._unsupported_logged else logging.ERROR, "%s", error)
            self._unsupported_logged = True
            http_error(501, str(error))

    def accept(self, carrier: Carrier, variables: dict[str, Any]) -> Connection:
        """Make a connection from the request at hand, without a socket: for carriers that need none.

        :raises Refused: by the author.
        """
        if not check_origin(self.mount):
            http_error(403)
        _, token = offered_protocols(self.mount)
        admission = self.admit(token, variables)
        return self.connect(admission, carrier) if admission else http_error(403)

    def admit(self, token: str | None, variables: dict[str, Any]) -> Admission | None:
        """Let the author decide about the request at hand; None: refused for its version, or by a mistake.

        :raises Refused: by the author.
        """
        try:
            return admit(self.mount, self.mount.transport, self.serializers, token, variables)
        except UnknownVersion as error:
            log.warning("refused a client of %s: %s", self.mount.path, error)
        except InvalidReturn as error:
            log.error("refused a client of %s: %s", self.mount.path, error)
        return None

    def connect(self, admission: Admission, carrier: Carrier) -> Connection:
        """Make the connection of a client that was let in."""
        socket, name, serializer = admission
        if isinstance(socket, RawSocket):
            return RawConnection(self.engine, socket, name, carrier)
        assert isinstance(socket, Socket)
        protocol = Protocol(serializer, socket.match, self.mount.options.max_channels)
        return ChannelConnection(self.engine, socket, name, carrier, protocol)


class WebSocketEndpoint(Endpoint):
    """Answers requests for a WebSocket."""

    def view(self, **variables: Any) -> Response:
        """Take the steps of the handshake; each may refuse, in Phoenix's order (``transports/websocket.ex``)."""
        if request.method != "GET":
            http_error(400)
        self.inspect_server()
        with close_refused(self.engine, request.environ):
            if self.engine.draining:
                http_error(503)
            if not check_origin(self.mount):
                http_error(403)
            offered, token = offered_protocols(self.mount)
            protocol = choose_protocol(self.mount, offered)
            try:
                admission = self.admit(token, variables)
            except Refused as refused:
                self._answer(refused)
            if admission is None:
                http_error(403)
            return self._upgrade(admission, protocol)

    def _answer(self, refused: Refused) -> NoReturn:
        handler = self.mount.options.error_handler
        if handler is None:
            http_error(403)
        abort(make_response(handler(refused)))

    def _upgrade(self, admission: Admission, protocol: str | None) -> Response:
        options = self.mount.options
        try:
            upgrade = accept_upgrade(request.environ, list(request.headers.items()), options.compress)
            sock, upgraded = take_socket(request.environ)
        except InvalidMessage as error:
            http_error(400, str(error))
        except Unsupported as error:
            log.error("%s", error)
            http_error(501, str(error))
        limits = Limits(options.timeout, options.max_frame_size, options.outbox_limit)
        # A server that has sent its own 101 has agreed on no extensions.
        carrier = WebSocketCarrier(sock, [] if upgraded else upgrade.extensions, limits)
        connection = self.connect(admission, carrier)
        engine = self.engine

        def carry() -> None:
            with engine.carrying():
                carrier.serve(connection)

        headers = [*upgrade.headers, ("Sec-WebSocket-Protocol", protocol)] if protocol else upgrade.headers
        return UpgradeResponse(headers, carry, upgraded)


def _serializers(mount: Mount, json: Json) -> list[tuple[Serializer, str]]:
    """Return the serializers of a mount; a class in its table gets the app's JSON."""
    table = mount.options.serializer
    if table is None:
        return default_table(json)
    made = [(entry(json) if isinstance(entry, type) else entry, versions) for entry, versions in table]
    with suppress(UnknownVersion):
        choose_serializer("0.0.0", made)  # looks at every entry
    return made
