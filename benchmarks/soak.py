"""Whether a server stays what it is: ``python -m benchmarks.soak [--clients 2000] [--minutes 15]``.

So many clients are connected, all of them joined; some of them join, leave, speak to their room and vanish, and others
come. Printed, a line for each half minute, are the server's memory, its descriptors, greenlets and channels, and what
its CPU did; figures that grow from the second line on are a leak.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.processes import HOST, free_port
from tests.support.wire import UPGRADE, write

#: Seconds between two lines.
PERIOD = 30.0
#: Acts in a second.
RATE = 200
#: Clients that share a room.
ROOM = 20


def serve(port: int) -> None:
    """Serve, until killed."""
    from gevent import monkey  # noqa: PLC0415 - the clients are not patched

    monkey.patch_all()
    import gc  # noqa: PLC0415

    from flask import Flask  # noqa: PLC0415
    from greenlet import greenlet  # noqa: PLC0415

    from flask_phoenix import Channel, Phoenix, Socket, on  # noqa: PLC0415

    app = Flask(__name__)
    app.secret_key = "a secret"
    phoenix = Phoenix(app)
    presence = phoenix.presence()

    @phoenix.socket("/socket")
    class Visitor(Socket):
        pass

    @Visitor.channel("room:*")
    class Room(Channel):
        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            presence.track(self, str(id(self)), {})

        @on("say")
        def say(self, payload: Any) -> None:
            self.broadcast("said", payload)

    @app.get("/figures")
    def figures() -> dict[str, int]:
        engine = app.extensions["phoenix"].engine
        gc.unfreeze()  # what is left out of the collector's looks is neither looked at nor found
        gc.collect()
        gc.unfreeze()
        kinds = [type(each) for each in gc.get_objects()]
        gc.freeze()
        return {
            "connections": engine.connection_count(),
            "waiting bytes": engine.budget.total,
            "channels": sum(kind is Room for kind in kinds),
            "greenlets": sum(issubclass(kind, greenlet) for kind in kinds),
            "objects": len(kinds),
        }

    phoenix.run(app, host=HOST, port=port, log=None)


class Clients:
    """Many clients in one thread, who read whatever comes."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._epoll = select.epoll()
        self._socks: dict[int, socket.socket] = {}
        self.bytes = 0
        self._rooms: dict[int, int] = {}
        self._count = count
        for _ in range(count):
            self.come()

    def come(self) -> None:
        """Connect one, and join."""
        sock = socket.create_connection((HOST, self._port), 60)
        head = "\r\n".join(f"{name}: {value}" for name, value in {"Host": HOST, **UPGRADE}.items())
        sock.sendall(f"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\n{head}\r\n\r\n".encode())
        assert sock.recv(4096).startswith(b"HTTP/1.1 101")
        self._socks[sock.fileno()] = sock
        self._epoll.register(sock, select.EPOLLIN)
        self._join(sock)

    def act(self) -> None:
        """Do one thing."""
        sock = random.choice(list(self._socks.values()))
        what, room = random.random(), self._rooms[sock.fileno()]
        if what < 0.2:
            self._say(sock, "phx_leave", room)
            self._join(sock)
        elif what < 0.4:
            self._say(sock, "phx_join", room)
        elif what < 0.8:
            self._say(sock, "say", room)
        else:
            self._go(sock)
            self.come()

    def heartbeat(self) -> None:
        """Let all be heard."""
        for sock in self._socks.values():
            sock.sendall(write(1, b'[null,"hb","phoenix","heartbeat",{}]'))
            self.read(0)

    def read(self, seconds: float) -> None:
        """Read what comes."""
        for descriptor, _ in self._epoll.poll(seconds):
            data = os.read(descriptor, 1 << 16)
            self.bytes += len(data)
            assert data, "the server has hung up"

    def _join(self, sock: socket.socket) -> None:
        room = self._rooms[sock.fileno()] = random.randrange(max(1, self._count // ROOM))
        self._say(sock, "phx_join", room)

    def _say(self, sock: socket.socket, event: str, room: int) -> None:
        sock.sendall(write(1, json.dumps(["1", "1", f"room:{room}", event, {"text": "x" * 40}]).encode()))

    def _go(self, sock: socket.socket) -> None:
        self._epoll.unregister(sock)
        del self._socks[sock.fileno()]
        sock.close()


def look(port: int, pid: int, clients: Clients, began: float) -> None:
    """Print a line."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/figures", timeout=60) as answer:
        figures = json.load(answer)
    status = Path(f"/proc/{pid}/status").read_text()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    memory = int(status.split("VmRSS:")[1].split()[0]) / 1024
    shown = {"MB": round(memory, 1), "descriptors": len(os.listdir(f"/proc/{pid}/fd")), **figures}
    print(f"{time.monotonic() - began:5.0f} s, {cpu:.0f} s of CPU, {clients.bytes >> 20} MB read:", shown, flush=True)


def main() -> None:
    """Soak, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.port:
        serve(options.port)
        return
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.soak", "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection((HOST, port)).close()
                break
            except OSError:
                time.sleep(0.1)
        soak(port, server.pid, options)
    finally:
        server.kill()


def soak(port: int, pid: int, options: argparse.Namespace) -> None:
    """Connect the clients, and let them act for so many minutes."""
    clients, began, acted = Clients(port, options.clients), time.monotonic(), 0
    line = heartbeat = began
    while (now := time.monotonic()) - began < options.minutes * 60:
        if now >= line:
            look(port, pid, clients, began)
            line += PERIOD
        if now >= heartbeat:
            clients.heartbeat()
            heartbeat += PERIOD
        if acted < (now - began) * RATE:
            clients.act()
            acted += 1
        clients.read(0.001)
    look(port, pid, clients, began)


if __name__ == "__main__":
    main()
