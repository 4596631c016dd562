"""1,000 clients that poll, in one room: processor time of the server for each delivery, one message and 16 at a time.

The clients are in this process. What it does more than a client in C costs time, and nothing of the server.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial

from benchmarks.contenders import OURS, SOCKETIO, Contender
from benchmarks.harness import HOST, Bench, FailedError, Figures, Running, Table

#: Seconds that something may take.
PATIENCE = 60.0
#: Messages at a time, by how often.
ROUNDS = {1: 15, 16: 5}
PAD = "x" * 60


@dataclass(frozen=True)
class Polled:
    """What clients that poll say to a server."""

    path: str
    #: What tells a new session in the answer to its first poll, and what it is called in a URL.
    token: str
    parameter: str
    #: What is posted then, and what the polls answer when it is done.
    steps: tuple[tuple[str, str], ...]
    #: A message; what joins several, and what each delivery has once.
    message: str
    glue: str
    mark: bytes


PHOENIX = Polled(
    "/socket/longpoll?vsn=2.0.0",
    '"token":"',
    "token",
    (('["1","1","room:0","phx_join",{}]', "phx_reply"),),
    f'["1","2","room:0","new_msg",{{"pad":"{PAD}"}}]',
    "\n",
    b"new_msg",
)
ENGINE = Polled(
    "/socket.io/?EIO=4&transport=polling",
    '"sid":"',
    "sid",
    (("40", "40{"), ('42["join","0"]', "joined")),
    f'42["new_msg","0",{{"pad":"{PAD}"}}]',
    "\x1e",
    b"new_msg",
)
WAYS: tuple[tuple[Contender, Polled], ...] = ((OURS, PHOENIX), (SOCKETIO, ENGINE))


def ask(bench: Bench) -> Table:
    """Measure those that can be polled."""
    n, ways = bench.size(1000, 100), {contender.name: polled for contender, polled in WAYS}

    def poll(contender: Contender) -> Figures:
        with bench.running(contender) as running:
            return deliveries(running, ways[contender.name], n)

    return bench.measure((contender for contender, _ in WAYS), poll, rounds=min(bench.rounds, 2))


def deliveries(running: Running, polled: Polled, n: int) -> Figures:
    """Return what a delivery costs."""
    node, figures = running.nodes[0], Figures()
    before = node.memory()
    with crowded(node.port, polled, n) as crowd:
        time.sleep(0.5)  # in which the polls of all are there
        figures["a client that polls, KiB"] = (node.memory() - before) / n
        for times, rounds in ROUNDS.items():
            crowd.change_speaker()
            began = node.cpu()
            for _ in range(rounds):
                crowd.hear(times)
            figures[f"{times} at a time, µs"] = (node.cpu() - began) / n / times / rounds * 1e6
    return figures


class Poller:
    """One client, with one request underway."""

    def __init__(self, port: int, polled: Polled) -> None:
        self.sock = socket.create_connection((HOST, port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = 0
        self._polled = polled
        self._path = polled.path
        self._read = b""
        token = self._ask("GET").split(polled.token.encode(), 1)[1].split(b'"', 1)[0].decode()
        self._path += f"&{polled.parameter}={token}"
        for said, answer in polled.steps:
            self._ask("POST", said)
            while answer.encode() not in self._ask("GET"):
                pass

    def poll(self) -> None:
        """Begin a poll."""
        self._send("GET")

    def say(self, times: int) -> None:
        """Say something so often, in one request."""
        self._ask("POST", self._polled.glue.join([self._polled.message] * times))

    def take(self) -> bool:
        """Take what has come of the answer to a poll; return whether it is whole."""
        data = self.sock.recv(1 << 18)
        if not data:
            raise FailedError("a poll was ended by the server")
        body = self._whole(data)
        if body is None:
            return False
        self.heard += body.count(self._polled.mark)
        if body == b"2":  # a ping of Engine.IO
            self._ask("POST", "3")
        return True

    def _send(self, method: str, body: str = "") -> None:
        head = f"{method} {self._path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        kind = "Content-Type: text/plain\r\n" if self._polled is ENGINE else "Content-Type: application/x-ndjson\r\n"
        self.sock.sendall(f"{head}{kind if body else ''}\r\n{body}".encode())

    def _ask(self, method: str, body: str = "") -> bytes:
        self._send(method, body)
        while (answer := self._whole(self.sock.recv(1 << 18))) is None:
            pass
        return answer

    def _whole(self, data: bytes) -> bytes | None:
        """Return the body of a response that has come to its end."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return None
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 204")):
            raise FailedError(f"a request was answered {head[:40]!r}")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if b"content-length" in fields:
            done = len(body) >= int(fields[b"content-length"])
        else:
            done = body.endswith(b"0\r\n\r\n")
        if done:
            self._read = b""
        return body if done else None


class Crowd:
    """Clients that poll, and one that speaks."""

    def __init__(self, port: int, polled: Polled, n: int) -> None:
        self._make = partial(Poller, port, polled)
        self._pollers: dict[int, Poller] = {}
        self._epoll = select.epoll()
        for _ in range(n):
            poller = self._make()
            self._pollers[poller.sock.fileno()] = poller
            self._epoll.register(poller.sock, select.EPOLLIN)
            poller.poll()
            self._attend(0)  # of those who came first, an answer to a ping is due before the last has come
        self._speaker = self._make()

    def change_speaker(self) -> None:
        """Let somebody else speak: who speaks does not poll, and its session ends after a while."""
        self._speaker.sock.close()
        self._speaker = self._make()

    def hear(self, times: int) -> None:
        """Let something be said, and wait until everybody has heard it.

        :raises FailedError: somebody does not hear it.
        """
        missing = times * len(self._pollers)
        self._speaker.say(times)
        deadline = time.monotonic() + PATIENCE
        while missing:
            if time.monotonic() > deadline:
                raise FailedError(f"{missing} deliveries are missing after {PATIENCE:.0f} s")
            missing -= self._attend(1)

    def _attend(self, seconds: float) -> int:
        """Take what has come, wait so long for it at most, and poll again; return how many deliveries it was."""
        heard = 0
        for descriptor, _ in self._epoll.poll(seconds):
            poller = self._pollers[descriptor]
            before = poller.heard
            if poller.take():
                heard += poller.heard - before
                poller.poll()
        return heard

    def close(self) -> None:
        """Go away."""
        for poller in (self._speaker, *self._pollers.values()):
            poller.sock.close()
        self._epoll.close()


@contextmanager
def crowded(port: int, polled: Polled, n: int) -> Iterator[Crowd]:
    """Have a crowd for a while."""
    with closing(Crowd(port, polled, n)) as crowd:
        yield crowd
