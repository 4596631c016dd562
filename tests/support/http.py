"""Requests written by hand, over gevent's sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gevent import socket

from tests.support.processes import DEADLINE, HOST
from tests.support.wire import UPGRADE, Wire

URL, POLL = "/socket/websocket?vsn=2.0.0", "/socket/longpoll?vsn=2.0.0"
JOIN = '["1","1","room:1","phx_join",{}]'
JOINED = '["1","1","room:1","phx_reply",{"status":"ok","response":{}}]'


def connect(port: Any) -> Any:
    """Return a gevent socket that is connected to a server of this machine."""
    return socket.create_connection((HOST, port), DEADLINE)


def get(path: str, headers: Mapping[str, str]) -> bytes:
    """Write a GET request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def head(client: Wire) -> str:
    """Read the head of an HTTP answer."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += client.take(1)
    return data.decode()


def body(client: Wire) -> bytes:
    """Read an answer to its end, and return its body."""
    data = b""
    while piece := client.sock.recv(4096):
        data += piece
    start, _, rest = data.partition(b"\r\n\r\n")
    assert b" 200 " in start, data
    return rest.split(b"\r\n")[1] if b"chunked" in start else rest


def open_websocket(port: Any, path: str = URL, within: float = DEADLINE) -> Wire:
    """Open a WebSocket; each answer comes within so many seconds."""
    client = Wire(connect(port))
    client.sock.settimeout(within)
    client.sock.sendall(get(path, UPGRADE))
    assert head(client).startswith("HTTP/1.1 101")
    return client


def join(client: Wire) -> Wire:
    """Join a room over a WebSocket that is open."""
    client.text(JOIN)
    assert '"status":"ok"' in str(client.data())
    return client
