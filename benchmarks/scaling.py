"""What it costs to be several: broadcasts that cross from node to node, idle nodes, two workers against one.

``python benchmarks/scaling.py`` measures one process alone, several over Unix sockets, and several over a Redis that it
starts itself; ``--over workers`` measures one of them. Every node is a server in a process of its own, with real
WebSocket clients over the loopback interface, all of which this process plays. CPU is the processor time of each
process as the system counts it, and that of this one is told as well: it takes its share of the machine. It takes
about six minutes, needs Linux, and two open files for each client: raise the usual limit (``ulimit -n 65536``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from itertools import cycle, product
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from flask import Flask, request

from flask_phoenix import Channel, Phoenix, Socket, on

HOST = "127.0.0.1"
#: What joins the nodes.
ALONE, WORKERS, REDIS = "none", "workers", "redis"
#: Text in each broadcast; a frame has 150 bytes.
BODY = "x" * 60
#: When a broadcast was said, in nanoseconds of the clock that all processes share.
STAMP = re.compile(rb'"at":"(\d{20})"')
STAMP_SIZE = 27
#: Broadcasts of one figure, and figures of which the one in the middle is told.
TIMES, ROUNDS = 400, 3
#: Clients of a node that listens.
SIZES = (1, 101)
#: Nodes that listen.
LISTENERS = (1, 3)
#: Seconds for which latency is looked at, and clients of each node then.
LOOK, CROWDS = 5.0, (1, 200)
#: Rooms of which somebody speaks from time to time, where they are, and messages a second.
ROOMS, MEMBERS, NODES, RATES = 50, 12, 4, (50, 200, 800)
#: Topics that one client joins.
TOPICS = 500
#: Messages of a client that polls.
POLLS = 500
#: Seconds in which idle nodes are looked at, four beats of a presence, and how many they are.
IDLE, IDLERS = 20, (2, 8)
#: Clients of the throughput, members of a room, rooms for all where many speak, and seconds of a run.
CLIENTS, ROOM, SPEAKERS, RUN = 1000, 10, 4, 4.0
#: Seconds in which what was heard is over for those who said it, too.
REST = 0.3
#: Seconds that something may take.
PATIENCE = 60.0


class Pace(NamedTuple):
    """How broadcasts follow each other: so many in one go, and then a pause in seconds."""

    name: str
    burst: int
    pause: float


STEADY, BURSTS = Pace("one by one, 200/s", 1, 0.005), Pace("bursts of 50, 1000/s", 50, 0.05)


# The nodes


def make_app() -> tuple[Flask, Phoenix]:
    """Make an app that says what it is told to, with a presence that nobody is in."""
    app = Flask(__name__)
    app.secret_key = "of this benchmark"
    phoenix = Phoenix(app)
    phoenix.presence()

    @phoenix.socket("/socket", longpoll=True, timeout=None, max_channels=10 * TOPICS)
    class UserSocket(Socket):
        pass

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            pass

        @on("say")
        def say(self, payload: Any) -> None:
            self.broadcast("said", said())

    @app.post("/say")
    def say() -> dict[str, Any]:
        topic, times = request.args["topic"], int(request.args["times"])
        burst, pause = int(request.args["burst"]), float(request.args["pause"])
        began = time.monotonic()
        for number in range(1, times + 1):
            phoenix.broadcast(topic, "said", said())
            if not number % burst:
                time.sleep(max(0.0, began + number // burst * pause - time.monotonic()))
        return {}

    return app, phoenix


def said() -> dict[str, str]:
    """Return what is broadcast: always of one size."""
    return {"at": f"{time.monotonic_ns():020}", "body": BODY}


class Process:
    """A process whose processor time is looked at."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self._process = process
        self._clock = (~process.pid << 3) | 2  # that of its processor time, as Linux names it
        until(self._accepts)

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken, without asking it."""
        return time.clock_gettime(self._clock)

    def memory(self) -> int:
        """Return the KiB of its memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()

    def _accepts(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((HOST, self.port)) == 0


class Node(Process):
    """A server.

    :param url: how it is joined to the others.
    """

    def __init__(self, url: str) -> None:
        port = free_port()
        # Patched before anything else, as gunicorn and flask run do it; this process is not.
        command = (sys.executable, "-m", "gevent.monkey", __file__, "--serve", str(port))
        super().__init__(subprocess.Popen(command, env={**os.environ, "PHOENIX_PUBSUB_URL": url}), port)

    @contextmanager
    def saying(self, topic: str, times: int, pace: Pace) -> Iterator[None]:
        """Let it broadcast meanwhile."""
        with closing(HTTPConnection(HOST, self.port, timeout=PATIENCE)) as road:
            road.request("POST", f"/say?topic={topic}&times={times}&burst={pace.burst}&pause={pace.pause}")
            yield
            assert road.getresponse().read() == b"{}\n"


class Nodes:
    """Servers that are joined in one way."""

    def __init__(self, over: str, stack: ExitStack) -> None:
        self.redis: Process | None = None
        self._stack = stack
        self._url = over
        if over == WORKERS:
            self._url = f"workers://{stack.enter_context(tempfile.TemporaryDirectory())}"
        elif over == REDIS:
            self.redis = start_redis()
            stack.callback(self.redis.stop)
            self._url = f"redis://{HOST}:{self.redis.port}/0"

    def start(self, number: int) -> list[Node]:
        """Start so many, each with a client, so that it knows the others."""
        nodes = []
        for _ in range(number):
            node = Node(self._url)
            self._stack.callback(node.stop)
            self._stack.callback(Client(node).close)
            nodes.append(node)
        time.sleep(REST)
        return nodes


def start_redis() -> Process:
    """Start a Redis."""
    port = free_port()
    options = ("--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no", "--loglevel", "warning")
    return Process(subprocess.Popen(("redis-server", *options), stdout=subprocess.DEVNULL), port)


@contextmanager
def joined(over: str) -> Iterator[Nodes]:
    """Have nodes for a while."""
    with ExitStack() as stack:
        yield Nodes(over, stack)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so.

    :raises AssertionError: it does not come.
    """
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)


# The clients


class Client:
    """One client over a WebSocket; what it gets is counted in bytes, since all frames of a topic are of one size."""

    def __init__(self, node: Node) -> None:
        self.sock = socket.create_connection((HOST, node.port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(
            b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = self._read(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        self.heard = 0
        #: What it has heard when it speaks next.
        self.due = 0
        #: Perhaps the begin of a stamp.
        self._rest = b""

    def join(self, *topics: str) -> None:
        """Join topics, one after the other."""
        for topic in topics:
            self.sock.sendall(frame(topic, "phx_join"))
            assert b'"ok"' in self._read(b"}]")

    def ages(self, data: bytes) -> list[float]:
        """Return how old the broadcasts are that have just come, in ms."""
        now, data = time.monotonic_ns(), self._rest + data
        stamps = list(STAMP.finditer(data))
        self._rest = data[stamps[-1].end() if stamps else 0 :][-STAMP_SIZE:]
        return [(now - int(stamp[1])) / 1e6 for stamp in stamps]

    def close(self) -> None:
        """Go away."""
        self.sock.close()

    def _read(self, end: bytes) -> bytes:
        data = b""
        while not data.endswith(end):
            data += self.sock.recv(1)
        return data


class Crowd:
    """Clients that listen, all in this process and without a greenlet or a thread for each."""

    def __init__(self) -> None:
        self.clients: dict[int, Client] = {}
        self._epoll = select.epoll()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients.values():
            client.close()
        self._epoll.close()
        time.sleep(REST)

    def add(self, node: Node, topic: str, number: int = 1) -> list[Client]:
        """Let clients come and join a topic."""
        clients = [Client(node) for _ in range(number)]
        for client in clients:
            client.join(topic)
            client.sock.setblocking(False)
            self.clients[client.sock.fileno()] = client
            self._epoll.register(client.sock, select.EPOLLIN)
        return clients

    def hear(self, seconds: float) -> Iterator[tuple[Client, bytes]]:
        """Read for a while, and yield who has got what."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in self._epoll.poll(left):
                client = self.clients[descriptor]
                data = client.sock.recv(1 << 18)
                assert data, "a client was closed"
                yield client, data

    def hear_all(self, size: int) -> None:
        """Read until everybody has got so many bytes.

        :raises AssertionError: they do not come, or not to everybody.
        """
        missing = size * len(self.clients)
        if missing:
            for client, data in self.hear(PATIENCE):
                client.heard += len(data)
                missing -= len(data)
                if missing <= 0:
                    break
        assert all(client.heard == size for client in self.clients.values()), f"{missing} bytes are missing"
        for client in self.clients.values():
            client.heard = 0


def frame(topic: str, event: str) -> bytes:
    """Write a frame of a client."""
    text = json.dumps(["1", "1", topic, event, {}]).encode()
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text  # masked with zeros, which change nothing


def frame_size(topic: str) -> int:
    """Return the bytes of a broadcast on a topic, as a client gets it."""
    text = json.dumps([None, None, topic, "said", {"at": "0" * 20, "body": BODY}], separators=(",", ":"))
    return len(text) + (2 if len(text) < 126 else 4)


# What a broadcast costs


class Spent(NamedTuple):
    """Processor time in us: of the node that speaks, of each of those that listen, of Redis."""

    speaker: float
    listener: float
    redis: float


def spend(nodes: Nodes, speaker: Node, listeners: list[Node], clients: int, pace: Pace) -> Spent:
    """Return what one broadcast costs, to the clients of some nodes alone."""
    topic = f"room:{len(listeners)}"
    with Crowd() as crowd:
        for listener in listeners:
            crowd.add(listener, topic, clients)
        rounds = [spend_once(nodes, speaker, listeners, crowd, topic, pace) for _ in range(ROUNDS + 1)]
    return Spent(*(median(figures) for figures in zip(*rounds[1:], strict=True)))


def spend_once(
    nodes: Nodes, speaker: Node, listeners: list[Node], crowd: Crowd, topic: str, pace: Pace
) -> tuple[float, float, float]:
    """Return what one broadcast costs, of :data:`TIMES`."""
    clocks = [clock(process) for process in (speaker, *listeners, nodes.redis)]
    with speaker.saying(topic, TIMES, pace):
        crowd.hear_all(TIMES * frame_size(topic))
    time.sleep(REST)
    spoken, *heard, redis = (spent() / TIMES * 1e6 for spent in clocks)
    return spoken, sum(heard) / max(len(heard), 1), redis


def clock(process: Process | None) -> Callable[[], float]:
    """Return what tells how much processor time a process has taken from now on."""
    if process is None:
        return lambda: 0.0
    began = process.cpu()
    return lambda: process.cpu() - began


def measure_broadcasts(over: str) -> None:
    """Print what a broadcast costs those who take part in it."""
    print("\nCPU of one broadcast in us, saying it included\n")
    print("  pace                    nodes that  clients  the one     each that  Redis")
    print("                          listen      of each  that says   listens")
    layout = "  {:22}  {:>10}  {:7}  {:9.0f}  {:10.0f}  {:5.0f}"
    with joined(over) as nodes:
        speaker, *others = nodes.start(1 + (max(LISTENERS) if over != ALONE else 0))
        for pace in (STEADY, BURSTS):
            print(layout.format(pace.name, "none", 0, *spend(nodes, speaker, [], 0, pace)))
            for listeners, clients in product(([speaker], *(others[:number] for number in LISTENERS if others)), SIZES):
                spent = spend(nodes, speaker, listeners, clients, pace)
                name = "itself" if listeners == [speaker] else len(listeners)
                print(layout.format(pace.name, name, clients, *spent), flush=True)


# How long it takes


def measure_latency(over: str) -> None:
    """Print how old broadcasts are when they arrive, at clients of the same node and of another one."""
    print("\nFrom broadcast to client in ms, 100 broadcasts a second\n")
    print("  clients of each node   same node: p50     p99   other node: p50     p99   CPU of this process")
    for clients in CROWDS:
        with joined(over) as nodes, Crowd() as crowd:
            here, *there = nodes.start(1 + (over != ALONE))
            for node in (here, *there):
                crowd.add(node, "room:1", clients)
            own = {client.sock.fileno() for client in list(crowd.clients.values())[:clients]}
            near, far = list[float](), list[float]()
            began = time.process_time()
            with here.saying("room:1", int(LOOK * 100), Pace("", 1, 0.01)):
                for client, data in crowd.hear(LOOK + REST):
                    (near if client.sock.fileno() in own else far).extend(client.ages(data))
            used = (time.process_time() - began) / LOOK
        (half, most), (far_half, far_most) = percentiles(near), percentiles(far)
        print(
            f"  {clients:20}   {half:14.2f}  {most:6.2f}   {far_half:15.2f}  {far_most:6.2f}   {used * 100:17.0f} %",
            flush=True,
        )


def percentiles(ages: list[float]) -> tuple[float, float]:
    """Return the middle of some figures, and what all but one in a hundred stay below; no number if there are none."""
    if not ages:
        return float("nan"), float("nan")
    cuts = quantiles(ages, n=100)
    return cuts[49], cuts[98]


# Rooms at a steady rate


def measure_rooms(over: str) -> None:
    """Print what messages cost in many small rooms whose members are everywhere, by how many there are a second."""
    number = 1 if over == ALONE else NODES
    print(
        f"\n{ROOMS} rooms of {MEMBERS} clients on {number} nodes: a message of a client, from it to all of its room\n"
    )
    print("  messages a second   CPU over all nodes   Redis    in ms: p50     p99   CPU of this process")
    with joined(over) as nodes, Crowd() as crowd:
        servers = nodes.start(number)
        speakers = {}
        for room in range(ROOMS):
            topic = f"room:{room:04}"
            members = [crowd.add(server, topic, MEMBERS // number) for server in servers]
            speakers[members[room % number][0]] = frame(topic, "say")
        for rate in RATES:
            clocks = [clock(process) for process in (nodes.redis, *servers)]
            began, times = time.process_time(), int(rate * RUN)
            ages = chat(crowd, speakers, rate, times)
            redis, *spent = (each() / times * 1e6 for each in clocks)
            here = (time.process_time() - began) / RUN
            assert len(ages) == times * MEMBERS, f"{len(ages)} deliveries of {times * MEMBERS}"
            half, most = percentiles(ages)
            figures = f"{sum(spent):15.0f} us   {redis:3.0f} us   {half:11.2f}  {most:6.2f}   {here:17.0%}"
            print(f"  {rate:17}   {figures}", flush=True)


def chat(crowd: Crowd, speakers: dict[Client, bytes], rate: int, times: int) -> list[float]:
    """Let the speakers speak in turn; return how old each broadcast was when it came, in ms."""
    ages, turns, began = list[float](), cycle(speakers.items()), time.monotonic()
    for number in range(1, times + 1):
        speaker, words = next(turns)
        speaker.sock.sendall(words)
        for client, data in crowd.hear(max(1e-6, began + number / rate - time.monotonic())):
            ages += client.ages(data)
    missing = times * MEMBERS - len(ages)
    for client, data in crowd.hear(PATIENCE if missing else 0):
        came = client.ages(data)
        ages, missing = ages + came, missing - len(came)
        if not missing:
            break
    return ages


# What topics and silence cost


def measure_topics(over: str) -> None:
    """Print what it costs to be the first on a topic."""
    print("\nCPU of a join in us, by a client that is on the node already\n")
    print("  other nodes   first of its topic on the node   not the first   each other node   Redis")
    topics = [f"room:{each}" for each in range(TOPICS)]
    for number in LISTENERS if over != ALONE else (0,):
        with joined(over) as nodes, ExitStack() as stack:
            node, *others = nodes.start(1 + number)
            first, second = (stack.enter_context(closing(Client(node))) for _ in range(2))
            clocks = [clock(process) for process in (node, nodes.redis, *others)]
            first.join(*topics)
            entered, redis, *told = (spent() / TOPICS * 1e6 for spent in clocks)
            spent = clock(node)
            second.join(*topics)
            again = spent() / TOPICS * 1e6
        each = sum(told) / max(number, 1)
        print(f"  {number:11}   {entered:30.0f}   {again:13.0f}   {each:15.0f}   {redis:5.0f}", flush=True)


def measure_idle(over: str) -> None:
    """Print what nodes cost that have one silent client each, and one presence."""
    print("\nIdle nodes\n")
    print("  nodes   CPU of each node   CPU of Redis   memory of each")
    for number in IDLERS if over != ALONE else (1,):
        with joined(over) as nodes:
            idlers = nodes.start(number)
            time.sleep(1)
            clocks = [clock(process) for process in (nodes.redis, *idlers)]
            time.sleep(IDLE)
            redis, *spent = (each() / IDLE * 100 for each in clocks)
            memory = sum(node.memory() for node in idlers) / number / 1024
        print(f"  {number:5}   {sum(spent) / number:14.3f} %   {redis:10.3f} %   {memory:10.0f} MiB", flush=True)


def measure_clients(over: str) -> None:
    """Print what clients cost that come, join a topic and are silent; a first crowd uses up what was free."""
    with joined(over) as nodes, Crowd() as crowd:
        (node,) = nodes.start(1)
        crowd.add(node, "room:1", CLIENTS)
        before, spent = node.memory(), clock(node)
        crowd.add(node, "room:1", CLIENTS)
        come, memory = spent() / CLIENTS * 1e6, (node.memory() - before) / CLIENTS
        spent, beats = clock(node), 5 * CLIENTS
        for number, client in enumerate(list(crowd.clients.values()) * (beats // len(crowd.clients))):
            client.sock.sendall(frame("phoenix", "heartbeat"))
            if not number % 10:  # as they come from clients that know nothing of each other
                time.sleep(0.005)
        time.sleep(REST)
        beat = spent() / beats * 1e6
    print(f"\nA client: {memory:.0f} KiB; {come:.0f} us of CPU to come and join, {beat:.0f} us for each heartbeat")


def measure_polls(over: str) -> None:
    """Print what the requests of a client that polls cost, at the node of its session and at another one."""
    print("\nA client that polls: CPU of a message from it and of the poll that gets the answer, in us\n")
    print("  the requests land on                  its node   the other node   Redis")
    with joined(over) as nodes:
        home, *others = nodes.start(1 + (over != ALONE))
        for name, target in (("the node of the session", home), *(("another one", other) for other in others)):
            clocks = [clock(process) for process in (home, *others, nodes.redis)]
            poll(home, target)
            spent = [each() / POLLS * 1e6 for each in clocks]
            print(f"  {name:36}  {spent[0]:8.0f}   {sum(spent[1:-1]):14.0f}   {spent[-1]:5.0f}", flush=True)


def poll(home: Node, target: Node) -> None:
    """Begin a session on one node, and go on with it on that or another: say something, and fetch the answer."""
    with closing(HTTPConnection(HOST, home.port)) as road:
        token = ask(road, "GET", "/socket/longpoll?vsn=2.0.0")["token"]
    path = f"/socket/longpoll?vsn=2.0.0&token={token}"
    with closing(HTTPConnection(HOST, target.port)) as road:
        for _ in range(POLLS):
            assert ask(road, "POST", path, '["1","1","phoenix","heartbeat",{}]')["status"] == 200
            assert ask(road, "GET", path)["status"] == 200


def ask(road: HTTPConnection, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """Send a request and return its answer."""
    road.request(method, path, body, {"Content-Type": "application/x-ndjson"} if body else {})
    answer: dict[str, Any] = json.loads(road.getresponse().read())
    return answer


# One against two


class Way(NamedTuple):
    """Where the members of a room are."""

    name: str
    nodes: int
    #: The rooms, and how many speak in each.
    rooms: int
    speakers: int
    #: The members of a room are on all nodes.
    across: bool


SMALL = CLIENTS // ROOM
WAYS = (
    Way("a room for each, 1 node", 1, CLIENTS, 1, True),
    Way(f"rooms of {ROOM}, 1 node", 1, SMALL, 1, True),
    Way(f"rooms of {ROOM}, 2 nodes, each on one", 2, SMALL, 1, False),
    Way(f"rooms of {ROOM}, 2 nodes, each on both", 2, SMALL, 1, True),
    Way(f"one room of {CLIENTS}, 1 node", 1, 1, SPEAKERS, True),
    Way(f"one room of {CLIENTS}, 2 nodes", 2, 1, SPEAKERS, True),
)


LINE = "  {:36}  {:>13}  {:>10}  {:>8}  {:>7}  {:>5}  {:>5}  {:>5}  {:>5}"


def measure_throughput(over: str) -> None:
    """Print how much gets through when somebody in each room speaks as soon as he has heard himself.

    Deliveries a second are those of this machine, on which the clients work too, and whatever else there is; how much a
    node delivers that has a core for itself is reckoned from the processor time of the busiest.
    """
    print(f"\nAs fast as it goes: {CLIENTS} clients; CPU in shares of one core\n")
    print(LINE.format("", "if a node had", "deliveries", "CPU of a", "busiest", "all", "", "", ""))
    print(LINE.format("", "a core", "a second", "delivery", "node", "nodes", "Redis", "here", "rest"))
    for way in WAYS:
        if over != ALONE or way.nodes == 1 or not way.across:
            with joined(over) as nodes:
                run(nodes, way)


def run(nodes: Nodes, way: Way) -> None:
    """Let them speak."""
    servers = nodes.start(way.nodes)
    with Crowd() as crowd:
        speakers = settle(crowd, servers, way)
        for _ in range(2):  # the first one is to warm up
            clocks = [clock(process) for process in (nodes.redis, *servers)]
            began, own, machine = time.monotonic(), time.process_time(), busy()
            deliveries = speak(crowd, speakers)
            took, here, machine = time.monotonic() - began, time.process_time() - own, busy() - machine
            redis, *spent = (each() for each in clocks)
    rest = machine - sum(spent) - redis - here
    rates = f"{deliveries / max(spent):.0f}", f"{deliveries / took:.0f}", f"{sum(spent) / deliveries * 1e6:.1f} us"
    shares = (f"{share / took:.0%}" for share in (max(spent), sum(spent), redis, here, rest))
    print(LINE.format(way.name, *rates, *shares), flush=True)


def busy() -> float:
    """Return the seconds that all processors of this machine have worked, for whatever."""
    user, nice, system, _, _, *interrupts = (int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def settle(crowd: Crowd, servers: list[Node], way: Way) -> dict[Client, bytes]:
    """Let everybody join; return what the speakers say."""
    speakers = {}
    for room in range(way.rooms):
        topic = f"room:{room:04}"
        homes = servers if way.across else [servers[room % way.nodes]]
        members = [crowd.add(home, topic, CLIENTS // way.rooms // len(homes)) for home in homes]
        for number in range(way.speakers):  # on each of the nodes in turn
            speakers[members[(room + number) % len(members)][number]] = frame(topic, "say")
    return speakers


def speak(crowd: Crowd, speakers: dict[Client, bytes]) -> int:
    """Let everybody speak who has heard himself; return how many broadcasts have reached a client."""
    size, heard = frame_size("room:0000"), 0
    for speaker, words in speakers.items():
        speaker.sock.sendall(words)
        speaker.due = speaker.heard = 0
    for client, data in crowd.hear(RUN):
        heard += len(data)
        if client in speakers:
            client.heard += len(data)
            if client.heard >= client.due + size:
                client.due = client.heard
                client.sock.sendall(speakers[client])
    heard += sum(len(data) for _, data in crowd.hear(REST))  # what was underway
    return heard // size


FIGURES: dict[str, Callable[[str], None]] = {
    "broadcasts": measure_broadcasts,
    "latency": measure_latency,
    "rooms": measure_rooms,
    "topics": measure_topics,
    "polls": measure_polls,
    "clients": measure_clients,
    "idle": measure_idle,
    "throughput": measure_throughput,
}


def main() -> None:
    """Print figures, or serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"some of {', '.join(FIGURES)}; all, unless given")
    parser.add_argument("--over", choices=(ALONE, WORKERS, REDIS), action="append", help="what joins the nodes")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        app, phoenix = make_app()
        phoenix.run(app, port=arguments.serve, log=None, backlog=1024)
        return
    for over in arguments.over or (ALONE, WORKERS, *((REDIS,) if shutil.which("redis-server") else ())):
        print(f"\n=== {over} ===", flush=True)
        for figure in arguments.figures or FIGURES:
            FIGURES[figure](over)


if __name__ == "__main__":
    main()
