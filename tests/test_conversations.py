"""The same conversations over every transport in every version of the wire format, against a running server."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import count
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.processes import DEADLINE, HOST, Server, Servers
from tests.roads import CRASHED, JOINED, UNMATCHED
from tests.wire import ACCEPT, UPGRADE, Wire

HEARTBEAT = "heartbeat"
#: A topic for each test: those who polled in the last one are still about.
NUMBERS = count(1)


class Heard(NamedTuple):
    """A message from the server; in vsn 1.0.0 it has no join_ref."""

    join_ref: Any
    ref: Any
    topic: str
    event: str
    payload: Any


class Client:
    """One client; each transport carries its frames in its own way.

    :param params: of the connect.
    """

    def __init__(self, port: int, vsn: str, params: dict[str, str]) -> None:
        self.port = port
        self.vsn = vsn
        self.query = urlencode({"vsn": vsn, **params})

    def say(self, join_ref: Any, ref: Any, topic: str, event: str, payload: Any = None) -> None:
        """Send a message."""
        payload = {} if payload is None else payload
        if self.vsn == "1.0.0":
            named = {"join_ref": join_ref, "ref": ref, "topic": topic, "event": event, "payload": payload}
            self.write(json.dumps(named))
        else:
            self.write(json.dumps([join_ref, ref, topic, event, payload]))

    def hears(self, join_ref: Any, ref: Any, topic: str, event: str, payload: Any) -> None:
        """Receive the next message, and see that it is this one."""
        message = json.loads(self.read())
        if self.vsn == "1.0.0":
            assert message.keys() == {"topic", "event", "payload", "ref"}
            message, join_ref = {**message, "join_ref": None}, None
            message = [message[name] for name in Heard._fields]
        assert Heard(*message) == Heard(join_ref, ref, topic, event, payload)

    def hears_reply(self, join_ref: Any, ref: Any, topic: str, payload: Any) -> None:
        """Receive a reply."""
        self.hears(join_ref, ref, topic, "phx_reply", payload)

    def join(self, topic: str, join_ref: str = "1") -> None:
        """Join a topic and hear the yes."""
        self.say(join_ref, join_ref, topic, "phx_join")
        self.hears_reply(join_ref, join_ref, topic, JOINED)

    def is_alone(self) -> None:
        """See that nothing else is on its way: the answer to a heartbeat is the next that comes."""
        self.say(None, "quiet", "phoenix", HEARTBEAT)
        self.hears_reply(None, "quiet", "phoenix", JOINED)

    def write(self, frame: str) -> None:
        """Send a frame."""
        raise NotImplementedError

    def read(self) -> str:
        """Receive a frame."""
        raise NotImplementedError

    def is_disconnected(self) -> None:
        """See that the server ends this client, and that nothing comes before."""
        raise NotImplementedError

    def close(self) -> None:
        """Go away, without a word."""
        raise NotImplementedError


class WebSocketClient(Client):
    """Frames over a WebSocket."""

    def __init__(self, port: int, vsn: str, params: dict[str, str]) -> None:
        super().__init__(port, vsn, params)
        self.wire = Wire(socket.create_connection((HOST, port), DEADLINE))
        lines = [f"GET /socket/websocket?{self.query} HTTP/1.1", f"Host: {HOST}:{port}"]
        lines += [f"{name}: {value}" for name, value in UPGRADE.items()]
        self.wire.sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.wire.take(1)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert ACCEPT.encode() in head

    def write(self, frame: str) -> None:
        self.wire.text(frame)

    def read(self) -> str:
        frame = self.wire.data()
        assert isinstance(frame, str)
        return frame

    def is_disconnected(self) -> None:
        assert self.wire.closed() == 1001

    def close(self) -> None:
        self.wire.sock.close()


class LongPollClient(Client):
    """Frames over repeated requests, one at a time."""

    def __init__(self, port: int, vsn: str, params: dict[str, str]) -> None:
        super().__init__(port, vsn, params)
        # Longer than a window, in which a poll may find nothing.
        self.http = HTTPConnection(HOST, port, timeout=2 * DEADLINE)
        self.frames: list[str] = []
        self.token = ""
        opened = self.request("GET")
        assert opened == {"status": 410, "token": opened["token"], "messages": []}
        self.token = opened["token"]

    def write(self, frame: str) -> None:
        assert self.request("POST", frame) == {"status": 200}

    def read(self) -> str:
        if not self.frames:
            answer = self.request("GET")
            assert (answer["status"], answer["token"]) == (200, self.token)
            self.frames = answer["messages"]
        return self.frames.pop(0)

    def is_disconnected(self) -> None:
        assert self.frames == []
        assert self.request("GET")["status"] == 410
        assert self.request("POST", "[]") == {"status": 410}

    def close(self) -> None:
        self.http.close()

    def request(self, method: str, body: str | None = None) -> Any:
        """Ask, and return what is answered."""
        headers = {"X-Phoenix-Longpoll-Token": self.token} if self.token else {}
        if body is not None:
            headers["Content-Type"] = "application/json" if self.vsn == "1.0.0" else "application/x-ndjson"
        self.http.request(method, f"/socket/longpoll?{self.query}", body, headers)
        response = self.http.getresponse()
        assert response.status == 200
        return json.loads(response.read())


KINDS = [(transport, vsn) for transport in (WebSocketClient, LongPollClient) for vsn in ("1.0.0", "2.0.0")]

#: Connects a client, named by the parameter ``user``, of the kind that the test is about.
Connect = Callable[..., Client]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return a server that offers what the golden conversations need."""
    servers = Servers(tmp_path_factory.mktemp("conversations"))
    yield servers.start(sys.executable, "-m", "tests.golden.peer", "{port}")
    servers.stop()


@pytest.fixture
def dial(peer: Server) -> Iterator[Connect]:
    """Connect clients of any kind, and hang up in the end."""
    with ExitStack() as stack:

        def dial(transport: type[Client], vsn: str, **params: str) -> Client:
            client = transport(peer.port, vsn, params)
            stack.callback(client.close)
            return client

        yield dial


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}")
def connect(request: pytest.FixtureRequest, dial: Connect) -> Connect:
    return lambda **params: dial(*request.param, **params)


@pytest.fixture
def client(connect: Connect) -> Client:
    return connect()


@pytest.fixture
def room() -> str:
    return f"room:{next(NUMBERS)}"


@pytest.fixture
def edge() -> str:
    return f"edge:{next(NUMBERS)}"


def test_join(client: Client, room: str) -> None:
    client.say("1", "1", room, "phx_join", {"a": 1})
    client.hears_reply("1", "1", room, JOINED)
    client.is_alone()


def test_unmatched_topic(client: Client) -> None:
    client.say("1", "1", "nowhere", "phx_join")
    client.hears_reply(None, "1", "nowhere", UNMATCHED)
    client.say(None, "2", "room:nobody", "echo")
    client.hears_reply(None, "2", "room:nobody", UNMATCHED)


@pytest.mark.parametrize("payload", [{}, {"n": 1, "text": "caf\u00e9 \u2603 \U0001f642"}, [1, None], "text", 7, False])
def test_push_and_reply(client: Client, room: str, payload: Any) -> None:
    client.join(room)
    client.say("1", "2", room, "echo", payload)
    client.hears_reply("1", "2", room, {"status": "ok", "response": payload})
    client.is_alone()


def test_push_before_reply(client: Client, edge: str) -> None:
    client.join(edge)
    client.say("1", "2", edge, "push_then_reply", {"n": 1})
    client.hears("1", None, edge, "pushed", {"n": 1})
    client.hears_reply("1", "2", edge, {"status": "ok", "response": {"n": 1}})


def test_error_reply(client: Client, edge: str) -> None:
    client.join(edge)
    client.say("1", "2", edge, "reply_error")
    client.hears_reply("1", "2", edge, {"status": "error", "response": {"reason": "bad"}})


def test_many_pushes_keep_their_order(client: Client, room: str) -> None:
    client.join(room)
    for ref in range(2, 30):
        client.say("1", str(ref), room, "echo", {"n": ref})
    for ref in range(2, 30):
        client.hears_reply("1", str(ref), room, {"status": "ok", "response": {"n": ref}})


def test_broadcast(connect: Connect, room: str) -> None:
    one, other, outsider = connect(), connect(), connect()
    one.join(room)
    other.join(room, "7")
    outsider.join(f"{room}0")
    one.say("1", "2", room, "new_msg", {"body": "hello"})
    for client in (one, other):
        client.hears(None, None, room, "new_msg", {"body": "hello"})
    for client in (one, other, outsider):
        client.is_alone()


def test_broadcast_to_all_others(connect: Connect, edge: str) -> None:
    one, other = connect(), connect()
    one.join(edge)
    other.join(edge, "7")
    one.say("1", "2", edge, "bcast_from", {"n": 1})
    one.hears_reply("1", "2", edge, JOINED)
    other.hears(None, None, edge, "news", {"n": 1})
    one.is_alone()


def test_intercepted_broadcast(connect: Connect, edge: str) -> None:
    one, other = connect(), connect()
    one.join(edge)
    other.join(edge, "7")
    one.say("1", "2", edge, "bcast_intercepted", {"n": 1})
    one.hears("1", None, edge, "intercepted", {"n": 1, "via": "handle_out"})
    other.hears("7", None, edge, "intercepted", {"n": 1, "via": "handle_out"})


def test_late_reply(client: Client, edge: str) -> None:
    client.join(edge)
    client.say("1", "2", edge, "async_reply", {"ms": 50})
    client.say("1", "3", edge, "echo")
    client.hears_reply("1", "3", edge, JOINED)
    client.hears_reply("1", "2", edge, {"status": "ok", "response": {"after_ms": 50}})


def test_leave(client: Client, room: str) -> None:
    client.join(room)
    client.say("1", "2", room, "phx_leave")
    client.hears_reply("1", "2", room, JOINED)
    client.hears("1", "1", room, "phx_close", {})
    client.say("1", "3", room, "echo")
    client.hears_reply(None, "3", room, UNMATCHED)
    client.join(room, "4")


def test_crash_and_rejoin(client: Client, room: str, edge: str) -> None:
    client.join(room)
    client.join(edge, "2")
    client.say("2", "3", edge, "crash")
    client.hears("2", "2", edge, "phx_error", CRASHED)
    client.say("2", "4", edge, "echo")
    client.hears_reply(None, "4", edge, UNMATCHED)
    client.join(edge, "5")
    for join_ref, ref, topic in (("5", "6", edge), ("1", "7", room)):
        client.say(join_ref, ref, topic, "echo", {"n": 1})
        client.hears_reply(join_ref, ref, topic, {"status": "ok", "response": {"n": 1}})
    client.is_alone()


def test_end_on_purpose(client: Client, edge: str) -> None:
    client.join(edge)
    client.say("1", "2", edge, "stop_reply")
    client.hears_reply("1", "2", edge, {"status": "ok", "response": {"bye": True}})
    client.hears("1", "1", edge, "phx_close", {})


@pytest.mark.parametrize(
    ("topic", "reason"),
    [("edge:denied", "unauthorized"), ("edge:raise", "join crashed"), ("edge:exit", "join crashed")],
)
def test_refused_join(client: Client, topic: str, reason: str) -> None:
    client.say("1", "1", topic, "phx_join")
    client.hears_reply("1", "1", topic, {"status": "error", "response": {"reason": reason}})
    client.say("1", "2", topic, "echo")
    client.hears_reply(None, "2", topic, UNMATCHED)
    client.is_alone()


def test_duplicate_join(client: Client, room: str) -> None:
    client.join(room)
    client.say("2", "2", room, "phx_join")
    client.hears_reply("2", "2", room, JOINED)
    client.hears("1", "1", room, "phx_close", {})
    client.say("1", "3", room, "echo", {"stale": True})
    client.say("2", "4", room, "echo", {"n": 1})
    client.hears_reply("2", "4", room, {"status": "ok", "response": {"n": 1}})
    client.is_alone()


def test_heartbeat_during_a_slow_join(client: Client, room: str) -> None:
    client.say("1", "1", "edge:slow", "phx_join")
    client.say("1", "2", "edge:slow", "echo", {"n": 1})
    client.is_alone()
    client.join(room, "3")
    client.hears_reply("1", "1", "edge:slow", JOINED)
    client.hears_reply("1", "2", "edge:slow", {"status": "ok", "response": {"n": 1}})


def test_disconnect(connect: Connect, edge: str) -> None:
    user = f"ann-{edge}"
    one, other, stranger = connect(user=user), connect(user=user), connect(user="somebody else")
    for client in (one, other, stranger):
        client.join(edge)
    one.say("1", "2", edge, "disconnect_me")
    one.is_disconnected()
    other.is_disconnected()
    stranger.is_alone()


def test_everybody_meets_in_one_room(dial: Connect, room: str) -> None:
    clients = [dial(*kind) for kind in KINDS]
    for client in clients:
        client.join(room)
    for number, speaker in enumerate(clients):
        speaker.say("1", "2", room, "new_msg", {"n": number})
        for client in clients:
            client.hears(None, None, room, "new_msg", {"n": number})
