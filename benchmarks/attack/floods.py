"""Floods of requests: ``python -m benchmarks.attack.floods``, in this project's folder.

Each attack meets a server of its own, beside a client that echoes all the time. Printed are the server's memory before
and at its highest, that client's times, and what the attacker got.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
from gevent import socket

from tests.support.processes import HOST, Servers
from tests.support.wire import UPGRADE, Wire

PYTHON = (sys.executable, "-m")
APP = "benchmarks.attack.floods_app"
GUNICORN = ("gunicorn", "-k", "gevent", "--worker-connections", "20000", "-b", "127.0.0.1:{port}", f"{APP}:app")
SERVERS = {"phoenix.run": (*PYTHON, APP, "{port}"), "gunicorn": (*PYTHON, *GUNICORN)}
HANDSHAKE = "\r\n".join(
    ["GET /socket/websocket?vsn=2.0.0 HTTP/1.1", "Host: here", *map(": ".join, UPGRADE.items()), "", ""]
).encode()

Got = Counter[str]


def half_open_heads(port: int, seconds: float) -> Got:
    """Begin 1,500 requests, and end none."""
    socks = [dial(port, b"GET / HTTP/1.1\r\nHost: here\r\nX-A: ") for _ in range(1500)]
    return still_open(socks, seconds)


def stalled_posts(port: int, seconds: float) -> Got:
    """Begin 300 bodies of 7.9 MB for no session, and keep back the last byte."""
    return stall(port, "", seconds)


def stalled_posts_of_a_session(port: int, seconds: float) -> Got:
    """Do the same for a session that anybody may begin."""
    sock = dial(port, b"GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := sock.recv(4096):
        answer += piece
    return stall(port, answer.split(b'"token":"')[1].split(b'"')[0].decode(), seconds)


def connection_flood(port: int, seconds: float) -> Got:
    """Open 3,000 WebSockets, and stay."""
    answers = Got()
    socks = [dial(port, HANDSHAKE) for _ in range(3000)]
    for sock in socks:
        answers[status(sock)] += 1
    gevent.sleep(seconds / 4)
    for sock in socks:
        sock.close()
    return answers


def handshake_flood(port: int, seconds: float) -> Got:
    """Open WebSockets from 200 greenlets as fast as can be, and close them again."""
    answers, end = Got(), time.monotonic() + seconds / 2

    def flood() -> None:
        while time.monotonic() < end:
            sock = dial(port, HANDSHAKE)
            answers[status(sock)] += 1
            sock.close()

    gevent.joinall([gevent.spawn(flood) for _ in range(200)])
    return answers


ATTACKS: dict[str, tuple[Callable[[int, float], Got], dict[str, str]]] = {
    "half-open heads": (half_open_heads, {}),
    "stalled POSTs, no session": (stalled_posts, {}),
    "stalled POSTs, a session": (stalled_posts_of_a_session, {}),
    "connections": (connection_flood, {}),
    "connections, capped": (connection_flood, {"FLASK_PHOENIX_MAX_CONNECTIONS": "500"}),
    "handshakes": (handshake_flood, {}),
    "handshakes, capped": (handshake_flood, {"FLASK_PHOENIX_HANDSHAKES_PER_SECOND": "100"}),
}


def stall(port: int, token: str, seconds: float) -> Got:
    """Send bodies but for their last bytes."""
    size = 7_900_000
    head = f"POST /socket/longpoll?vsn=2.0.0&token={token} HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
    socks = [dial(port, head.encode()) for _ in range(300)]
    end = time.monotonic() + seconds

    def send(sock: Any) -> None:
        left = size - 1
        with suppress(OSError):
            while left and time.monotonic() < end:
                left -= sock.send(b"x" * min(left, 65536))

    gevent.joinall([gevent.spawn(send, sock) for sock in socks], timeout=seconds)
    return still_open(socks, max(0.0, end - time.monotonic()))


def dial(port: int, data: bytes) -> Any:
    """Send bytes on a connection of its own."""
    sock = socket.create_connection((HOST, port), 60)
    with suppress(OSError):
        sock.sendall(data)
    return sock


def status(sock: Any) -> str:
    """Return the status of an answer."""
    try:
        return sock.recv(64).decode()[9:12] or "closed"
    except OSError as error:
        return type(error).__name__


def still_open(socks: list[Any], seconds: float) -> Got:
    """Wait, and return how many connections are open, and what the others were told."""
    gevent.sleep(seconds)
    got = Got()
    for sock in socks:
        sock.settimeout(0.001)
        answer = status(sock)
        got["open" if answer == "TimeoutError" else answer] += 1
        sock.close()
    return got


def memory(pids: list[int]) -> float:
    """Return the memory of processes in MB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def tree(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


class Probe:
    """A client that echoes all the time."""

    def __init__(self, port: int) -> None:
        self.wire = Wire(dial(port, HANDSHAKE))
        self.wire.sock.settimeout(60)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.wire.take(1)
        self.wire.text('["1","1","room:1","phx_join",{}]')
        self.wire.data()
        self.times: list[float] = []
        self.greenlet = gevent.spawn(self._run)

    def percentile(self, share: float) -> float:
        """Return milliseconds within which so many echoes came."""
        return sorted(self.times)[int(len(self.times) * share)] * 1000

    def _run(self) -> None:
        while True:
            begin = time.monotonic()
            self.wire.text('["1","2","room:1","echo",{}]')
            self.wire.data()
            self.times.append(time.monotonic() - begin)
            gevent.sleep(0.01)


def measure(command: tuple[str, ...], attack: Callable[[int, float], Got], settings: dict[str, str]) -> str:
    """Attack a server; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        server = Servers(Path(folder)).start(*command, **settings)
        try:
            probe = Probe(server.port)
            pids = tree(server.pid)
            before = highest = memory(pids)
            attacking = gevent.spawn(attack, server.port, 25.0)
            while not attacking.ready():
                highest = max(highest, memory(pids))
                gevent.sleep(0.05)
            got = ", ".join(f"{number} {what}" for what, number in attacking.get().most_common())
            times = f"{probe.percentile(0.5):.0f} / {probe.percentile(0.99):.0f} ms"
            probe.greenlet.kill()
            return f"{before:.0f} to {highest:.0f} MB | {times} | {got}"
        finally:
            server.kill()


def main() -> None:
    """Attack, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("| attack | server | memory | others' p50 / p99 | what the attacker got |\n| --- | --- | --- | --- | --- |")
    for name, (attack, settings) in ATTACKS.items():
        for server, command in SERVERS.items():
            if options.only in f"{name}, {server}":
                print(f"| {name} | {server} | {measure(command, attack, settings)} |", flush=True)


if __name__ == "__main__":
    main()
