"""Apps behind a server in this very process, and their clients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from gevent.pywsgi import WSGIServer

from flask_phoenix import Channel, Refused, Socket, on
from tests.support.http import URL, connect, get, head
from tests.support.wire import UPGRADE, Wire


class Visitor(Socket):
    """Lets in whoever is not banned."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "banned" in params:
            raise Refused("banned")


class Room(Channel):
    """Lets anybody in, and gives back what it is sent."""

    def join(self, payload: Any) -> None:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload


class Clients(ExitStack):
    """Connections to a server, which are hung up in the end."""

    def __init__(self, server: WSGIServer) -> None:
        super().__init__()
        self._server = server

    def send(self, data: bytes) -> Wire:
        """Send bytes on a connection of its own."""
        sock = self.enter_context(connect(self._server.server_port))
        sock.sendall(data)
        return Wire(sock)

    def dial(self, path: str = URL, headers: Mapping[str, str] = UPGRADE) -> Wire:
        """Send a request, for a WebSocket unless it has other headers."""
        return self.send(get(path, headers))

    def enter(self) -> Wire:
        """Open a WebSocket."""
        client = self.dial()
        assert head(client).startswith("HTTP/1.1 101")
        return client
