"""What clients see when a server is stopped: ``python -m benchmarks.drain [--clients 5000]``, in this project's folder.

For each server and each way to stop it: with which codes the clients are closed and over how long, whether handlers in
flight finish and each channel terminates once, and how long the process takes. Where another process takes over: how
fast clients come back, and what some of them miss of a topic with a history, on which somebody publishes all the while.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import gevent
from gevent import socket
from gevent.pool import Pool
from websockets.frames import Opcode

from flask_phoenix import Broadcaster, History
from tests.support.processes import HOST, Server, Servers
from tests.support.wire import UPGRADE, Wire

#: Seconds before each try of a client that comes back (phoenix.js, ``reconnectAfterMs``).
PAUSES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Clients with a handler of two seconds in flight.
SLOW = 50
#: Clients of the topic with a history, and seconds between two of its messages.
READERS, PERIOD = 20, 0.02
#: Requests that are left when a server that answers so many is to end.
MARGIN = 200
#: Clients that connect at a time.
DIALLING = 20
TOPIC = "news:1"
#: As the channel declares it.
NEWS = History(size=10_000, ttl=120)
PYTHON = (sys.executable, "-m")
GUNICORN = (*PYTHON, "gunicorn", "-k", "gevent", "--no-control-socket", "--backlog", "4096", "-b", "127.0.0.1:{port}")
WORKERS = (*GUNICORN, "--worker-connections", "20000", "benchmarks.drain_app:app")


class Way(NamedTuple):
    """A server, and a way to stop it."""

    command: tuple[str, ...]
    number: int
    #: Another process takes over.
    goes_on: bool = False
    #: It is stopped by a change of a file.
    by_change: bool = False

    @property
    def by_request(self) -> bool:
        """Whether it is stopped by one request more."""
        return not self.number and not self.by_change


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
    "gunicorn --reload": Way((*WORKERS, "--reload", "--reload-extra-file", "{changed}"), 0, True, True),
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
        except (OSError, EOFError):
            self.codes.append(1006)
        with suppress(OSError):  # where this machine is busy, the answer comes too late
            wire.close(self.codes[-1])
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


class Reader(Client):
    """A client of the topic with a history, which comes back, and counts what it gets."""

    def __init__(self, port: int, number: int) -> None:
        super().__init__(port, number)
        self.since: str | None = None
        self.got: list[int] = []
        self.recovered = self.declared = 0

    def read(self) -> None:
        """Read, and come back whenever the connection ends, until it is killed."""
        while True:
            for pause in PAUSES:
                try:
                    self._read(self.connect())
                except (OSError, EOFError, AssertionError):
                    gevent.sleep(pause)
                else:
                    break

    def _read(self, wire: Wire) -> None:
        wire.text(json.dumps(["2", "2", TOPIC, "phx_join", {"since": self.since}]))
        while (frame := wire.frame()).opcode is not Opcode.CLOSE:
            _, ref, topic, event, payload = json.loads(bytes(frame.data))
            if topic == TOPIC and event == "phx_reply":
                told = payload["response"]["phx_history"]
                self.recovered += told["recovered"]
                self.declared += self.since is not None and not told["recovered"]
                self.since = told["ref"]
            elif topic == TOPIC and event == "told":
                self.since = ref
                self.got.append(payload["n"])


class Publisher:
    """Publishes on the topic with a history, from outside."""

    def __init__(self, url: str) -> None:
        self._broadcaster = Broadcaster(url, histories={TOPIC: NEWS})
        self.count = 0

    def run(self) -> None:
        """Publish, until it is killed."""
        while True:
            self._broadcaster.broadcast(TOPIC, "told", {"n": self.count})
            self.count += 1
            gevent.sleep(PERIOD)


def measure(way: Way, clients: int, folder: Path) -> dict[str, object]:
    """Stop a server with its clients."""
    notes, url = folder / "notes", f"workers://{folder}/nodes"
    servers = Servers(folder)
    changed = folder / "changed.py"
    changed.touch()
    words = {"{requests}": str(clients), "{changed}": str(changed)}
    command = tuple(words.get(word, word) for word in way.command)
    server = servers.start(*command, NOTES=str(notes), PYTHONPATH=".", FLASK_PHOENIX_PUBSUB_URL=url)
    try:
        return stop(server, way, clients, Publisher(url), notes)
    finally:
        server.kill()


def stop(server: Server, way: Way, clients: int, publisher: Publisher, notes: Path) -> dict[str, object]:
    """Stop a server, and report what its clients saw, and what it noted."""
    readers = [Reader(server.port, clients + number) for number in range(READERS * way.goes_on)]
    reading = [gevent.spawn(reader.read) for reader in readers]
    everybody = [Client(server.port, number) for number in range(clients)]
    first = everybody[: clients - way.by_request * MARGIN]
    wires = Pool(DIALLING).map(Client.connect, first)
    publishing = gevent.spawn(publisher.run)  # the directory is there by now
    for number, wire in enumerate(wires[:SLOW]):
        wire.text(f'["1","2","room:{number}","slow",{{}}]')
    gevent.sleep(0.5)
    begin = time.time()
    staying = [gevent.spawn(client.stay, wire, way.goes_on) for client, wire in zip(everybody, wires, strict=False)]
    if way.number:
        os.kill(server.pid, way.number)
    elif way.by_change:
        notes.with_name("changed.py").write_text("# another one")
    else:
        ask_for_more(server.port)
    gevent.joinall(staying, timeout=120)
    report = told(first, begin)
    if not way.goes_on:
        report["exit"] = f"{wait(server)} after {time.time() - begin:.1f} s"
    else:
        gevent.sleep(3)
    publishing.kill()
    if readers:
        gevent.sleep(1)
        report["messages"] = missed(readers, publisher.count)
    gevent.killall(reading)
    return report | noted(notes, begin)


def missed(readers: list[Reader], count: int) -> str:
    """Report what the readers of the topic with a history got."""
    lost = sum(len(set(range(reader.got[0], count)).difference(reader.got)) for reader in readers)
    twice = sum(len(reader.got) - len(set(reader.got)) for reader in readers)
    recovered, declared = sum(reader.recovered for reader in readers), sum(reader.declared for reader in readers)
    due = sum(count - reader.got[0] for reader in readers)
    got = f"{recovered} recoveries, {declared} declared losses, {lost} lost, {twice} twice"
    return f"{due} to {len(readers)} clients: {got}"


def ask_for_more(port: int) -> None:
    """Ask for pages, until the process has answered as many requests as it may."""
    for _ in range(MARGIN):
        with suppress(OSError), socket.create_connection((HOST, port), 10) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            sock.recv(100)


def wait(server: Server) -> int:
    """Wait for the end of a server."""
    while server.process.poll() is None:
        gevent.sleep(0.02)
    return server.process.wait()


def told(clients: list[Client], begin: float) -> dict[str, object]:
    """Report what clients saw."""
    closed = sorted(client.closed_at - begin for client in clients if client.closed_at)
    back = [client.back_at - begin for client in clients if client.back_at]
    report: dict[str, object] = {"codes": dict(Counter(code for client in clients for code in client.codes))}
    report["closed"] = f"{closed[0]:.2f} to {closed[-1]:.2f} s"
    if back:
        report["back"] = f"{len(back)} of {len(clients)}, after {min(back):.1f} to {max(back):.1f} s"
    return report


def noted(notes: Path, begin: float) -> dict[str, object]:
    """Report what the server noted."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    ends = Counter(line[1] for line in lines if line[0] == "end")
    joins = [(line[1], float(line[2]) - begin) for line in lines if line[0] == "join"]
    first = [id for id, at in joins if at < 0]
    per_second = Counter(int(at) for _, at in joins if at >= 0)
    kinds = Counter(line[0] for line in lines)
    once, twice = sum(ends[id] == 1 for id in first), sum(number > 1 for number in ends.values())
    report: dict[str, object] = {
        "handlers": f"{kinds['done']} of {kinds['begin']}",
        "terminated": f"{once} of {len(first)} once, {twice} twice",
    }
    if per_second:
        report["joins per second"] = [per_second[at] for at in range(max(per_second) + 1)]
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    for name, way in WAYS.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                report = measure(way, options.clients, Path(folder))
            print(name, *(f"{key}: {value}" for key, value in report.items()), sep="\n    ", flush=True)


if __name__ == "__main__":
    main()
