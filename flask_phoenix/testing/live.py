"""A real server in a process of its own, and clients that speak to it over a network."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlencode

import gevent
from flask import Response
from gevent import socket
from websockets import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from werkzeug.exceptions import HTTPException

from ..exceptions import PhoenixError
from ..protocol.messages import PHOENIX, Broadcast, Frame, Message
from .client import BaseClient, heartbeat
from .frames import WIRES, Wire
from .memory import HEARTBEAT_PERIOD, flatten
from .settling import wait_for
from .transcript import Transcript

#: As in .client.
__tracebackhide__ = __unittest = True

HOST = "127.0.0.1"
#: Seconds that a server may take to start, and to end.
START_WITHIN = 30.0
STOP_WITHIN = 15.0
#: Real seconds within which a client of another process gets what it expects.
LIVE_WITHIN = 5.0
#: Bytes that are read from a socket at once.
READ_SIZE = 65536

ELSEWHERE = (
    "the app of a live server runs in another process: its broadcasts and channels are not known here; see what the"
    " client gets, with assert_push, or take the fixture phoenix_client"
)

#: What the process runs: all is patched before anything else is imported.
PROGRAM = "from gevent import monkey; monkey.patch_all(); from {module} import main; main()"


class LiveServer:
    """An app that is served on a free port of this host, in a process of its own, which is patched by gevent.

    :param app: a function that makes the app and can be imported, or what ``flask --app`` takes: ``"chat:create_app"``.
    :param environment: variables for that process, beside this one's.
    :raises PhoenixError: it does not start; the message has what it wrote.
    """

    def __init__(self, app: str | Callable[[], Any], environment: Mapping[str, str] | None = None) -> None:
        name = app if isinstance(app, str) else f"{app.__module__}:{app.__qualname__}"
        if "<" in name:
            raise PhoenixError(f"the server's process cannot import {name}: let it stand at the top of a module")
        read, write = os.pipe()
        self._output = TemporaryFile()  # noqa: SIM115 - it is read and closed by stop
        self._clients: list[LiveClient] = []
        self._process = subprocess.Popen(
            (sys.executable, "-c", PROGRAM.format(module=f"{__package__}.live_process"), name, str(write)),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
            pass_fds=(write,),
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        os.close(write)
        with os.fdopen(read) as told:
            ready, _, _ = select.select([told], [], [], START_WITHIN)
            port = told.readline() if ready else ""
        if not port:
            raise PhoenixError(f"the server of {name} does not start; it wrote:\n{self.stop()}")
        self.port = int(port)

    def url(self, path: str = "/", scheme: str = "http") -> str:
        """Return the address of a path of this server."""
        return f"{scheme}://{HOST}:{self.port}{path}"

    def client(
        self,
        path: str = "/socket",
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        vsn: str = "2.0.0",
        heartbeat: float | None = HEARTBEAT_PERIOD,
        name: str = "",
        wire: Wire | None = None,
        within: float = LIVE_WITHIN,
    ) -> LiveClient:
        """Connect a client; the arguments are those of :class:`LiveClient`."""
        client = LiveClient(
            self.url(path, "ws"),
            params=params,
            headers=headers,
            vsn=vsn,
            heartbeat=heartbeat,
            name=name or f"client {len(self._clients) + 1}",
            wire=wire,
            within=within,
        )
        self._clients.append(client)
        return client

    def stop(self) -> str:
        """Close the clients, end the process in good order, and return what it wrote."""
        for client in self._clients:
            client.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._output as output:
            output.seek(0)
            return output.read().decode(errors="replace")

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            for client in self._clients if failure is None else ():
                client._refute_crash()
        finally:
            sys.stdout.write(self.stop())


class LiveClient(BaseClient):
    """One client over a WebSocket.

    It does as :class:`.Client` does, but that it knows what it got alone, and no broadcasts. What is refuted may not
    have come before the server has answered a heartbeat.

    :param url: of the mount: ``"ws://127.0.0.1:4000/socket"``.
    :raises werkzeug.exceptions.HTTPException: the handshake is refused.
    """

    def __init__(
        self,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        vsn: str = "2.0.0",
        heartbeat: float | None = HEARTBEAT_PERIOD,
        name: str = "client",
        wire: Wire | None = None,
        within: float = LIVE_WITHIN,
    ) -> None:
        super().__init__(Transcript(), name, wire or WIRES.get(vsn, WIRES["2.0.0"]), within)
        query = urlencode(list(flatten({"vsn": vsn, **(params or {})})))
        uri = parse_uri(f"{url.rstrip('/')}/websocket?{query}")
        self._protocol = ClientProtocol(uri)
        self._sock = socket.create_connection((uri.host, uri.port))
        self._answered = ""
        self._beats = 0
        self._beat_timer: Any = None
        request = self._protocol.connect()
        request.headers.update(headers or {})
        self._protocol.send_request(request)
        self._write_due()
        self._reader = gevent.spawn(self._read)
        self._wait_for_handshake()
        if heartbeat is not None:
            self._beat_timer = gevent.get_hub().loop.timer(heartbeat, heartbeat)
            self._beat_timer.start(gevent.spawn, self._beat)

    def close(self) -> None:
        """Go away, as when a page is closed."""
        if self._beat_timer is not None:
            self._beat_timer.close()
        self._reader.kill()
        self._sock.close()

    def _wait_for_handshake(self) -> None:
        protocol = self._protocol
        wait_for(lambda: protocol.state is OPEN or protocol.handshake_exc or self._reader.ready(), self.within)
        if protocol.state is OPEN:
            return
        self.close()
        if isinstance(protocol.handshake_exc, InvalidStatus):
            answer = protocol.handshake_exc.response
            raise _refusal(answer.status_code, bytes(answer.body or b""))
        raise PhoenixError(f"the WebSocket has not begun: {protocol.handshake_exc!r}")

    def broadcast_from(self, topic: str, event: str, payload: Any) -> None:
        """Not there: the app runs in another process."""
        raise PhoenixError(ELSEWHERE)

    def channel(self, topic: str) -> Any:
        """Not there, as :meth:`broadcast_from`."""
        raise PhoenixError(ELSEWHERE)

    def _broadcasts(self, topic: str, event: str) -> list[tuple[int, Broadcast]]:
        raise PhoenixError(ELSEWHERE)

    def _send(self, frame: Frame) -> None:
        if isinstance(frame, str):
            self._protocol.send_text(frame.encode())
        else:
            self._protocol.send_binary(frame)
        self._write_due()

    def _read(self) -> None:
        while True:
            try:
                data = self._sock.recv(READ_SIZE)
            except OSError:
                data = b""
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            for event in self._protocol.events_received():
                if isinstance(event, WebSocketFrame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                    content = bytes(event.data)
                    self._arrive(self._wire.read(content.decode() if event.opcode is Opcode.TEXT else content))
            self._write_due()
            if not data:
                self._hear_end()
                return

    def _hear_end(self) -> None:
        close = self._protocol.close_rcvd
        if close is not None:
            self._end(close.code, close.reason)
        elif self._protocol.handshake_exc is None:
            self._end(1006, "")

    def _write_due(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._sock.sendall(data)

    def _arrive(self, message: Message) -> None:
        if message.topic == PHOENIX:
            self._answered = message.ref
        super()._arrive(message)

    def _beat(self) -> str:
        self._beats += 1
        ref = f"heartbeat {self._beats}"
        self._send(self._wire.write(heartbeat()._replace(ref=ref)))
        return ref

    def _wait(self, find: Callable[[], Any], within: float | None) -> Any:
        if within == 0 and not self._reader.ready():
            ref = self._beat()
            super()._wait(lambda: self._answered == ref or self.closed, self.within)
        return super()._wait(find, within)


def _refusal(status: int, body: bytes) -> HTTPException:
    refusal = HTTPException(body.decode(errors="replace"), Response(body, status))
    refusal.code = status
    return refusal
