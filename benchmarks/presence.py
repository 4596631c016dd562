"""What presence costs: changes, memory, gossip, and how fast a late node knows everybody.

``python benchmarks/presence.py``. The first table is measured on a server in a process of its own, with real WebSocket
clients over the loopback interface; its figures are processor time of the server. The others are measured in this
process, where a :class:`.testing.MemoryAdapter` joins the nodes. It takes about three minutes, needs Linux, and two
open files for each client: with the usual limit of 1,024 say ``--most 100``, or raise it (``ulimit -n 65536``).
"""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import gc
import json
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from statistics import median
from typing import Any

import gevent
from flask import Flask, request
from gevent.event import Event
from gevent.pool import Pool

from flask_phoenix import Channel, Phoenix, Presence, Socket
from flask_phoenix.testing import Client, MemoryAdapter

HOST = "127.0.0.1"
#: Whole, in seconds.
LIMIT = 600
#: How many are present.
SIZES = (10, 100, 1_000, 10_000)
REPLY, DIFF, STATE = b'"phx_reply"', b'"presence_diff"', b'"presence_state"'
#: What a key and a meta are here; with its ``phx_ref`` a meta has about 70 bytes of JSON.
KEY, META = "user:{:06}", {"online_at": 1764000000, "device": "phone"}
#: Joins and leaves of each kind; the figure is the one in the middle.
ROUNDS = 25
#: Changes in one process of each kind.
CHANGES = 5_000
#: Clients that connect at the same time.
CROWD = 50
#: Seconds in which the server comes to rest behind what has been heard.
REST = 0.01
#: Seconds that something may take to reach everybody.
PATIENCE = 60
#: Seconds in which idle nodes are listened to: four beats.
IDLE = 20


# The server


class Node:
    """An app with one presence."""

    def __init__(self, adapter: MemoryAdapter | None = None) -> None:
        self.app = app = Flask(__name__)
        self.phoenix = Phoenix(app, adapter=adapter)
        self.online = online = self.phoenix.presence(Presence, name="online")
        #: Those that asked to be kept.
        self.kept: list[Channel] = []
        kept = self.kept

        @self.phoenix.socket("/socket", timeout=None)
        class UserSocket(Socket):
            pass

        @UserSocket.channel("room:*")
        class RoomChannel(Channel):
            presence = online

            def join(self, payload: Any) -> None:
                self.assigns = payload

            def after_join(self) -> None:
                if "keep" in self.assigns:
                    kept.append(self)
                if "key" in self.assigns:
                    self.track(self.assigns["key"], META)
                if "state" in self.assigns:
                    self.push("presence_state", self.presences())

        @app.post("/fill")
        def fill() -> dict[str, Any]:
            self.fill(request.args["topic"], int(request.args["times"]))
            return {}

    def start(self) -> Client:
        """Connect a client: with the first one a node begins to hear others."""
        return Client(self.app)

    def fill(self, topic: str, times: int) -> None:
        """Let so many be present, each as an entry of the process; where nobody listens, that tells nobody."""
        for number in range(times):
            self.online.track(topic, KEY.format(number), META)


class Server:
    """A server in a process of its own."""

    def __init__(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        self._clock = (~self._process.pid << 3) | 2  # that of its processor time, as Linux names it
        self._road = HTTPConnection(HOST, self.port)
        while True:
            try:
                self._road.connect()
                return
            except ConnectionRefusedError:
                gevent.sleep(0.05)

    def fill(self, topic: str, times: int) -> None:
        """Let so many be present."""
        self._road.request("POST", f"/fill?topic={topic}&times={times}")
        assert self._road.getresponse().read() == b"{}\n"

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken, without asking it."""
        return time.clock_gettime(self._clock)

    def stop(self) -> None:
        """End it."""
        self._road.close()
        self._process.terminate()
        self._process.wait()


@contextmanager
def serving() -> Iterator[Server]:
    """Serve for a while."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()


# The clients


class Visitor:
    """One client over a WebSocket, which reads all that comes and counts."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection((HOST, port))
        self._sock.sendall(
            b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        self._heard = dict.fromkeys((REPLY, DIFF, STATE), 0)
        #: Set at each frame.
        self._stirred = Event()
        self._reader = gevent.spawn(self._read)

    def join(self, topic: str, payload: Any) -> None:
        """Ask to join."""
        self._say(["1", "1", topic, "phx_join", payload])

    def leave(self, topic: str) -> None:
        """Ask to leave."""
        self._say(["1", "2", topic, "phx_leave", {}])

    def expect(self, event: bytes, times: int) -> None:
        """Wait until so many further frames of an event have come.

        :raises AssertionError: they do not come.
        """
        while self._heard[event] < times:
            self._stirred.clear()
            assert self._stirred.wait(PATIENCE), f"expected {event!r} {times} times, heard {self._heard}"
        self._heard[event] -= times

    def close(self) -> None:
        """Go away."""
        self._reader.kill()
        self._sock.close()

    def _say(self, message: Any) -> None:
        text = json.dumps(message).encode()
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        self._sock.sendall(b"\x81" + size + bytes(4) + text)  # masked with zeros, which change nothing

    def _read(self) -> None:
        buffer = bytearray()
        with suppress(OSError):
            while data := self._sock.recv(1 << 18):
                buffer += data
                while (end := frame_end(buffer)) <= len(buffer):
                    self._count(bytes(buffer[: min(end, 200)]))
                    del buffer[:end]

    def _count(self, begin: bytes) -> None:
        for event in self._heard:
            if event in begin:
                self._heard[event] += 1
        self._stirred.set()


def frame_end(buffer: bytearray) -> int:
    """Return where the first frame ends; beyond the buffer while not even its size is there."""
    if len(buffer) < 10:
        return 2 + buffer[1] if len(buffer) > 1 and buffer[1] < 126 else 11
    if buffer[1] < 126:
        return 2 + buffer[1]
    wide = 2 if buffer[1] == 126 else 8
    return 2 + wide + int.from_bytes(buffer[2 : 2 + wide], "big")


class Topic:
    """A topic with people present, and those of a crowd who listen to it.

    :param visitor: comes and goes.
    """

    def __init__(self, server: Server, name: str, present: int, crowd: list[Visitor], visitor: Visitor) -> None:
        self._server = server
        self._name = name
        self._crowd = crowd
        self._visitor = visitor
        server.fill(name, present)
        for listener in crowd:
            listener.join(name, {})
        for listener in crowd:
            listener.expect(REPLY, 1)

    def visit(self, payload: dict[str, Any]) -> tuple[float, float]:
        """Return the seconds of processor time of a join and of a leave."""
        joins, leaves = zip(*(self._visit(payload) for _ in range(ROUNDS)), strict=True)
        return median(joins), median(leaves)

    def _visit(self, payload: dict[str, Any]) -> tuple[float, float]:
        visitor, told = self._visitor, "key" in payload
        began = self._server.cpu()
        visitor.join(self._name, payload)
        visitor.expect(REPLY, 1)
        visitor.expect(DIFF, told)
        visitor.expect(STATE, "state" in payload)
        self._rest(told)
        joined = self._server.cpu()
        visitor.leave(self._name)
        visitor.expect(REPLY, 1)
        self._rest(told)
        return joined - began, self._server.cpu() - joined

    def _rest(self, told: int) -> None:
        for listener in self._crowd:
            listener.expect(DIFF, told)
        gevent.sleep(REST)


# The figures


class CountingAdapter(MemoryAdapter):
    """Counts the bytes that it publishes."""

    def __init__(self, network: list[MemoryAdapter]) -> None:
        super().__init__(network)
        self.published = 0

    def publish(self, topic: str, data: bytes) -> None:
        """Count, and hand on."""
        self.published += len(topic.encode()) + len(data)
        super().publish(topic, data)


def measure_joins(sizes: list[int]) -> None:
    """Print what a join and a leave cost the server, by how many are present and how many are told."""
    print("Processor time of the server in us, for one client that joins a topic, and leaves it again\n")
    print("           not tracked      tracked, one told   tracked, all told   each one   presence_state")
    print("  present    join   leave      join     leave      join     leave      told      at the join")
    layout = "{:9,}  {:6.0f}  {:6.0f}  {:8.0f}  {:8.0f}  {:8.0f}  {:8.0f}  {:8.1f}  {:15.0f}"
    with serving() as server:
        visitor, *crowd = Pool(CROWD).map(Visitor, [server.port] * (1 + max(sizes)))
        key = {"key": "visitor"}
        for size in sizes:
            one = Topic(server, f"room:one-{size}", size, crowd[:1], visitor)
            alone, told = one.visit({}), one.visit(key)
            state = one.visit({**key, "state": True})[0] - told[0]
            everybody = Topic(server, f"room:all-{size}", size, crowd[:size], visitor).visit(key)
            each = (sum(everybody) - sum(told)) / 2 / (size - 1)
            figures = (*alone, *told, *everybody, each, state)
            print(layout.format(size, *(figure * 1e6 for figure in figures)), flush=True)
        for client in (visitor, *crowd):
            client.close()


def measure_changes(sizes: list[int]) -> None:
    """Print what a change alone costs: without a server, a channel or a socket."""
    print("\nProcessor time of track and untrack in us, both together, without a server\n")
    print("  present   nobody listens   one listens")
    for size in sizes:
        node = Node()
        node.fill("room:1", size)
        alone = change(node)
        with node.start() as client:
            client.join("room:1", {})
            print(f"{size:9,}  {alone * 1e6:15.1f}  {change(node) * 1e6:12.1f}")


def change(node: Node) -> float:
    """Return the seconds of processor time of a track and an untrack, each told in a turn of its own."""
    gc.collect()
    began = time.process_time()
    for _ in range(CHANGES):
        node.online.track("room:1", "visitor", META)
        gevent.sleep(0)
        node.online.untrack("room:1", "visitor")
        gevent.sleep(0)
    return (time.process_time() - began) / CHANGES


def measure_memory(entries: int, channels: int) -> None:
    """Print what an entry holds."""
    print("\nMemory of one entry in bytes, key and meta included, as Python allocates it\n")
    network: list[MemoryAdapter] = []
    here, there = Node(MemoryAdapter(network)), Node(MemoryAdapter(network))
    here.start()

    def learn() -> None:
        there.start()
        wait_until(lambda: there.online.count("room:1") == entries)

    def fill() -> None:
        here.fill("room:1", entries)
        gevent.sleep(1)  # the others have been told

    print(f"{traced(fill) / entries:8.0f}  own, of the process")
    print(f"{traced(learn) / entries:8.0f}  of another node")
    node = Node()
    clients = [node.start() for _ in range(channels)]
    for client in clients:
        client.join("room:1", {"keep": True})

    def track() -> None:
        for number, channel in enumerate(node.kept):
            node.online.track(channel, KEY.format(number), META, topic="elsewhere")

    print(f"{traced(track) / channels:8.0f}  own, of a channel")


def traced(call: Callable[[], None]) -> int:
    """Return the bytes that a call leaves behind."""
    gc.collect()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not true():
        gevent.sleep(0)


def measure_gossip() -> None:
    """Print what three idle nodes say to each other, and what a change adds."""
    network: list[MemoryAdapter] = []
    adapters = [CountingAdapter(network) for _ in range(3)]
    nodes = [Node(adapter) for adapter in adapters]
    clients = [node.start() for node in nodes]
    nodes[0].fill("room:1", 1000)
    gevent.sleep(1)
    before = sum(adapter.published for adapter in adapters)
    gevent.sleep(IDLE)
    idle = (sum(adapter.published for adapter in adapters) - before) / len(nodes) / IDLE
    before = adapters[1].published
    nodes[1].online.track("room:1", "visitor", META)
    wait_until(lambda: nodes[0].online.count("room:1") == 1001)
    print("\nGossip: topic and data of what is published\n")
    print(f"{idle:8.1f}  bytes an idle node and second, with 3 nodes and 1,000 present")
    print(f"{adapters[1].published - before:8}  bytes for a join")
    for client in clients:
        client.close()


def measure_lateness(entries: int) -> None:
    """Print how long a late node takes to know everybody, and to tell it to a client."""
    print(f"\nA node that comes late to {entries:,} present, both nodes in this process\n")
    for topics in (1, 1_000):
        seconds = late(topics, entries // topics)
        print(f"{seconds * 1e3:8.0f} ms from its start until its client is told, with {topics:,} topics")


def late(topics: int, present: int) -> float:
    """Return the seconds from the start of a late node until its client is told who is on the last topic."""
    network: list[MemoryAdapter] = []
    first, second = Node(MemoryAdapter(network)), Node(MemoryAdapter(network))
    for number in range(topics):
        first.fill(f"room:{number}", present)
    gevent.sleep(1)
    began = time.perf_counter()
    room = second.start().join(f"room:{topics - 1}", {})
    joins = room.expect("presence_diff", PATIENCE)["joins"]
    seconds = time.perf_counter() - began
    assert len(joins) == present
    assert all(second.online.count(f"room:{number}") == present for number in range(topics))
    return seconds


def main() -> None:
    """Print all figures, or serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the largest number of people present")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        node = Node()
        node.phoenix.run(node.app, port=arguments.serve, log=None, backlog=1024)
        return
    sizes = [size for size in SIZES if size <= arguments.most]
    with gevent.Timeout(LIMIT):
        measure_joins(sizes)
        measure_changes(sizes)
        measure_memory(10_000, 1_000)
        measure_gossip()
        measure_lateness(10_000)


if __name__ == "__main__":
    main()
