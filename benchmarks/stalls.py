"""How long others wait while many clients do the same: ``python -m benchmarks.stalls``, in this project's folder.

A server in a process of its own notes the longest gap between two turns of its event loop, by the clock, without the
time for which the system has given its core to others (so that a busy machine does not count), and by its CPU, while
clients in two other processes connect, join, are told a broadcast and
vanish at once, half of them, and while one newcomer is told who is present. Python's garbage collector stops a process
with many objects by itself: how long at most, is told too; ``--no-gc`` does without.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

import gevent
from flask import Flask
from gevent import monkey

from flask_phoenix import Channel, Phoenix, Socket
from tests.support.processes import HOST, free_port
from tests.support.wire import UPGRADE, write

#: Seconds in which everything has to have happened.
PATIENCE = 120.0
#: Seconds between two looks at the clock.
TICK = 0.002
#: Seconds without a gap after which a phase counts as over.
QUIET = 1.0


class Gap(NamedTuple):
    """The longest gap between two turns, in milliseconds."""

    clock: float
    #: The same, but for the time in which it waited for a core.
    own: float
    cpu: float
    garbage: float


class Watch:
    """Notes the longest gap between two turns of the event loop."""

    def __init__(self) -> None:
        self._collecting = 0.0
        self._schedule = os.open("/proc/self/schedstat", os.O_RDONLY)
        gc.callbacks.append(self._collect)
        self.begin()
        self._timer = gevent.get_hub().loop.timer(TICK, TICK)
        self._timer.start(self._look)

    def begin(self) -> None:
        """Forget what was noted."""
        self._clock, self._cpu, self._waited = time.perf_counter(), time.process_time(), self._wait()
        self.longest = Gap(0.0, 0.0, 0.0, 0.0)

    def _look(self) -> None:
        clock, cpu, waited = time.perf_counter(), time.process_time(), self._wait()
        gap = clock - self._clock
        self._note(Gap(gap * 1e3, (gap - waited + self._waited) * 1e3, (cpu - self._cpu) * 1e3, 0.0))
        self._clock, self._cpu, self._waited = clock, cpu, waited

    def _wait(self) -> float:
        """Return the seconds in which this process has waited for a core."""
        return int(os.pread(self._schedule, 100, 0).split()[1]) / 1e9

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.process_time()
        else:
            self._note(Gap(0.0, 0.0, 0.0, (time.process_time() - self._collecting) * 1e3))

    def _note(self, gap: Gap) -> None:
        self.longest = Gap(*map(max, zip(gap, self.longest, strict=True)))


def serve(port: int) -> None:
    """Serve, until killed."""
    app = Flask(__name__)
    app.secret_key = "a secret"
    phoenix = Phoenix(app)
    crowd = phoenix.presence()
    watch = Watch()
    latest = {"number": 0}

    @phoenix.socket("/socket", outbox_limit=1 << 24)
    class Visitor(Socket):
        pass

    @Visitor.channel("room:*")
    class Room(Channel):
        def join(self, payload: Any) -> None:
            return None

    @Visitor.channel("crowd:*")
    class Crowd(Channel):
        presence = crowd

        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            if self.subtopic == "mass":
                latest["number"] += 1
                self.track(f"key-{latest['number']}", {"at": 1, "name": "somebody"})
            self.push("presence_state", self.presences())

    @app.get("/begin")
    def begin() -> dict[str, Any]:
        watch.begin()
        return {}

    @app.get("/longest")
    def longest() -> dict[str, Any]:
        engine = app.extensions["phoenix"].engine
        return {**watch.longest._asdict(), "clients": engine.connection_count()}

    @app.get("/broadcast")
    def broadcast() -> dict[str, Any]:
        phoenix.broadcast("room:1", "news", {"text": "x" * 40})
        return {}

    @app.get("/crowd/<int:count>")
    def fill(count: int) -> dict[str, Any]:
        for number in range(count):
            crowd.track("crowd:1", f"key-{number}", {"at": number, "name": "somebody"})
            if not number % 100:
                gevent.sleep(0.0001)
        return {}

    phoenix.run(app, host=HOST, port=port)


def open_one(port: int) -> socket.socket:
    """Open a WebSocket."""
    sock = socket.create_connection((HOST, port), PATIENCE)
    head = "\r\n".join(f"{name}: {value}" for name, value in {"Host": HOST, **UPGRADE}.items())
    sock.sendall(f"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\n{head}\r\n\r\n".encode())
    return sock


def join_frame(topic: str) -> bytes:
    """Write a join as a frame."""
    return write(1, json.dumps(["1", "1", topic, "phx_join", {}]).encode())


def load(port: int, count: int) -> None:
    """Be so many clients; do what each line of the standard input says, and answer with a line."""
    socks: list[socket.socket] = []
    epoll = select.epoll()
    for line in sys.stdin:
        verb, *rest = line.split()
        if verb == "connect":
            for _ in range(count):
                socks.append(open_one(port))
                epoll.register(socks[-1].fileno(), select.EPOLLIN)
        elif verb == "join":
            for sock in socks:
                sock.sendall(join_frame(rest[0]))
        elif verb == "hear":
            hear(epoll, {sock.fileno() for sock in socks}, rest[0].encode())
        print(verb, flush=True)


def hear(epoll: select.epoll, waiting: set[int], what: bytes) -> None:
    """Read until every client has been sent something."""
    tails: dict[int, bytes] = {}
    while waiting:
        for descriptor, _ in epoll.poll(PATIENCE):
            data = tails.get(descriptor, b"") + os.read(descriptor, 1 << 20)
            tails[descriptor] = data[-64:]
            if what in data:
                waiting.discard(descriptor)


class Clients:
    """Clients in a process of their own."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, "-m", "benchmarks.stalls", "--load", str(count), "--port", str(port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        """Have something done."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def done(self) -> None:
        """Wait until it is done."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def vanish(self) -> None:
        """Be gone, all at once."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def ask(port: int, path: str) -> Any:
    """Ask the server."""
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


def measure(port: int, clients: int, topic: str, mass: bool) -> None:
    """Go through the phases, and print the longest gap of each."""
    crowds = [Clients(port, clients // 2) for _ in range(2)]

    def phase(name: str, act: Callable[[], None]) -> None:
        ask(port, "/begin")
        began = time.monotonic()
        act()
        took = time.monotonic() - began
        time.sleep(QUIET)
        gap = ask(port, "/longest")
        print(
            f"{name:>24}: {gap['clock']:7.0f} ms, {gap['own']:.0f} on a core, {gap['cpu']:.0f} of CPU,"
            f" {gap['garbage']:.0f} of garbage; took {took:.1f} s",
            flush=True,
        )

    def both(*lines: str) -> None:
        for line in lines:
            for crowd in crowds:
                crowd.tell(line)
            for crowd in crowds:
                crowd.done()

    def vanish() -> None:
        crowds.pop().vanish()
        while ask(port, "/longest")["clients"] > clients // 2:
            time.sleep(0.3)

    def newcomer() -> None:
        with open_one(port) as sock:
            assert b" 101 " in sock.recv(1 << 10)
            sock.sendall(join_frame("crowd:1"))
            data = b""
            while b"presence_state" not in data:
                data = data[-64:] + sock.recv(1 << 20)

    def tell_all() -> None:
        ask(port, "/broadcast")
        both("hear news")

    try:
        open_one(port).close()  # what only the first one costs
        phase(f"{clients} connect", lambda: both("connect", "hear 101"))
        phase(f"{clients} join", lambda: both(f"join {topic}", "hear phx_reply"))
        if not mass:
            phase("broadcast to all", tell_all)
        phase(f"{clients // 2} vanish", vanish)
        if not mass:
            ask(port, f"/crowd/{clients}")
            phase(f"state of {clients} present", newcomer)
            phase("the same again", newcomer)
    finally:
        for crowd in crowds:
            crowd.vanish()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--present", action="store_true", help="each client is present on the topic that it joins")
    parser.add_argument("--no-gc", action="store_true", help="without Python's garbage collector in the server")
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--load", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if arguments.load:
        load(arguments.port, arguments.load)
    elif arguments.port:
        monkey.patch_all()
        if arguments.no_gc:
            gc.disable()
        serve(arguments.port)
    else:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.stalls", "--port", str(port), *["--no-gc"] * arguments.no_gc]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # where requests are logged
        try:
            while True:
                try:
                    ask(port, "/begin")
                    break
                except OSError:
                    time.sleep(0.1)
            topic = "crowd:mass" if arguments.present else "room:1"
            measure(port, arguments.clients, topic, arguments.present)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
