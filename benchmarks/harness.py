"""Servers in processes of their own, the load client, and figures of several rounds."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, Talk

HOST = "127.0.0.1"
FOLDER = Path(__file__).parent
#: Which core is whose.
SERVER_CORE, LOAD_CORE = "0", "1"
#: Seconds after which a server ends by itself, whatever has become of this process.
SERVER_LIFE = 900
#: Seconds that a server has to begin, and to end.
START, STOP = 30.0, 10.0

#: The figures of one contender, by their name and unit; none where it cannot do what was asked.
Figures = dict[str, float | None]
#: Those of all, by the contender or by the size.
Table = dict[str, Figures]


class FailedError(Exception):
    """A server or the load client did not do what it was to do."""


@dataclass(frozen=True)
class Load:
    """What the load client has counted."""

    raw: dict[str, Any]
    #: How many of the processes are servers; the others are Redis.
    servers: int

    @property
    def ready(self) -> int:
        """How many have joined."""
        return int(self.raw["ready"])

    @property
    def delivery(self) -> float:
        """Microseconds of processor time of the servers for each delivery.

        :raises FailedError: there were none in the time.
        """
        if not self.raw["deliveries"]:
            raise FailedError(f"nothing was delivered in {self.raw['seconds']:.1f} s")
        return self._micros("cpu", slice(self.servers), self.raw["deliveries"])

    @property
    def redis_delivery(self) -> float:
        """The same of Redis."""
        return self._micros("cpu", slice(self.servers, None), self.raw["deliveries"])

    @property
    def per_second(self) -> float:
        """Deliveries a second."""
        return float(self.raw["deliveries"] / self.raw["seconds"])

    @property
    def connect(self) -> float:
        """Microseconds of processor time of the servers for each connection, its joins included."""
        return self._micros("connect_cpu", slice(self.servers), self.ready)

    @property
    def kib(self) -> float:
        """KiB of memory of the servers for each connection."""
        return float(sum(self.raw["memory"][: self.servers]) / self.ready)

    def cpu(self, name: str = "cpu") -> list[float]:
        """Return the seconds of processor time of each process."""
        return [float(seconds) for seconds in self.raw[name]]

    def _micros(self, name: str, which: slice, among: float) -> float:
        return float(sum(self.raw[name][which]) / among * 1e6)


class Process:
    """A process on the servers' core, in a group of its own."""

    def __init__(self, command: Iterable[str], environ: dict[str, str] | None = None, port: int = 0) -> None:
        self.port = port
        # timeout makes the group, and ends it should this process be gone.
        guard = ("timeout", "--kill-after=5", str(SERVER_LIFE), "taskset", "-c", SERVER_CORE)
        self._process = subprocess.Popen(
            (*guard, *command),
            env={**os.environ, **(environ or {})},
            cwd=FOLDER.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.pids: list[int] = []
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken, without asking it."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids)  # the clocks, as Linux names them

    def memory(self) -> int:
        """Return the KiB of its memory."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * resource.getpagesize() // 1024

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP)

    def _wait(self) -> None:
        deadline = time.monotonic() + START
        while not accepts(self.port):
            if self._process.poll() is not None:
                raise FailedError(f"the server has ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise FailedError(f"nothing listens after {START:.0f} s")
            time.sleep(0.05)
        time.sleep(0.5)  # in which a master has its workers
        self.pids = list(descendants(self._process.pid))


def descendants(pid: int) -> Iterator[int]:
    """Yield what a process has started, and what that has."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from descendants(int(child))


def accepts(port: int) -> bool:
    """Return whether somebody listens."""
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def start_redis() -> Process:
    """Start a Redis that keeps nothing."""
    port = free_port()
    options = ("--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--loglevel", "warning")
    return Process(("redis-server", *options), port=port)


@dataclass
class Running:
    """The servers of one contender that run."""

    contender: Contender
    tools: Path
    warm: float
    nodes: list[Process]
    redis: Process | None
    #: The URL of what joins them.
    url: str = ""

    @property
    def processes(self) -> list[Process]:
        """All of them, Redis last."""
        return self.nodes + ([self.redis] if self.redis else [])

    def load(self, talk: Talk | None = None, **options: Any) -> Load:
        """Run the load client to its end.

        :raises FailedError: it has not done what it was to do.
        """
        done = subprocess.run(self._command(talk, options), capture_output=True, text=True, timeout=SERVER_LIFE)
        return self._read(done.stdout, done.stderr, options)

    @contextmanager
    def held(self, talk: Talk | None = None, **options: Any) -> Iterator[Load]:
        """Have connections that do nothing meanwhile.

        :raises FailedError: they were not let in.
        """
        command = self._command(talk, {**options, "mode": "hold"})
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            try:
                yield self._read(client.stdout.readline(), "", options)
            finally:
                client.stdin.close()

    def _command(self, talk: Talk | None, options: dict[str, Any]) -> list[str]:
        pids = [pid for process in self.processes for pid in process.pids]
        said = {**(talk or self.contender.chat).options(), "warm": self.warm, **options}
        said.update(ports=",".join(str(node.port) for node in self.nodes), pids=",".join(map(str, pids)))
        words = [word for name, value in said.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return ["taskset", "-c", LOAD_CORE, str(self.tools / "load"), *words]

    def _read(self, line: str, complaints: str, options: dict[str, Any]) -> Load:
        if not line:
            raise FailedError(f"the load client has failed: {complaints.strip()}")
        load = Load(json.loads(line), sum(len(node.pids) for node in self.nodes))
        if load.ready < options.get("n", 100):
            raise FailedError(f"{load.ready} of {options.get('n')} clients have joined: {complaints.strip()[:120]}")
        return load


@dataclass
class Bench:
    """One run."""

    tools: Path
    quick: bool = False
    rounds: int = 3
    #: Seconds that each figure is looked at.
    secs: float = 3.0
    #: Seconds before it, in which the server gets warm.
    warm: float = 1.0
    #: Seconds after which a question is not begun once more.
    limit: float = 240.0
    notes: list[str] = field(default_factory=list)

    def size(self, n: int, quick: int) -> int:
        """Return how many there are to be."""
        return quick if self.quick else n

    @contextmanager
    def running(self, contender: Contender, nodes: int = 1, over: str | None = None) -> Iterator[Running]:
        """Have servers for a while.

        :param over: "workers" or "redis": what joins them. Those that cannot be without Redis always have one.
        :raises FailedError: they do not start.
        """
        with ExitStack() as stack:
            redis = None
            if over == "redis" or contender.needs_redis:
                redis = start_redis()
                stack.callback(redis.stop)
            url = f"redis://{HOST}:{redis.port}/0" if redis else ""
            if over == "workers":
                url = f"workers://{stack.enter_context(tempfile.TemporaryDirectory())}"
            started = []
            for _ in range(nodes):
                port = free_port()
                started.append(Process(contender.command(self.tools, port, url), contender.environ(url), port))
                stack.callback(started[-1].stop)
            yield Running(contender, self.tools, self.warm, started, redis, url)

    def measure(
        self, contenders: Iterable[Contender], ask: Callable[[Contender], Figures], rounds: int | None = None
    ) -> Table:
        """Ask all in turn, several times, and return the figure in the middle of each.

        In turn, so that a machine that changes meanwhile changes for all. Who fails is not asked again.
        """
        began, asked = time.monotonic(), list(contenders)
        rows: dict[str, list[Figures]] = {contender.name: [] for contender in asked}
        for number in range(rounds or self.rounds):
            if number and time.monotonic() > began + self.limit:
                self.note(f"{number} rounds instead of {rounds or self.rounds}: they took {self.limit:.0f} s")
                break
            for contender in list(asked):
                if sys.stderr.isatty():
                    print(f"\r\033[K  {contender.name} ...", end="", file=sys.stderr, flush=True)
                try:
                    rows[contender.name].append(ask(contender))
                except (FailedError, OSError, subprocess.TimeoutExpired, ZeroDivisionError) as error:
                    self.note(f"{contender.name}: {error}")
                    asked.remove(contender)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        return {name: middle(figures) for name, figures in rows.items() if figures}

    def note(self, text: str) -> None:
        """Remember what has to be said beside the figures."""
        print(f"  ! {text}", file=sys.stderr, flush=True)
        self.notes.append(text)


def middle(rows: list[Figures]) -> Figures:
    """Return the figure in the middle of each."""
    names = {name: None for row in rows for name in row}
    found = {name: [value for row in rows if (value := row.get(name)) is not None] for name in names}
    return {name: statistics.median(values) if values else None for name, values in found.items()}


def slope(points: dict[int, float]) -> float | None:
    """Return the power by which a cost grows with a size: 0 does not grow, 1 grows as the size does.

    What was too little to measure says nothing; None: nothing else is left.
    """
    known = {math.log(size): math.log(cost) for size, cost in points.items() if cost > 0}
    return statistics.linear_regression(list(known), list(known.values())).slope if len(known) > 1 else None


def build(into: Path) -> None:
    """Compile the load client and the floor.

    :raises FailedError: there is no compiler, or it does not take them.
    """
    for name in ("load", "floor"):
        try:
            subprocess.run(["cc", "-O2", "-o", into / name, FOLDER / f"{name}.c"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise FailedError(f"{name}.c cannot be compiled: {error}. A C compiler is needed: gcc") from error
