"""Whether joins lose anything, when everybody comes at once to three workers of gunicorn that speak meanwhile.

500 clients join 50 topics while every worker broadcasts on all of them. Each client that has its join's reply is to get
every later broadcast of its topic exactly once. With four stays each client leaves and joins another topic, three
times, so that workers ask for topics and let go of them meanwhile.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gevent
from gevent import socket
from gevent.event import Event

from benchmarks.harness import Bench, Figures, Table, start_redis
from tests.support import fleet
from tests.support.fleet import WORKER
from tests.support.processes import DEADLINE, HOST, Servers
from tests.support.wire import UPGRADE, Wire

WORKERS = 3
#: Seconds in which something has to come to everybody who waits for something.
PATIENCE = 50.0
#: Rounds over all topics that each speaker goes on for, when all clients have joined.
AFTER = 3


class Report(NamedTuple):
    """What came of a storm."""

    #: How many clients were connected to each worker.
    spread: dict[int, int]
    joins: int
    slowest_join: float
    broadcasts: int
    deliveries: int
    lost: int
    #: What came twice, or out of order, or after the reply to a leave, or before that to a join.
    wrong: int
    seconds: float


class Line:
    """A WebSocket to whichever worker takes it."""

    def __init__(self, port: int, patience: float) -> None:
        self.wire = Wire(socket.create_connection((HOST, port), patience))
        self.wire.sock.settimeout(patience)
        lines = ["GET /socket/websocket?vsn=2.0.0 HTTP/1.1", f"Host: {HOST}:{port}"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        self.wire.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.wire.take(1)
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.worker = int(fields[WORKER])
        self._refs = count(1)

    def say(self, topic: str, event: str, payload: Any = None, join_ref: str | None = None) -> str:
        """Send a message; return its ref."""
        ref = str(next(self._refs))
        self.wire.text(json.dumps([ref if event == "phx_join" else join_ref, ref, topic, event, payload or {}]))
        return ref

    def hear(self) -> Any:
        """Receive a message."""
        return json.loads(self.wire.data())

    def close(self) -> None:
        """Hang up."""
        self.wire.sock.close()


class Speaker:
    """Has one worker broadcast on all topics in turn."""

    def __init__(self, storm: Storm, line: Line) -> None:
        self._storm = storm
        self._line = line
        self._join_ref = line.say("room:speakers", "phx_join")
        self.said = dict.fromkeys(storm.topics, 0)

    def run(self) -> None:
        """Speak until all have joined, and a little longer."""
        self._answered()
        while not self._storm.joined.is_set():
            self._round()
        for left in reversed(range(AFTER)):
            self._round(last=not left)

    def _round(self, last: bool = False) -> None:
        for topic, number in self.said.items():
            self.said[topic] = number + 1
            payload = {"from": self._line.worker, "number": number, "last": last}
            self._line.say("room:speakers", "tell", {"topic": topic, "payload": payload}, self._join_ref)
        for _ in self.said:
            self._answered()

    def _answered(self) -> None:
        answer = self._line.hear()
        assert answer[3] == "phx_reply", answer
        assert answer[4]["status"] == "ok", answer


class Stay:
    """One client's membership of one topic."""

    def __init__(self, storm: Storm, line: Line, topic: str) -> None:
        self._storm, self._line, self._topic = storm, line, topic
        self._speakers = storm.speakers
        self.heard: dict[int, list[int]] = {worker: [] for worker in self._speakers}
        #: What was already said when the reply came.
        self.since: dict[int, int] = {}
        self._last = set[int]()
        self.early = 0
        began = time.monotonic()
        self._join_ref = line.say(topic, "phx_join")
        self._hear_reply(self._join_ref)
        self.early = sum(map(len, self.heard.values()))
        self.since = {worker: speaker.said[topic] for worker, speaker in self._speakers.items()}
        self.took = time.monotonic() - began

    def hear_some(self) -> None:
        """Stay until every speaker has said something later than the join."""
        while any(not self.heard[worker] or self.heard[worker][-1] < self.since[worker] for worker in self.since):
            self._hear()

    def hear_out(self) -> None:
        """Stay until every speaker has said his last word."""
        while len(self._last) < len(self._speakers):
            self._hear()

    def leave(self) -> None:
        """Go."""
        self._hear_reply(self._line.say(self._topic, "phx_leave", None, self._join_ref))
        close = self._line.hear()
        assert close[2:4] == [self._topic, "phx_close"], close

    def quiet(self) -> None:
        """Hear what else is on its way."""
        self._hear_reply(self._line.say("phoenix", "heartbeat"))

    def lost(self, to_the_end: bool) -> int:
        """Count what should have come and did not."""
        lost = 0
        for worker, numbers in self.heard.items():
            end = self._speakers[worker].said[self._topic] if to_the_end else max(numbers, default=-1) + 1
            start = min(numbers[0] if numbers else end, self.since.get(worker, end))
            lost += len(set(range(start, end)) - set(numbers))
        return lost

    def wrong(self) -> int:
        """Count what should not have come as it did."""
        pairs = [pair for numbers in self.heard.values() for pair in pairwise(numbers)]
        return self.early + sum(one >= other for one, other in pairs)

    def _hear_reply(self, ref: str) -> None:
        while (heard := self._hear()) is None or heard[1] != ref:
            pass
        assert heard[4]["status"] == "ok", heard

    def _hear(self) -> Any:
        """Take a message; return it if it is none of the speakers'."""
        message = self._line.hear()
        _, _, topic, event, payload = message
        if event != "told":
            return message
        assert topic == self._topic, message
        self.heard[payload["from"]].append(payload["number"])
        if payload["last"]:
            self._last.add(payload["from"])
        return None


class Member:
    """A client that stays on one topic after another, and on the last of them to the end."""

    def __init__(self, storm: Storm, topics: Sequence[str]) -> None:
        self._storm = storm
        self._topics = topics
        self.stays: list[Stay] = []
        self.worker = 0

    def run(self) -> None:
        """Come, stay, and hear everything out."""
        line = self._storm.dial()
        self.worker = line.worker
        for topic in self._topics:
            if self.stays:
                self.stays[-1].hear_some()
                self.stays[-1].leave()
            self.stays.append(Stay(self._storm, line, topic))
        self._storm.arrived()
        self.stays[-1].hear_out()

    def quiet(self) -> None:
        """Hear what else is on its way."""
        self.stays[-1].quiet()


class Storm:
    """Many clients, and a speaker for each worker.

    :param stays: on how many topics each client is, one after another.
    :param patience: seconds in which something has to come to everybody who waits for something.
    """

    def __init__(
        self, port: int, workers: int, clients: int, topics: int, stays: int = 1, patience: float = DEADLINE
    ) -> None:
        self.port = port
        self.patience = patience
        self.topics = [f"room:storm-{number}" for number in range(topics)]
        self.joined = Event()
        self.speakers: dict[int, Speaker] = {}
        self._lines: list[Line] = []
        self._members = [
            Member(self, [self.topics[(number + 7 * stay) % topics] for stay in range(stays)])
            for number in range(clients)
        ]
        self._arriving = clients
        self._workers = workers

    def dial(self) -> Line:
        """Connect to any worker, to the end of the storm."""
        line = Line(self.port, self.patience)
        self._lines.append(line)
        return line

    def arrived(self) -> None:
        """Hear that a client is where it stays."""
        self._arriving -= 1
        if not self._arriving:
            self.joined.set()

    def run(self) -> Report:
        """Let it come, and report.

        :raises Exception: something has not come in time, or an assertion has failed.
        """
        began = time.monotonic()
        try:
            self._find_speakers()
            speaking = [gevent.spawn(speaker.run) for speaker in self.speakers.values()]
            self._finish([*speaking, *(gevent.spawn(member.run) for member in self._members)])
            self._finish([gevent.spawn(member.quiet) for member in self._members])
            return self._report(time.monotonic() - began)
        finally:
            for line in self._lines:
                line.close()

    def _find_speakers(self) -> None:
        deadline = time.monotonic() + self.patience
        while len(self.speakers) < self._workers:
            assert time.monotonic() < deadline, f"connections come to {self.speakers.keys()} only"
            line = self.dial()
            if line.worker not in self.speakers:
                self.speakers[line.worker] = Speaker(self, line)

    def _finish(self, tasks: list[gevent.Greenlet[[], None]]) -> None:
        """Wait for all; one that fails ends all."""
        try:
            for task in gevent.iwait(tasks):
                task.get()
        except Exception as error:
            lost = sum(stay.lost(to_the_end=False) for member in self._members for stay in member.stays)
            raise AssertionError(f"{error!r}; {self._arriving} have not arrived, {lost} messages are lost") from error
        finally:
            gevent.killall(tasks)

    def _report(self, seconds: float) -> Report:
        stays = [stay for member in self._members for stay in member.stays]
        lost = sum(stay.lost(stay is member.stays[-1]) for member in self._members for stay in member.stays)
        return Report(
            spread=dict(Counter(member.worker for member in self._members)),
            joins=len(stays),
            slowest_join=max(stay.took for stay in stays),
            broadcasts=sum(sum(speaker.said.values()) for speaker in self.speakers.values()),
            deliveries=sum(len(numbers) for stay in stays for numbers in stay.heard.values()),
            lost=lost,
            wrong=sum(stay.wrong() for stay in stays),
            seconds=seconds,
        )


def ask(bench: Bench) -> Table:
    """Let storms come to workers that are joined by their own sockets, and by Redis."""
    with ExitStack() as stack:
        redis = start_redis()
        stack.callback(redis.stop)
        ways = {"workers": "", "redis": f"redis://{HOST}:{redis.port}/0"}
        return {f"{over}, {stays} stays": blow(bench, url, stays) for over, url in ways.items() for stays in (1, 4)}


def blow(bench: Bench, url: str, stays: int) -> Figures:
    """Let some storms come, and return what came of them."""
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            started = fleet.start(servers, {"PHOENIX_PUBSUB_URL": url}, workers=WORKERS)
            for _ in range(1 if bench.quick else bench.rounds):
                storm = Storm(started.server.port, WORKERS, bench.size(500, 100), bench.size(50, 10), stays, PATIENCE)
                reports.append(storm.run())
        finally:
            servers.stop()
    return {
        "joins": float(sum(report.joins for report in reports)),
        "deliveries": float(sum(report.deliveries for report in reports)),
        "slowest join, ms": max(report.slowest_join for report in reports) * 1e3,
        "lost": float(sum(report.lost for report in reports)),
        "wrong": float(sum(report.wrong for report in reports)),
    }
