"""What a message between two workers costs: ``python benchmarks/workers.py [messages]``.

Three ways: a flood, in bursts of a hundred; a steady stream of a thousand a second; and ping-pong, one at a time. The
CPU is that of each process for each message; latency is from publish to receive, on the clock that both share.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable

import gevent
from gevent.event import Event

from flask_phoenix.workers import WorkersAdapter

STAMP = struct.Struct("!Bd")
FLOOD, STREAM, PING, PONG, REPORT, END = range(6)
NAMES = {FLOOD: "flood", STREAM: "stream, 1000/s", PING: "ping-pong"}
PADDING = b"x" * 150


class Node:
    """One side."""

    def __init__(self, directory: str, name: str) -> None:
        self.adapter = WorkersAdapter(directory)
        self.name = name
        self.times: list[float] = []
        self.cpu = 0.0
        self.ready, self.told = Event(), Event()
        self.report: list[float] = []

    def start(self) -> None:
        """Join the other."""
        self.adapter.start(self.name, self.receive, lambda node: self.told.set())
        self.adapter.subscribe(self.name)

    def publish(self, to: str, kind: int, rest: bytes = PADDING) -> None:
        """Send one message."""
        self.adapter.publish(to, STAMP.pack(kind, time.monotonic()) + rest)

    def receive(self, topic: str, data: bytes) -> None:
        """Take one message."""
        kind, stamp = STAMP.unpack_from(data)
        if kind == PING:
            self.publish("front", PONG)
            self.times.append(time.monotonic() - stamp)
        elif kind == PONG:
            self.ready.set()
        elif kind == END:
            self.tell()
        elif kind == REPORT:
            self.report = list(struct.unpack("!5d", data[STAMP.size :]))
            self.told.set()
        else:
            self.times.append(time.monotonic() - stamp)

    def tell(self) -> None:
        """Report what came since the last time."""
        times, self.times = sorted(self.times) or [0.0], []
        used, self.cpu = time.process_time() - self.cpu, time.process_time()
        size = len(times)
        figures = (float(size), used, times[size // 2], times[size * 99 // 100], times[-1])
        self.publish("front", REPORT, struct.pack("!5d", *figures))


def flood(front: Node, messages: int) -> None:
    """As fast as it goes."""
    for _ in range(messages // 100):
        for _ in range(100):
            front.publish("back", FLOOD)
        gevent.sleep(0)


def stream(front: Node, messages: int) -> None:
    """A thousand a second."""
    began = time.monotonic()
    for number in range(messages):
        gevent.sleep(max(0.0, began + number / 1000 - time.monotonic()))
        front.publish("back", STREAM)


def ping_pong(front: Node, messages: int) -> None:
    """One at a time."""
    for _ in range(messages):
        front.ready.clear()
        front.publish("back", PING)
        front.ready.wait()


def measure(front: Node, kind: int, run: Callable[[Node, int], None], messages: int) -> None:
    """Run one way, and print what it cost."""
    front.told.clear()
    front.publish("back", END)
    front.told.wait()
    front.told.clear()
    began, used = time.monotonic(), time.process_time()
    run(front, messages)
    front.publish("back", END)
    front.told.wait()
    used, took = time.process_time() - used, time.monotonic() - began
    size, theirs, half, most, worst = front.report
    print(
        f"{NAMES[kind]:>16}: {size:8.0f} messages, {size / took:8.0f}/s; CPU {used / size * 1e6:5.1f} + "
        f"{theirs / size * 1e6:5.1f} us each; latency p50 {half * 1e6:.0f}, p99 {most * 1e6:.0f}, "
        f"worst {worst * 1e6:.0f} us; lost {messages - size:.0f}"
    )


def main(messages: int) -> None:
    """Fork, and measure from one side."""
    with tempfile.TemporaryDirectory() as directory:
        child = os.fork()
        node = Node(directory, "front" if child else "back")
        node.start()
        if not child:
            node.told.wait()
            os._exit(0)
        while not any(neighbour.topics for neighbour in node.adapter._neighbours.values()):
            gevent.sleep(0.01)
        measure(node, FLOOD, flood, messages)
        measure(node, STREAM, stream, min(messages, 5000))
        measure(node, PING, ping_pong, min(messages, 20000))
        node.adapter.stop()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
