"""The client's end of a WebSocket: frames, well-formed or not, over a gevent socket."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
from flask import Flask
from gevent import socket
from gevent.event import Event
from gevent.ssl import PROTOCOL_TLS_CLIENT, PROTOCOL_TLS_SERVER, SSLContext
from geventwebsocket.websocket import Stream, WebSocket
from websockets.extensions.base import Extension
from websockets.frames import Close, Frame, Opcode
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from flask_phoenix.server.upgrade import SOCKET
from tests.support.processes import DEADLINE, HOST

#: The headers by which a client asks for a WebSocket; the key and its answer are those of RFC 6455, 1.3.
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

CERTIFY = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={HOST}"


class Wire:
    """A client that says exactly what it is told to, and answers nothing by itself.

    :param sock: a gevent socket; every wait for it has a deadline.
    """

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        sock.settimeout(DEADLINE)

    def send(self, opcode: int, data: bytes = b"", **bits: Any) -> None:
        """Send one frame."""
        self.sock.sendall(write(opcode, data, **bits))

    def text(self, text: str) -> None:
        """Send a text frame."""
        self.send(Opcode.TEXT, text.encode())

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame, whatever its code; None: an empty one."""
        self.send(Opcode.CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())

    def frame(self) -> Frame:
        """Receive one frame.

        :raises EOFError: the stream has ended.
        """
        first, size = self.take(2)
        assert not size & 0x80, "a server's frame is masked"
        if size > 125:
            size = int.from_bytes(self.take(2 if size == 126 else 8), "big")
        return Frame(Opcode(first & 0x0F), self.take(size), bool(first & 0x80), bool(first & 0x40))

    def data(self) -> str | bytes:
        """Receive a message."""
        frame = self.frame()
        assert frame.fin
        assert frame.opcode in (Opcode.TEXT, Opcode.BINARY), frame
        return bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)

    def close_code(self) -> int:
        """Receive frames up to a close frame; return its code. The close frame is not answered."""
        while (frame := self.frame()).opcode is not Opcode.CLOSE:
            pass
        return int(Close.parse(frame.data).code)

    def closed(self) -> int:
        """Receive frames up to a close frame, answer it, see the stream end, and hang up; return the code."""
        code = self.close_code()
        self.close(None if code == 1005 else code)
        self.ended()
        self.sock.close()
        return code

    def ended(self) -> None:
        """See that the stream ends, and that nothing comes before."""
        assert self.sock.recv(1) == b""

    def take(self, size: int) -> bytes:
        """Receive so many bytes.

        :raises EOFError: the stream has ended.
        """
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def silent(self, seconds: float) -> bool:
        """Tell whether nothing comes for a while."""
        self.sock.settimeout(seconds)
        try:
            self.sock.recv(1)
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)
        return False


class Entry:
    """A WebSocket into an app through its WSGI stack, in a greenlet, as a server would have it.

    :param foreign: as under gevent-websocket, which has said 101 before.
    """

    def __init__(
        self, app: Flask, url: str = "/socket/websocket?vsn=2.0.0", headers: Any = None, foreign: bool = False
    ) -> None:
        self._sock, theirs = socket.socketpair()
        self.wire = Wire(theirs)
        # Kept, as the other server keeps it: it writes a close frame when it is forgotten.
        self._websocket = open_foreign(self._sock)
        #: The head of the answer, and what was written after it at once.
        self.status, self.headers, self.written = "", dict[str, str](), list[bytes]()
        environ = EnvironBuilder(url, headers=Headers({**UPGRADE, **(headers or {})})).get_environ()
        environ["wsgi.websocket" if foreign else SOCKET] = self._websocket if foreign else self._sock
        answered = Event()
        self._serving = gevent.spawn(self._serve, app, environ, answered)
        assert answered.wait(DEADLINE)

    def close(self) -> None:
        """Hang up, and see that the server is through."""
        self.wire.sock.close()
        self._serving.get(timeout=DEADLINE)
        self._websocket.closed = True
        self._sock.close()

    def _serve(self, app: Flask, environ: dict[str, Any], answered: Event) -> None:
        try:
            body = app(environ, self._start_response)
        finally:
            answered.set()
        assert list(body) == [] or not self.status.startswith("101 ")

    def _start_response(self, status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        self.status, self.headers = status, dict(headers)
        return self._write

    def _write(self, data: bytes) -> None:
        self.written.append(data)


def write(
    opcode: int,
    data: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bool = True,
    extensions: list[Extension] | None = None,
) -> bytes:
    """Write a frame, well-formed or not."""
    # Written as what the codec lets pass, then given the bits that were asked for.
    frame = Frame(Opcode(opcode) if extensions else Opcode.BINARY, data)
    first, *rest = frame.serialize(mask=mask, extensions=extensions or [])
    return bytes([fin << 7 | first & 0x70 | rsv << 4 | opcode, *rest])


def open_foreign(sock: Any) -> Any:
    """Return what gevent-websocket puts into the environ after its own 101."""
    handler = SimpleNamespace(socket=sock, rfile=SimpleNamespace(read=None), logger=logging.getLogger("foreign"))
    return WebSocket({}, Stream(handler), handler)


def certify(folder: Path) -> tuple[str, str]:
    """Make a certificate for this host; return its file and that of its key."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run((*CERTIFY.split(), "-keyout", key, "-out", certificate), check=True, capture_output=True)
    return certificate, key


def tls_contexts(folder: Path) -> tuple[SSLContext, SSLContext]:
    """Return the server's and the client's side of TLS, with gevent's sockets."""
    certificate, key = certify(folder)
    server, client = SSLContext(PROTOCOL_TLS_SERVER), SSLContext(PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key)
    client.load_verify_locations(certificate)
    client.check_hostname = False
    return server, client


def tls_pair(folder: Path) -> tuple[Any, Any]:
    """Return the server's and the client's end of a TLS connection."""
    server, client = tls_contexts(folder)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(DEADLINE)
    accepting = gevent.spawn(server.wrap_socket, ours, server_side=True)
    wrapped = client.wrap_socket(theirs)
    return accepting.get(timeout=DEADLINE), wrapped


def fill(sock: Any) -> int:
    """Write to a socket until the kernel takes no more; return how much it took."""
    filled = 0
    try:
        while True:
            filled += sock.send(b"-" * 4096, 0, 0.0)
    except BlockingIOError:
        return filled
