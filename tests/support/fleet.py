"""Several processes that serve one app, and clients that know to which of them they are connected."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.support.processes import DEADLINE, HOST, START, Server, Servers, wait_until

GUNICORN = (sys.executable, "-m", "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "-k", "gevent")
APP = "tests.support.scale_app:app"
WORKERS = 3
#: The header in which each answer of that app, the one to a handshake included, names its process.
WORKER = "X-Worker"
#: Seconds between two looks at what is waited for.
TICK = 0.02

#: What is expected of a presence: the metas of each key.
Expected = dict[str, list[dict[str, Any]]]
Presences = dict[str, dict[str, Any]]
Found = TypeVar("Found")


class Answer(NamedTuple):
    """An answer over HTTP, and the process that gave it."""

    worker: int
    value: Any


class Client:
    """One client on one topic; each transport carries its frames in its own way.

    What is told of a presence is folded as the npm client's Presence does it.
    """

    #: The process that it is connected to.
    worker: int

    def __init__(self) -> None:
        self.topic = ""
        #: The events on the topic, but for those of the presence, with their payloads, as they came.
        self.heard: list[tuple[str, Any]] = []
        self.state: Presences = {}
        self._pending: list[dict[str, Presences]] | None = []
        self._refs = count(1)
        self._join_ref: str | None = None
        #: The topics whose channels the server has ended.
        self.ended: list[str] = []
        self._replies: dict[str, dict[str, Any]] = {}

    def join(self, topic: str, payload: Any = None) -> Any:
        """Join a topic; return the response."""
        self.topic, self._join_ref, self._pending = topic, str(next(self._refs)), []
        return self._reply(self._say(self._join_ref, "phx_join", payload))

    def push(self, event: str, payload: Any = None) -> Any:
        """Send an event; return the response."""
        return self._reply(self._say(str(next(self._refs)), event, payload))

    def leave(self) -> None:
        """Leave the topic."""
        self.push("phx_leave")
        self.state = {}

    def drain(self) -> None:
        """Take all that has come."""
        while self.pump(0):
            pass

    def await_heard(self, number: int) -> list[tuple[str, Any]]:
        """Return all events, once there are so many and what was on its way has come."""
        assert self.wait_for(lambda: len(self.heard) >= number), f"expected {number} events, got {self.heard}"
        self.push("echo", {})
        return self.heard

    def await_end(self) -> str:
        """Wait until the server has ended a channel; return its topic."""
        assert self.wait_for(lambda: bool(self.ended)), f"{self.topic} is still open"
        return self.ended.pop()

    def wait_for(self, condition: Callable[[], bool], within: float = DEADLINE) -> bool:
        """Listen until a condition holds; return whether it did before the deadline."""
        return wait_until(condition, lambda: self.pump(within), within)

    def pump(self, seconds: float) -> bool:
        """Take the next frame, if one comes in so many seconds; return whether one came."""
        text = self.read(seconds)
        if text is None:
            return False
        _, ref, topic, event, payload = json.loads(text)
        assert topic in (self.topic, "phoenix"), text
        if event == "phx_reply":
            self._replies[ref] = payload
        elif event == "presence_state":
            self.state, pending, self._pending = payload, self._pending or [], None
            for diff in pending:
                self.state = fold(self.state, **diff)
        elif event == "presence_diff" and self._pending is not None:
            self._pending.append(payload)
        elif event == "presence_diff":
            self.state = fold(self.state, **payload)
        elif event == "phx_close":
            self.ended.append(topic)
        else:
            assert event != "phx_error", f"the channel on {topic} has crashed"
            self.heard.append((event, payload))
        return True

    def write(self, text: str) -> None:
        """Send a frame."""
        raise NotImplementedError

    def read(self, seconds: float) -> str | None:
        """Receive a frame; None if none comes in so many seconds."""
        raise NotImplementedError

    def close(self) -> None:
        """Go away, without a word of the channel."""
        raise NotImplementedError

    def _say(self, ref: str, event: str, payload: Any) -> str:
        self.write(json.dumps([self._join_ref, ref, self.topic, event, payload or {}]))
        return ref

    def _reply(self, ref: str) -> Any:
        assert self.wait_for(lambda: ref in self._replies), f"no reply to {ref} on {self.topic}"
        reply = self._replies.pop(ref)
        assert reply["status"] == "ok", reply
        return reply["response"]


class Tab(Client):
    """Over a WebSocket."""

    def __init__(self, server: Server, **params: str) -> None:
        super().__init__()
        url = server.url(f"/socket/websocket?{urlencode({'vsn': '2.0.0', **params})}", "ws")
        self._stack = ExitStack()
        # Without a bound on what has come: with one, nothing is read beyond it, the answer to a close neither.
        bounds: dict[str, Any] = {"max_queue": None, "open_timeout": DEADLINE, "close_timeout": DEADLINE}
        self._socket = self._stack.enter_context(connect(url, compression=None, proxy=None, **bounds))
        assert self._socket.response is not None
        self.worker = int(self._socket.response.headers[WORKER])

    def write(self, text: str) -> None:
        self._socket.send(text)

    def read(self, seconds: float) -> str | None:
        try:
            text = self._socket.recv(seconds)
        except TimeoutError:
            return None
        assert isinstance(text, str)
        return text

    def closed(self) -> int | None:
        """Wait until the server has closed the connection; return the code, None where it was torn down."""
        try:
            while self.pump(DEADLINE):
                pass
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None
        raise AssertionError("the connection is still open")

    def close(self) -> None:
        self._stack.close()


class Poller(Client):
    """Over requests, each on a connection of its own, so that any process may get it."""

    def __init__(self, fleet: Fleet, **params: str) -> None:
        super().__init__()
        self._fleet = fleet
        self._query = {"vsn": "2.0.0", **params}
        self._frames: list[str] = []
        self._token = ""
        #: The processes that have answered.
        self.workers: set[int] = set()
        opened = self.request("GET")
        assert (opened.value["status"], opened.value["messages"]) == (410, []), opened
        self._token, self.worker = opened.value["token"], opened.worker

    def write(self, text: str) -> None:
        self._post(text)

    def read(self, seconds: float) -> str | None:
        if not self._frames:
            answer = self.request("GET").value
            assert answer["status"] in (200, 204), answer
            self._frames = answer["messages"]
        return self._frames.pop(0) if self._frames else None

    def request(self, method: str, body: str | None = None) -> Answer:
        """Ask, and return what is answered."""
        headers = {"X-Phoenix-Longpoll-Token": self._token} if self._token else {}
        if body is not None:
            headers["Content-Type"] = "application/x-ndjson"
        answer = self._fleet.ask(method, "/socket/longpoll", body, headers, **self._query)
        self.workers.add(answer.worker)
        return answer

    def close(self) -> None:
        """Poll no more."""

    def _post(self, body: str) -> None:
        assert self.request("POST", body).value == {"status": 200}


class Fleet:
    """The workers of one server of gunicorn."""

    def __init__(self, server: Server, workers: int = WORKERS) -> None:
        self.server = server
        self.size = workers
        self._clients = ExitStack()

    def pids(self) -> set[int]:
        """Return the workers, those that boot or end included."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def workers(self, without: Iterable[int] = ()) -> set[int]:
        """Return the workers, all but some, once there are as many as there should be and each of them answers.

        :param without: those that do not count, and do not answer, if they still are.
        """
        answered, gone = set[int](), set(without)

        def complete() -> bool:
            return len(workers := self.pids() - gone) == self.size - len(gone & self.pids()) and workers <= answered

        def ask() -> None:
            try:
                worker = self.ask("GET").worker
            except TimeoutError:  # all of them boot yet, which takes its time on a busy machine
                return
            if worker in answered:  # the others may need the processor, to boot
                self.wait_briefly()
            answered.add(worker)

        assert wait_until(complete, ask, START), f"of {self.pids()} these answer: {answered}"
        return self.pids() - gone

    def wait_briefly(self) -> None:
        """Let a moment pass, unless the server ends."""
        with suppress(TimeoutExpired):
            self.server.process.wait(TICK)

    def ask(
        self, method: str, path: str = "/", body: str | None = None, headers: dict[str, str] | None = None, **query: str
    ) -> Answer:
        """Ask whichever worker takes a new connection."""
        connection = http.client.HTTPConnection(HOST, self.server.port, timeout=2 * DEADLINE)
        try:
            connection.request(method, f"{path}?{urlencode(query)}", body, {"Connection": "close", **(headers or {})})
            with connection.getresponse() as response:
                assert response.status == 200, (response.status, response.read())
                return Answer(int(response.headers[WORKER]), json.loads(response.read()))
        finally:
            connection.close()

    def tab(self, worker: int | None = None, **params: str) -> Tab:
        """Connect a client, to a certain worker if one is named."""
        found: list[Tab] = []

        def fits() -> bool:
            return bool(found) and worker in (None, found[-1].worker)

        def dial() -> None:
            while found:
                found.pop().close()
            found.append(Tab(self.server, **params))

        assert wait_until(fits, dial, START), f"no connection has come to {worker}"
        self._clients.callback(found[0].close)
        return found[0]

    def tabs(self, **params: str) -> list[Tab]:
        """Connect a client to each worker."""
        return [self.tab(worker, **params) for worker in sorted(self.workers())]

    def poller(self, **params: str) -> Poller:
        """Begin to poll."""
        return Poller(self, **params)

    def lists(self, topic: str, workers: set[int]) -> dict[int, Presences]:
        """Return who is on a topic, as each of some workers says."""
        lists: dict[int, Presences] = {}

        def ask() -> None:
            answer = self.ask("GET", "/online", topic=topic)
            lists[answer.worker] = answer.value

        assert wait_until(lambda: workers <= lists.keys(), ask), f"only {lists.keys()} of {workers} answer"
        return {worker: lists[worker] for worker in workers}

    def agree(self, clients: Sequence[Client], expected: Expected, workers: set[int] | None = None) -> None:
        """Wait until all workers, and all clients on a topic, have the very same presences, as expected."""
        workers = self.workers() if workers is None else workers
        [topic] = {client.topic for client in clients}
        seen: dict[str, Presences] = {}

        def agreed() -> bool:
            for client in clients:
                client.drain()
            seen.clear()
            seen.update({f"client of {client.worker}": ordered(client.state) for client in clients})
            seen.update({f"worker {pid}": ordered(list) for pid, list in self.lists(topic, workers).items()})
            first, *others = seen.values()
            return plain(first) == plain_expected(expected) and all(other == first for other in others)

        assert wait_until(agreed, lambda: clients[0].pump(TICK), START), (
            f"expected {expected}, got {json.dumps(seen, indent=1)}"
        )

    def close(self) -> None:
        """Let all clients go."""
        self._clients.close()


def start(
    servers: Servers, environment: Mapping[str, str], *words: str, app: str = APP, workers: int = WORKERS
) -> Fleet:
    """Start gunicorn with several workers, and return when all are there."""
    return Fleet(servers.start(*GUNICORN, "-w", str(workers), *words, app, **environment), workers)


def ordered(presences: Presences) -> Presences:
    """Return presences in which the order of keys and metas means nothing."""
    return {
        key: {**presence, "metas": sorted(presence["metas"], key=lambda meta: str(meta["phx_ref"]))}
        for key, presence in sorted(presences.items())
    }


def plain(presences: Presences) -> dict[str, list[str]]:
    """Return the metas of each key as they were asked for."""
    return plain_expected({key: presence["metas"] for key, presence in presences.items()})


def plain_expected(expected: Expected) -> dict[str, list[str]]:
    return {key: sorted(map(_asked, metas)) for key, metas in expected.items()}


def _asked(meta: dict[str, Any]) -> str:
    return json.dumps({name: meta[name] for name in sorted(meta) if not name.startswith("phx_")})


def fold(state: Presences, joins: Presences, leaves: Presences) -> Presences:
    """Fold a diff into a state, as the npm client's ``Presence.syncDiff`` does."""
    metas = {key: {meta["phx_ref"]: meta for meta in presence["metas"]} for key, presence in state.items()}
    for key, presence in joins.items():
        metas.setdefault(key, {}).update({meta["phx_ref"]: meta for meta in presence["metas"]})
    for key, presence in leaves.items():
        for meta in presence["metas"]:
            metas.get(key, {}).pop(meta["phx_ref"], None)
    return {key: {"metas": [*of_key.values()]} for key, of_key in metas.items() if of_key}
