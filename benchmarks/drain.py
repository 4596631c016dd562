"""What clients see when a server is stopped: ``python -m benchmarks.drain [--clients 5000]``, in this project's folder.

One table: for each server and each way to stop it, with which codes the clients are closed and over how long, whether
handlers in flight finish and each channel terminates once, how fast the clients come back, and what some lose of a
topic with a history and of one without, on which somebody publishes all the while: what could not be published is not
lost, since whoever published was told. Where no other process takes over, the command is started again as soon as it
has ended, as at a deploy. gunicorn has its ``--graceful-timeout`` of 30 seconds, unless the row names another.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent import socket
from gevent.pool import Pool
from websockets.frames import Opcode

from flask_phoenix import Broadcaster, History, NotPublished
from tests.support.processes import ENVIRONMENT, HOST, ROOT, Server, Servers
from tests.support.wire import UPGRADE, Wire

#: Seconds before each try of a client that comes back (phoenix.js, ``reconnectAfterMs``).
PAUSES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Clients with a handler of two seconds in flight.
SLOW = 50
#: Clients of each topic on which somebody publishes, and seconds between two of its messages.
READERS, PERIOD = 20, 0.02
#: Requests that are left when a server that answers so many is to end.
MARGIN = 200
#: The status that tells a client which polls that its session has ended.
GONE = 410
#: Clients that connect at a time.
DIALLING = 20
#: Seconds in which everybody has to have been closed, and to have come back.
PATIENCE = 120.0
#: A topic with a history, and one without.
KEPT, TALKED = "news:1", "talk:1"
#: As the channel declares it.
NEWS = History(size=10_000, ttl=120)
PYTHON = (sys.executable, "-m")
GUNICORN = (*PYTHON, "gunicorn", "-k", "gevent", "--no-control-socket", "--backlog", "4096", "-b", "127.0.0.1:{port}")
WORKERS = (*GUNICORN, "--worker-connections", "20000", "benchmarks.drain_app:app")


class Way(NamedTuple):
    """A server, and a way to stop it."""

    command: tuple[str, ...]
    #: The signal that stops it; 0: it is stopped by a change of a file, or by one request more.
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
TWO = (*WORKERS, "-w", "2")
RELOAD = ("--reload", "--reload-extra-file", "{changed}")
WAYS = {
    "phoenix.run, SIGTERM": Way(RUN, signal.SIGTERM),
    "phoenix.run, Ctrl-C": Way(RUN, signal.SIGINT),
    "flask run, SIGTERM": Way(FLASK, signal.SIGTERM),
    "flask run, Ctrl-C": Way(FLASK, signal.SIGINT),
    "flask run --reload": Way((*FLASK, "--reload", "--extra-files", "{changed}"), 0, True, True),
    "gunicorn, SIGTERM": Way(WORKERS, signal.SIGTERM),
    "gunicorn --graceful-timeout 4, SIGTERM": Way((*WORKERS, "--graceful-timeout", "4"), signal.SIGTERM),
    "gunicorn, Ctrl-C": Way(WORKERS, signal.SIGINT),
    "gunicorn, HUP": Way(WORKERS, signal.SIGHUP, True),
    "gunicorn --reload": Way((*WORKERS, *RELOAD), 0, True, True),
    "gunicorn --max-requests": Way((*WORKERS, "--max-requests", "{requests}"), 0, True),
    "gunicorn -w 2, SIGTERM": Way(TWO, signal.SIGTERM),
    "gunicorn -w 2, Ctrl-C": Way(TWO, signal.SIGINT),
    "gunicorn -w 2, HUP": Way(TWO, signal.SIGHUP, True),
    "gunicorn -w 2 --reload": Way((*TWO, *RELOAD), 0, True, True),
    "gunicorn -w 2 --max-requests": Way((*TWO, "--max-requests", "{requests}"), 0, True),
}
#: The columns after the name, and what the report calls them.
COLUMNS = ("codes", "closed", "exit", "handlers", "terminated", "back", "joins per second", "with a history", "without")


class Polls:
    """A session of long polling, with the face of a :class:`.Wire`. Each request has a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._token = ""
        self._frames: list[str] = []
        self._token = self._ask("GET")["token"]

    def text(self, frame: str) -> None:
        """Send a frame."""
        if (status := self._ask("POST", frame)["status"]) != 200:
            raise ConnectionError(status)

    def data(self) -> str:
        """Return the next frame.

        :raises ConnectionError: the session has ended.
        """
        while not self._frames:
            answer = self._ask("GET")
            if answer["status"] == GONE:
                raise ConnectionError(GONE)
            self._frames = answer.get("messages", [])
        return self._frames.pop(0)

    def close_code(self) -> int:
        """Poll until the session has ended; return the status that tells."""
        while (status := int(self._ask("GET")["status"])) != GONE:
            pass
        return status

    def _ask(self, method: str, body: str = "") -> dict[str, Any]:
        """Make a request; return what the body of the answer says.

        :raises ConnectionError: the answer is no 200.
        """
        lines = [f"{method} /socket/longpoll?vsn=2.0.0 HTTP/1.0", "Host: here"]
        lines += [f"Content-Length: {len(body)}", "Content-Type: application/x-ndjson"]
        lines += [f"X-Phoenix-Longpoll-Token: {self._token}"] if self._token else []
        with socket.create_connection((HOST, self._port), 30) as sock:
            sock.settimeout(60)
            sock.sendall("\r\n".join([*lines, "", body]).encode())
            answer = b""
            while piece := sock.recv(1 << 16):
                answer += piece
        head, _, text = answer.partition(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise ConnectionError(head)
        said: dict[str, Any] = json.loads(text)
        return said


class Client:
    """A client that joins, and comes back when it is closed."""

    def __init__(self, port: int, number: int) -> None:
        self.port, self.number = port, number
        self.codes: list[int] = []
        self.closed_at = 0.0
        self.back_at = 0.0

    def connect(self) -> Any:
        """Connect and join."""
        wire = self.open()
        wire.text(f'["1","1","room:{self.number}","phx_join",{{}}]')
        assert '"status":"ok"' in str(wire.data())
        return wire

    def open(self) -> Any:
        """Open a WebSocket."""
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
        return wire

    def hang_up(self, wire: Any) -> None:
        """Answer the end."""
        with suppress(OSError):  # where this machine is busy, the answer comes too late
            wire.close(self.codes[-1] if self.codes[-1] != 1006 else None)
        wire.sock.close()

    def stay(self, wire: Any) -> None:
        """Stay until the server closes, and come back."""
        try:
            self.codes.append(wire.close_code())
        except (OSError, EOFError):
            self.codes.append(1006)
        self.hang_up(wire)
        self.closed_at = time.time()
        for pause in (*PAUSES, *[PAUSES[-1]] * int(PATIENCE // PAUSES[-1])):
            gevent.sleep(pause)
            try:
                self.back = self.connect()
            except (OSError, EOFError, AssertionError):  # the last: this process is about to end, too
                continue
            self.back_at = time.time()
            return


class PollingClient(Client):
    """A client that polls instead."""

    def open(self) -> Polls:
        """Begin a session."""
        return Polls(self.port)

    def hang_up(self, wire: Any) -> None:
        """Do nothing: the last answer was the end."""


class Reader(Client):
    """A client of a topic on which somebody publishes, which comes back, and counts what it gets."""

    def __init__(self, port: int, number: int, topic: str) -> None:
        super().__init__(port, number)
        self.topic = topic
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
        wire.text(json.dumps(["2", "2", self.topic, "phx_join", {"since": self.since}]))
        while (frame := wire.frame()).opcode is not Opcode.CLOSE:
            _, ref, topic, event, payload = json.loads(bytes(frame.data))
            if (topic, event) == (KEPT, "phx_reply"):
                told = payload["response"]["phx_history"]
                self.recovered += told["recovered"]
                self.declared += self.since is not None and not told["recovered"]
                self.since = told["ref"]
            elif event == "told":
                self.since = ref
                self.got.append(payload["n"])


class Publisher:
    """Publishes on both topics, from outside."""

    def __init__(self, url: str) -> None:
        self._broadcaster = Broadcaster(url, histories={KEPT: NEWS})
        self.number = 0
        #: What was published on each topic, and how many could not be.
        self.done: dict[str, list[int]] = {KEPT: [], TALKED: []}
        self.refused = Counter[str]()

    def run(self) -> None:
        """Publish, until it is killed."""
        while True:
            for topic, done in self.done.items():
                try:
                    self._broadcaster.broadcast(topic, "told", {"n": self.number})
                    done.append(self.number)
                except NotPublished:
                    self.refused[topic] += 1
            self.number += 1
            gevent.sleep(PERIOD)

    def lost(self, readers: list[Reader], topic: str) -> str:
        """Report what the readers of a topic lost of what was published since they first came."""
        its = [reader for reader in readers if reader.topic == topic]
        due = [[number for number in self.done[topic] if number >= reader.got[0]] for reader in its]
        lost = sum(len(set(numbers).difference(reader.got)) for reader, numbers in zip(its, due, strict=True))
        twice = sum(len(reader.got) - len(set(reader.got)) for reader in its)
        declared = sum(reader.declared for reader in its)
        told = f"{lost} of {sum(map(len, due))}, {twice} twice, {self.refused[topic]} refused"
        return f"{told}, {declared} told of a loss" if declared else told


def measure(way: Way, clients: int, kind: type[Client], folder: Path) -> dict[str, object]:
    """Stop a server with its clients."""
    notes, url = folder / "notes", f"workers://{folder}/nodes"
    changed = folder / "changed.py"
    changed.touch()
    words = {"{requests}": str(clients), "{changed}": str(changed)}
    command = tuple(words.get(word, word) for word in way.command)
    server = Servers(folder).start(*command, NOTES=str(notes), PYTHONPATH=".", FLASK_PHOENIX_PUBSUB_URL=url)
    try:
        return stop(server, way, clients, kind, Publisher(url), notes)
    finally:
        server.kill()


def stop(
    server: Server, way: Way, clients: int, kind: type[Client], publisher: Publisher, notes: Path
) -> dict[str, object]:
    """Stop a server, and report what its clients saw, and what it noted."""
    readers = [Reader(server.port, clients + number, (KEPT, TALKED)[number % 2]) for number in range(2 * READERS)]
    reading = [gevent.spawn(reader.read) for reader in readers]
    everybody = [kind(server.port, number) for number in range(clients - way.by_request * MARGIN)]
    wires = Pool(DIALLING).map(kind.connect, everybody)
    publishing = gevent.spawn(publisher.run)  # the directory is there by now
    for number, wire in enumerate(wires[:SLOW]):
        wire.text(f'["1","2","room:{number}","slow",{{}}]')
    staying = [gevent.spawn(client.stay, wire) for client, wire in zip(everybody, wires, strict=True)]
    gevent.sleep(0.5 if kind is Client else 3)  # by when all polls wait
    begin = time.time()
    if way.number:
        os.kill(server.pid, way.number)
    elif way.by_change:
        notes.with_name("changed.py").write_text("# another one")
    else:
        ask_for_more(server.port, everybody)
        begin = min(client.closed_at for client in everybody)
    with follow(server, way, begin) as report:
        gevent.joinall(staying, timeout=PATIENCE)
        gevent.sleep(3)  # in which a server that has ended twice would do so
        publishing.kill()
        gevent.sleep(1)
        report |= told(everybody, begin) | noted(notes, begin)
        report["with a history"] = publisher.lost(readers, KEPT)
        report["without"] = publisher.lost(readers, TALKED)
        gevent.killall(reading)
    return report


@contextmanager
def follow(server: Server, way: Way, begin: float) -> Iterator[dict[str, object]]:
    """Report the end of a server, and have its command run again meanwhile, unless it goes on by itself."""
    if way.goes_on:
        yield {"exit": "goes on"}
        return
    while server.process.poll() is None:
        gevent.sleep(0.02)
    report: dict[str, object] = {"exit": f"{server.process.wait()} after {time.time() - begin:.1f} s"}
    environment = {**os.environ, **ENVIRONMENT, **server.environment}
    with subprocess.Popen(
        server.command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as another:
        try:
            yield report
        finally:
            another.send_signal(signal.SIGINT)


def ask_for_more(port: int, clients: list[Client]) -> None:
    """Ask for pages, until all clients have been closed since each process has answered as many as it may."""
    while not all(client.codes for client in clients):
        with suppress(OSError), socket.create_connection((HOST, port), 1) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            sock.recv(100)


def told(clients: list[Client], begin: float) -> dict[str, object]:
    """Report what clients saw."""
    closed = sorted(client.closed_at - begin for client in clients if client.closed_at)
    back = [client.back_at - begin for client in clients if client.back_at]
    codes = Counter(code for client in clients for code in client.codes)
    return {
        "codes": ", ".join(f"{code}: {number}" for code, number in codes.items()),
        "closed": f"{closed[0]:.1f} to {closed[-1]:.1f} s" if closed else "nobody",
        "back": f"{len(back)}, {min(back):.1f} to {max(back):.1f} s" if back else "nobody",
    }


def noted(notes: Path, begin: float) -> dict[str, object]:
    """Report what the server noted."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    ends = Counter(line[1] for line in lines if line[0] == "end")
    joins = [(line[1], float(line[2]) - begin) for line in lines if line[0] == "join"]
    first = [id for id, at in joins if at < 0]
    per_second = Counter(int(at) for _, at in joins if at >= 0)
    kinds = Counter(line[0] for line in lines)
    once, twice = sum(ends[id] == 1 for id in first), sum(number > 1 for number in ends.values())
    return {
        "handlers": f"{kinds['done']} of {kinds['begin']}",
        "terminated": f"{once} of {len(first)} once, {twice} twice",
        "joins per second": " ".join(str(per_second[at]) for at in range(max(per_second, default=-1) + 1)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=5000)
    parser.add_argument("--only", default="")
    parser.add_argument("--polling", action="store_true", help="they poll, and 410 tells them of the end")
    options = parser.parse_args()
    print(f"| {options.clients} clients |", " | ".join(COLUMNS), "|")
    print("| --- " * (len(COLUMNS) + 1) + "|", flush=True)
    for name, way in WAYS.items():
        if options.only in name:
            with tempfile.TemporaryDirectory() as folder:
                kind = PollingClient if options.polling else Client
                report = measure(way, options.clients, kind, Path(folder))
            print(f"| {name} |", " | ".join(str(report[column]) for column in COLUMNS), "|", flush=True)


if __name__ == "__main__":
    main()
