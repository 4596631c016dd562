"""What clients see when a server is stopped: ``python -m benchmarks.drain [--clients 2000]``, in this project's folder.

For each server and each way to stop it: with which codes the clients are closed and over how long, whether handlers in
flight finish and each channel terminates once, how long the process takes, and how fast clients come back.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import gevent
from gevent import socket

from tests.support.processes import HOST, Server, Servers
from tests.support.wire import UPGRADE, Wire

#: Seconds before each try of a client that comes back (phoenix.js, ``reconnectAfterMs``).
PAUSES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Clients with a handler of two seconds in flight.
SLOW = 50
PYTHON = (sys.executable, "-m")
GUNICORN = (*PYTHON, "gunicorn", "-k", "gevent", "--no-control-socket", "--backlog", "4096", "-b", "127.0.0.1:{port}")
WORKERS = (*GUNICORN, "--worker-connections", "20000", "benchmarks.drain_app:app")


class Way(NamedTuple):
    """A server, and a way to stop it."""

    command: tuple[str, ...]
    number: int
    #: Another process takes over.
    goes_on: bool = False


RUN = (*PYTHON, "benchmarks.drain_app", "{port}")
FLASK = (*PYTHON, "flask", "--app", "benchmarks.drain_app", "run", "--port", "{port}")
WAYS = {
    "phoenix.run, SIGTERM": Way(RUN, signal.SIGTERM),
    "phoenix.run, Ctrl-C": Way(RUN, signal.SIGINT),
    "flask run, SIGTERM": Way(FLASK, signal.SIGTERM),
    "flask run, Ctrl-C": Way(FLASK, signal.SIGINT),
    "gunicorn, SIGTERM": Way(WORKERS, signal.SIGTERM),
    "gunicorn -w 2, SIGTERM": Way((*WORKERS, "-w", "2"), signal.SIGTERM),
    "gunicorn -w 2, HUP": Way((*WORKERS, "-w", "2"), signal.SIGHUP, True),
    "gunicorn --max-requests": Way((*WORKERS, "--max-requests", "{requests}"), 0, True),
    "gunicorn --graceful-timeout 4, SIGTERM": Way((*WORKERS, "--graceful-timeout", "4"), signal.SIGTERM),
}


class Client:
    """A client that joins, and comes back when it is closed."""

    def __init__(self, port: int, number: int) -> None:
        self.port, self.number = port, number
        self.codes: list[int] = []
        self.closed_at = 0.0
        self.back_at = 0.0

    def connect(self) -> Wire:
        """Open a WebSocket and join."""
        wire = Wire(socket.create_connection((HOST, self.port), 30))
        lines = ["GET /socket/websocket?vsn=2.0.0 HTTP/1.1", "Host: here", *map(": ".join, UPGRADE.items())]
        wire.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        wire.sock.settimeout(60)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += wire.take(1)
        if b" 101 " not in head:
            wire.sock.close()
            raise ConnectionError(head)
        wire.text(f'["1","1","room:{self.number}","phx_join",{{}}]')
        assert '"status":"ok"' in str(wire.data())
        return wire

    def stay(self, wire: Wire, comes_back: bool) -> None:
        """Stay until the server closes, and come back."""
        try:
            self.codes.append(wire.close_code())
            wire.close(self.codes[-1])
        except (OSError, EOFError):
            self.codes.append(1006)
        self.closed_at = time.time()
        wire.sock.close()
        for pause in PAUSES * comes_back:
            gevent.sleep(pause)
            try:
                self.back = self.connect()
            except (OSError, EOFError):
                continue
            self.back_at = time.time()
            return


def measure(way: Way, clients: int, folder: Path) -> dict[str, object]:
    """Stop a server with its clients."""
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    servers = Servers(folder)
    command = tuple(word.replace("{requests}", str(clients)) for word in way.command)
    server = servers.start(*command, NOTES=str(notes), PYTHONPATH=".")
    try:
        return stop(server, way, clients) | noted(notes, clients - (not way.number))
    finally:
        server.kill()


def stop(server: Server, way: Way, clients: int) -> dict[str, object]:
    """Stop a server, and report what its clients saw."""
    everybody = [Client(server.port, number) for number in range(clients)]
    wires = [client.connect() for client in everybody[: clients - (not way.number)]]
    for number, wire in enumerate(wires[:SLOW]):
        wire.text(f'["1","2","room:{number}","slow",{{}}]')
    gevent.sleep(0.5)
    begin = time.time()
    staying = [gevent.spawn(client.stay, wire, way.goes_on) for client, wire in zip(everybody, wires, strict=False)]
    if way.number:
        os.kill(server.pid, way.number)
    else:
        everybody[-1].connect()
    gevent.joinall(staying, timeout=60)
    report = told(everybody[: len(wires)], begin)
    if not way.goes_on:
        report["exit"] = f"{wait(server)} after {time.time() - begin:.1f} s"
    else:
        gevent.sleep(3)
    return report


def wait(server: Server) -> int:
    """Wait for the end of a server."""
    while server.process.poll() is None:
        gevent.sleep(0.02)
    return server.process.wait()


def told(clients: list[Client], begin: float) -> dict[str, object]:
    """Report what clients saw."""
    closed = sorted(client.closed_at - begin for client in clients if client.closed_at)
    back = Counter(int((client.back_at - begin) * 2) for client in clients if client.back_at)
    report: dict[str, object] = {"codes": dict(Counter(code for client in clients for code in client.codes))}
    report["closed"] = f"{closed[0]:.2f} to {closed[-1]:.2f} s"
    if back:
        report["back"] = f"{sum(back.values())}, by half seconds {[back[at] for at in range(max(back) + 1)]}"
    return report


def noted(notes: Path, clients: int) -> dict[str, object]:
    """Report what the server noted."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    ends = Counter(line[1] for line in lines if line[0] == "end")
    first = [line[1] for line in lines if line[0] == "join"][:clients]
    kinds = Counter(line[0] for line in lines)
    once, twice = sum(ends[id] == 1 for id in first), sum(number > 1 for number in ends.values())
    return {
        "handlers": f"{kinds['done']} of {kinds['begin']}",
        "terminated": f"{once} of {len(first)} once, {twice} twice",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for name, way in WAYS.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                report = measure(way, options.clients, Path(folder))
            print(name, *(f"{key}: {value}" for key, value in report.items()), sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
