"""What clients that poll cost, and whether each gets every broadcast once and in order.

``python benchmarks/longpoll.py``. A server in a process of its own, and in this one many clients on one topic, over the
loopback interface. The figures are the server's: the processor time and the resident memory of its process. It takes
about a minute, and needs Linux.
"""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import gc
import itertools
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
from flask import Flask, request
from gevent.event import Event
from gevent.pool import Pool

from flask_phoenix import Channel, Phoenix, Socket

HOST = "127.0.0.1"
TOPIC = "room:all"
#: Whole, in seconds.
LIMIT = 240
#: Seconds that a poll waits: for clients that are looked at while they wait, and for those whose polls come and go.
LONG, SHORT = 30.0, 3.0
#: Text in each broadcast, so that a frame has about a hundred bytes.
BODY = "x" * 60
#: Clients that open a session at the same time.
CROWD = 20
#: Seconds that a broadcast may take to reach everybody.
PATIENCE = 30


# The server


def make_app() -> tuple[Flask, Phoenix]:
    """Make an app with one topic for all, that broadcasts when it is told to."""
    app = Flask(__name__)
    app.secret_key = "of this benchmark"
    phoenix = Phoenix(app)
    numbers = itertools.count()

    @phoenix.socket("/long", websocket=False, longpoll={"window": LONG})
    @phoenix.socket("/short", websocket=False, longpoll={"window": SHORT})
    class UserSocket(Socket):
        pass

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            pass

    @app.post("/say")
    def say() -> dict[str, Any]:
        for _ in range(int(request.args["times"])):
            phoenix.broadcast(TOPIC, "tick", {"n": next(numbers), "body": BODY})
        return {}

    @app.get("/cpu")
    def cpu() -> dict[str, float]:
        return {"seconds": time.process_time()}

    @app.get("/memory")
    def memory() -> dict[str, float]:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        return {"kib": kib, "sessions": phoenix.connection_count()}

    return app, phoenix


class Server:
    """A server in a process of its own."""

    def __init__(self) -> None:
        with socket.create_server((HOST, 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.port)])
        self._road = HTTPConnection(HOST, self.port)
        while True:
            try:
                self._road.connect()
                return
            except ConnectionRefusedError:
                gevent.sleep(0.05)

    def say(self, times: int) -> None:
        """Let it broadcast."""
        ask(self._road, "POST", f"/say?times={times}")

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken."""
        return float(ask(self._road, "GET", "/cpu")["seconds"])

    def memory(self, sessions: int) -> float:
        """Return the KiB of its memory.

        :raises AssertionError: it does not have so many sessions.
        """
        answer = ask(self._road, "GET", "/memory")
        assert answer["sessions"] == sessions, answer
        return float(answer["kib"])

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


def ask(road: HTTPConnection, method: str, path: str, body: str | None = None) -> dict[str, Any]:
    """Send a request and return its answer."""
    road.request(method, path, body, {"Content-Type": "application/x-ndjson"} if body else {})
    answer: dict[str, Any] = json.loads(road.getresponse().read())
    return answer


class Client:
    """One session.

    :param mount: the path of its socket.
    :param hurried: it waits between its polls, and now and then begins a poll beside one that waits.
    """

    def __init__(self, port: int, mount: str, hurried: bool = False) -> None:
        self._port = port
        self._url = f"{mount}/longpoll?vsn=2.0.0"
        self._hurried = hurried
        self._road = HTTPConnection(HOST, port)
        self.beside: list[gevent.Greenlet[..., None]] = []
        #: What each poll brought, in the order of the polls; and the same of those that were begun beside others.
        self._brought: list[list[int]] = []
        self._brought_beside: list[list[int]] = []
        self._enough = 0
        self.heard = 0
        self.polls = 0
        self.empty = 0
        self.done = Event()

    def open(self) -> None:
        """Begin a session and join; then go away for a while."""
        self._url += "&token=" + ask(self._road, "GET", self._url)["token"]
        assert ask(self._road, "POST", self._url, json.dumps(["1", "1", TOPIC, "phx_join", {}])) == {"status": 200}
        assert ask(self._road, "GET", self._url)["status"] == 200
        self._road.close()

    def expect(self, heard: int) -> None:
        """Let :attr:`done` tell when so many broadcasts have arrived."""
        self._enough = heard
        self.done.clear()
        self._look()

    def run(self) -> None:
        """Poll for ever."""
        while True:
            if self._hurried:
                gevent.sleep(random.random() * 0.05)
                if random.random() < 0.05:
                    road = HTTPConnection(HOST, self._port)
                    self.beside.append(gevent.spawn(self._poll, road, self._brought_beside))
                    gevent.sleep(random.random() * 0.01)
            self._poll(self._road, self._brought)

    def end(self) -> None:
        """Wait for the polls that were begun beside others, and close."""
        gevent.joinall(self.beside, raise_error=True)
        self._road.close()

    def gone_wrong(self, total: int) -> list[int] | None:
        """Return what was heard, unless that is every broadcast, once, in order.

        Of two polls at a time nobody can tell which one the server saw first; but each brings a piece without gaps.
        """
        heard = list(itertools.chain(*self._brought))
        pieces = sorted(self._brought + self._brought_beside)
        right = heard == sorted(heard) and list(itertools.chain(*pieces)) == list(range(total))
        return None if right else heard

    def _poll(self, road: HTTPConnection, brought: list[list[int]]) -> None:
        answer = ask(road, "GET", self._url)
        assert answer["status"] in (200, 204), answer
        numbers = [json.loads(message)[4]["n"] for message in answer["messages"]]
        self.polls += 1
        self.empty += not numbers
        self.heard += len(numbers)
        brought.append(numbers)
        self._look()

    def _look(self) -> None:
        if self.heard >= self._enough:
            self.done.set()


def opened(client: Client) -> Client:
    """Open a client's session."""
    client.open()
    return client


class Crowd:
    """All the clients of one server."""

    def __init__(self, server: Server, mount: str, sessions: int, hurried: bool = False) -> None:
        self._server = server
        self.clients = [Client(server.port, mount, hurried) for _ in range(sessions)]
        self._running: list[gevent.Greenlet[..., None]] = []
        self.said = 0

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        gevent.killall(self._running + [poll for client in self.clients for poll in client.beside])

    def open(self) -> None:
        """Let everybody join."""
        for _ in Pool(CROWD).imap_unordered(opened, self.clients):
            pass

    def run(self) -> None:
        """Let everybody poll."""
        self._running = [gevent.spawn(client.run) for client in self.clients]

    def open_and_run(self) -> None:
        """Let everybody join, and poll at once."""
        for client in Pool(CROWD).imap_unordered(opened, self.clients):
            self._running.append(gevent.spawn(client.run))

    def hear(self, times: int) -> None:
        """Broadcast, and wait until everybody has heard it."""
        self.said += times
        for client in self.clients:
            client.expect(self.said)
        self._server.say(times)
        for client in self.clients:
            assert client.done.wait(PATIENCE), f"a client has heard {client.heard} of {self.said} broadcasts"

    def end(self) -> None:
        """Stop polling.

        :raises AssertionError: somebody did not hear every broadcast, once, in order.
        """
        gevent.killall(self._running)
        for client in self.clients:
            client.end()
        wrong = [heard for client in self.clients if (heard := client.gone_wrong(self.said)) is not None]
        assert not wrong, f"{len(wrong)} of {len(self.clients)} clients heard otherwise, the first {wrong[0]}"


# The figures


def measure_memory(sessions: int) -> None:
    """Print memory for each session; a first crowd uses up what the start of the server has left free."""
    with serving() as server, Crowd(server, "/long", sessions) as second:
        first = Crowd(server, "/long", sessions)
        first.open()
        before = server.memory(sessions)
        second.open()
        idle = server.memory(2 * sessions) - before
        second.run()
        gevent.sleep(2)
        waiting = server.memory(2 * sessions) - before
        print(f"{idle / sessions:8.1f} KiB a session between two polls")
        print(f"{waiting / sessions:8.1f} KiB a session whose poll waits")


def measure_deliveries(sessions: int) -> None:
    """Print processor time for each delivery."""
    with serving() as server, Crowd(server, "/long", sessions) as crowd:
        crowd.open_and_run()
        for times, rounds in ((1, 20), (16, 5)):
            began = server.cpu()
            for _ in range(rounds):
                crowd.hear(times)
            spent = server.cpu() - began
            print(f"{spent / sessions / times / rounds * 1e6:8.1f} us of CPU a delivery, {times} at a time")
        crowd.end()


def measure_silence(sessions: int) -> None:
    """Print the processor time of a poll that gets nothing."""
    with serving() as server, Crowd(server, "/short", sessions) as crowd:
        crowd.open_and_run()
        gevent.sleep(2)
        before, began = sum(client.polls for client in crowd.clients), server.cpu()
        gevent.sleep(8)
        polls, spent = sum(client.polls for client in crowd.clients) - before, server.cpu() - began
        crowd.end()
        print(f"{spent / polls * 1e6:8.1f} us of CPU a poll that gets nothing")
        print(
            f"{spent / polls * sessions / 10 * 100:8.1f} % of a core for all of them in silence, with a window of 10 s"
        )


def check_order(sessions: int) -> None:
    """Broadcast at odd times while polls come and go, and see that nothing is lost, doubled or disordered."""
    with serving() as server, Crowd(server, "/short", sessions, hurried=True) as crowd:
        crowd.open_and_run()
        for _ in range(10):
            for _ in range(3):
                crowd.said += (times := random.choice((1, 1, 2, 5, 20)))
                server.say(times)
                gevent.sleep(random.choice((0, 0, 0.01, 0.1, 0.5)))
            crowd.hear(1)
            gevent.sleep(random.choice((0, 0, 0.1, SHORT)))
        crowd.end()
    polls, empty = (sum(getattr(client, name) for client in crowd.clients) for name in ("polls", "empty"))
    print(
        f"{crowd.said} broadcasts reached each of {sessions} sessions once and in order,"
        f" in {polls} polls ({empty} empty)"
    )


def main() -> None:
    """Print all figures, or serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        app, phoenix = make_app()
        phoenix.run(app, port=arguments.serve, log=None, backlog=1024)
        return
    with gevent.Timeout(LIMIT):
        for figure in (measure_memory, measure_deliveries, measure_silence, check_order):
            figure(arguments.sessions)


if __name__ == "__main__":
    main()
