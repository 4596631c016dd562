"""flask_phoenix by how many are present on a topic: a client that joins and is tracked, and leaves; one is told."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from statistics import median

from benchmarks.contenders import OURS
from benchmarks.harness import HOST, Bench, Figures, Running, Table, slope

REPLY, DIFF, STATE = b'"phx_reply"', b'"presence_diff"', b'"presence_state"'
#: Joins and leaves; the figure is the one in the middle.
TIMES = 25
#: Seconds in which the server comes to rest behind what has been heard.
REST = 0.01


def ask(bench: Bench) -> Table:
    """Measure."""
    sizes = (1, 10, 1_000) if bench.quick else (1, 10, 100, 1_000, 10_000)
    with bench.running(OURS) as running:
        table = {f"{size:,}": visit(running, size) for size in sizes}
    grown = {
        name: slope({size: table[f"{size:,}"][name] or 0.0 for size in sizes})
        for name in ("join, µs", "leave, µs", "state, µs")
    }
    return {**table, "slope": {**grown}}


def visit(running: Running, present: int) -> Figures:
    """Return what one costs who comes and goes where so many are present."""
    node, topic = running.nodes[0], f"here:{present}"
    road = HTTPConnection(HOST, node.port)
    road.request("POST", f"/fill?topic={topic}&times={present - 1}")
    assert road.getresponse().read() == b"{}\n"
    road.close()
    with ExitStack() as stack:
        visitor, listener = (stack.enter_context(dialed(node.port)) for _ in range(2))
        listener.join(topic, {"key": "listener"})
        listener.expect(REPLY, DIFF)
        joins, leaves = zip(*(come_and_go(running, visitor, listener, topic, {}) for _ in range(TIMES)), strict=True)
        told, _ = zip(
            *(come_and_go(running, visitor, listener, topic, {"state": True}) for _ in range(TIMES)), strict=True
        )
    state = max(median(told) - median(joins), 0.0)
    return {"join, µs": median(joins) * 1e6, "leave, µs": median(leaves) * 1e6, "state, µs": state * 1e6}


def come_and_go(
    running: Running, visitor: Visitor, listener: Visitor, topic: str, asked: dict[str, bool]
) -> tuple[float, float]:
    """Return the seconds of processor time of a join and of a leave."""
    node = running.nodes[0]
    began = node.cpu()
    visitor.join(topic, {"key": "visitor", **asked})
    visitor.expect(REPLY, DIFF, *([STATE] if asked else []))
    listener.expect(DIFF)
    time.sleep(REST)
    joined = node.cpu()
    visitor.leave(topic)
    visitor.expect(REPLY)
    listener.expect(DIFF)
    time.sleep(REST)
    return joined - began, node.cpu() - joined


class Visitor:
    """One client over a WebSocket, that waits for events by their names."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection((HOST, port), 60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.sendall(
            b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._file = self._sock.makefile("rb")
        while self._file.readline() != b"\r\n":
            pass
        self._early: list[bytes] = []

    def join(self, topic: str, payload: dict[str, object]) -> None:
        """Ask to join."""
        self._say(["1", "1", topic, "phx_join", payload])

    def leave(self, topic: str) -> None:
        """Ask to leave."""
        self._say(["1", "2", topic, "phx_leave", {}])

    def expect(self, *events: bytes) -> None:
        """Read until one of each has come, in any order."""
        missing = list(events)
        for event in [event for event in self._early if event in missing]:
            self._early.remove(event)
            missing.remove(event)
        while missing:
            head = self._frame()[:200]
            event = next((event for event in (REPLY, DIFF, STATE) if event in head), b"")
            if event in missing:
                missing.remove(event)
            elif event:
                self._early.append(event)

    def close(self) -> None:
        """Go away."""
        self._file.close()
        self._sock.close()

    def _say(self, message: list[object]) -> None:
        text = json.dumps(message).encode()
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        self._sock.sendall(b"\x81" + size + bytes(4) + text)  # masked with zeros, which change nothing

    def _frame(self) -> bytes:
        size = self._file.read(2)[1]
        if size >= 126:
            size = int.from_bytes(self._file.read(2 if size == 126 else 8), "big")
        return self._file.read(size)


@contextmanager
def dialed(port: int) -> Iterator[Visitor]:
    """Have a client for a while."""
    visitor = Visitor(port)
    try:
        yield visitor
    finally:
        visitor.close()
