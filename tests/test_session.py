"""Where a session lives: its token, what is dispatched to it, and the same from another node."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from time import monotonic
from typing import Any

import gevent
import pytest
from gevent.event import Event
from itsdangerous import TimestampSigner, URLSafeTimedSerializer

from flask_phoenix.channel import Channel, on
from flask_phoenix.exceptions import InvalidMessage, Unsupported
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import DISCONNECT, Broadcast, Frame
from flask_phoenix.protocol.serializers import Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Connection, RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.socket import RawSocket, Socket
from flask_phoenix.testing import MemoryAdapter
from flask_phoenix.transports.longpoll.session import (
    GONE,
    NOT_TAKEN,
    NOTHING,
    TAKEN,
    LocalSession,
    RemoteSession,
    Session,
    Sessions,
    read_line,
    text_line,
    topic_of,
)
from flask_phoenix.transports.options import Options
from tests.processes import DEADLINE
from tests.roads import V1, V2, turn

#: A window that no test waits for, and one that a test may.
LONG, SHORT = 10 * DEADLINE, DEADLINE / 100
SALT = "/socket/longpoll"
OK = {"status": "ok", "response": {}}


class RoomSocket(Socket):
    """Has rooms."""


@RoomSocket.channel("room:*")
class RoomChannel(Channel):
    """Lets everybody in, and waits where it is asked to."""

    #: What ``wait`` waits for.
    release: Event

    def join(self, payload: Any) -> None:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("wait")
    def wait(self, payload: Any) -> None:
        self.release.wait(DEADLINE)

    @on("note")
    def note(self, payload: Any) -> None:
        pass


class EchoSocket(RawSocket):
    """Remembers its frames and echoes them; ends at ``stop``."""

    def handle_frame(self, frame: Frame) -> None:
        self.assigns.setdefault("frames", []).append(frame)
        if frame == "stop":
            self.close(1001, "stopped")
        else:
            self.send(f"echo {frame!r}")

    def terminate(self, reason: Any) -> None:
        self.assigns["reason"] = reason


class Past(TimestampSigner):
    """Signs as it was done some seconds ago."""

    age = 0

    def get_timestamp(self) -> int:
        return super().get_timestamp() - self.age


class Listening(MemoryAdapter):
    """Remembers what its node asks for."""

    def __init__(self, network: list[MemoryAdapter]) -> None:
        super().__init__(network)
        self.topics: set[str] = set()
        #: What was asked of it first.
        self.began: list[str] = []

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        self.began.append("start")
        super().start(node, receive, gone)

    def subscribe(self, topic: str) -> None:
        self.began.append("subscribe")
        self.topics.add(topic)
        super().subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)
        super().unsubscribe(topic)


class Node:
    """A process: its engine, and the sessions of one mount."""

    def __init__(self, network: list[MemoryAdapter] | None = None, **options: Any) -> None:
        self.adapter = None if network is None else Listening(network)
        self.engine = Engine(nullcontext, Json(), lambda: self.adapter)
        self.keys: list[Any] = ["a key"]
        self.sessions = Sessions(self.engine, SALT, lambda: self.keys, Options(**{"window": LONG, **options}))
        self.connections: list[Connection] = []

    def echo(self, id: str | None = None) -> str:
        """Open a session of frames; return its token."""
        return self._open(lambda carrier: RawConnection(self.engine, EchoSocket({}, "longpoll"), id, carrier))

    def room(self, serializer: Serializer = V2) -> str:
        """Open a session with channels."""

        def make(carrier: Any) -> Connection:
            socket = RoomSocket({}, "longpoll")
            return ChannelConnection(self.engine, socket, None, carrier, Protocol(serializer, socket.match))

        return self._open(make)

    def find(self, token: str) -> Session:
        """Find a session that has to be there."""
        session = self.sessions.find(token)
        assert session is not None
        return session

    @property
    def assigns(self) -> dict[str, Any]:
        """What the author of the last session keeps."""
        turn()
        return self.connections[-1].socket.assigns

    def stop(self) -> None:
        """End the sessions, and what runs for them."""
        for connection in self.connections:
            connection.close(1000, "closed")
        self.engine.stop()

    def _open(self, make: Callable[[Any], Connection]) -> str:
        self.engine.serve()
        carrier, token = self.sessions.open()
        self.connections.append(make(carrier))
        carrier.serve(self.connections[-1])
        turn()
        return token


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """Make nodes, and stop them in the end."""
    nodes: list[Node] = []

    def make_node(network: list[MemoryAdapter] | None = None, **options: Any) -> Node:
        nodes.append(Node(network, **options))
        return nodes[-1]

    yield make_node
    for node in nodes:
        node.stop()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node()


@pytest.fixture
def network() -> list[MemoryAdapter]:
    return []


def line(*message: Any) -> str:
    return json.dumps(message)


def texts(frames: list[str]) -> list[Any]:
    return [json.loads(frame) for frame in frames]


JOIN = line("1", "1", "room:1", "phx_join", {})
JOINED = ["1", "1", "room:1", "phx_reply", OK]


def test_the_interface_is_for_others_to_write() -> None:
    with pytest.raises(NotImplementedError):
        Session().poll()
    with pytest.raises(NotImplementedError):
        Session().dispatch([])


# Tokens


def test_a_token_leads_to_its_session(node: Node) -> None:
    one, other = node.echo(), node.echo()
    assert one != other
    assert isinstance(node.find(one), LocalSession)
    assert node.find(one) is node.find(one) is not node.find(other)
    node.find(one).dispatch([text_line("a")])
    assert node.find(one).poll() == (TAKEN, ["echo 'a'"])


def test_a_token_can_stand_in_an_address(node: Node) -> None:
    token = node.echo()
    assert token.isascii()
    assert set(token) - set("-_.") <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "....", "\u03c0", "\ud800", "a" * 10_000, "\0"], ids=repr)
def test_what_is_no_token(node: Node, token: str) -> None:
    assert node.sessions.find(token) is None


def test_a_forged_token(node: Node) -> None:
    token = node.echo()
    for place in range(len(token)):
        forged = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert node.sessions.find(forged) is None or forged[:-1] == token[:-1], forged
    assert node.sessions.find(token[:-2]) is None
    assert node.sessions.find(token) is not None


def test_a_token_of_another_key(node: Node) -> None:
    token = node.echo()
    node.keys = ["another key"]
    assert node.sessions.find(token) is None


def test_a_token_of_another_mount(node: Node) -> None:
    content = URLSafeTimedSerializer(node.keys, salt=SALT).loads(node.echo())
    assert node.sessions.find(URLSafeTimedSerializer(node.keys, salt=SALT).dumps(content)) is not None
    assert node.sessions.find(URLSafeTimedSerializer(node.keys, salt=SALT + "/other").dumps(content)) is None


def test_keys_are_rotated(node: Node) -> None:
    token = node.echo()
    node.keys = ["a key", "a newer key"]
    newer = node.echo()
    assert node.sessions.find(token) is not None
    assert node.sessions.find(newer) is not None
    node.keys = ["a newer key"]
    assert node.sessions.find(token) is None
    assert node.sessions.find(newer) is not None


@pytest.mark.parametrize("keys", [[None], [""], ["a key", None]])
def test_no_key(node: Node, keys: list[Any]) -> None:
    token = node.echo()
    node.keys = keys
    for ask in (node.sessions.open, lambda: node.sessions.find(token)):
        with pytest.raises(Unsupported, match=r"set app\.secret_key"):
            ask()


@pytest.mark.parametrize(("age", "found"), [(0, True), (58, True), (62, False), (10**6, False), (-10, False)])
def test_a_token_has_its_time(make_node: Callable[..., Node], age: int, found: bool) -> None:
    node = make_node(token_max_age=60)
    content = URLSafeTimedSerializer(node.keys, salt=SALT).loads(node.echo())
    signer = type("Signer", (Past,), {"age": age})
    token = URLSafeTimedSerializer(node.keys, salt=SALT, signer=signer).dumps(content)
    assert (node.sessions.find(token) is not None) is found


def test_the_end_of_a_session_is_the_end_of_its_token(node: Node) -> None:
    token, other = node.echo(), node.echo()
    node.connections[0].close(1001, "disconnected")
    assert node.sessions.find(token) is None
    assert node.sessions.find(other) is not None


def test_a_token_of_another_node_without_a_way_to_it(make_node: Callable[..., Node]) -> None:
    one, other = make_node(), make_node()
    assert other.sessions.find(one.echo()) is None


# A session of this process


def test_lines_are_handled_in_order(node: Node) -> None:
    session = node.find(node.room())
    lines = [JOIN, *(line("1", str(ref), "room:1", "echo", {"n": ref}) for ref in range(2, 6))]
    assert session.dispatch(lines) == TAKEN
    status, frames = session.poll()
    assert status == TAKEN
    assert [message[1] for message in texts(frames)] == ["1", "2", "3", "4", "5"]


def test_a_line_may_be_binary(node: Node) -> None:
    session = node.find(node.room())
    push = b"\x00\x01\x01\x06\x0412room:1echo\x01\x02"
    assert session.dispatch([JOIN, base64.b64encode(push).decode()]) == TAKEN
    # The echo of bytes cannot go to a client that polls: the channel crashes.
    assert texts(session.poll()[1]) == [JOINED, ["1", "1", "room:1", "phx_error", {"reason": "channel_crash"}]]


def test_a_line_may_be_of_vsn_1(node: Node) -> None:
    session = node.find(node.room(V1))
    join = {"topic": "room:1", "event": "phx_join", "payload": {}, "ref": "1"}
    assert (
        session.dispatch([json.dumps(join), text_line(json.dumps({**join, "event": "phx_leave", "ref": "2"}))]) == TAKEN
    )
    assert [message["event"] for message in texts(session.poll()[1])][:2] == ["phx_reply", "phx_reply"]


def test_an_empty_batch(node: Node) -> None:
    assert node.find(node.echo()).dispatch([]) == TAKEN


@pytest.mark.parametrize(
    "bad",
    [
        "[",
        "[]",
        "{}",
        "!!!not base64",
        "AAA",
        "AA=A",
        "\u00e9\u00e9\u00e9\u00e9",
        "AQ==",
        text_line(""),
        text_line("x"),
        "",
        " []",
        '["1","1","room:1","phx_join",{}',
        '["1","1","room:1","phx_join",NaN]',
    ],
)
def test_what_is_no_message_ends_the_session_at_once(node: Node, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    token = node.room()
    session = node.find(token)
    poll = gevent.spawn(session.poll)
    turn()
    begin = monotonic()
    assert session.dispatch([JOIN, bad, line("1", "2", "room:1", "echo", {})]) == NOT_TAKEN
    assert monotonic() - begin < DEADLINE
    assert not node.connections[0].open
    assert node.sessions.find(token) is None
    status, frames = poll.get(timeout=DEADLINE)
    assert (status, texts(frames)) == (TAKEN, [JOINED])
    assert session.poll() == (GONE, [])
    assert [record.levelno for record in caplog.records if "what is no message" in record.message] == [logging.ERROR]
    assert "RoomSocket" in caplog.text


def test_a_line_that_is_too_long(make_node: Callable[..., Node], caplog: pytest.LogCaptureFixture) -> None:
    node = make_node(max_frame_size=10)
    session = node.find(node.echo())
    assert session.dispatch([text_line("x" * 9), "[" + "x" * 9]) == TAKEN
    assert session.dispatch(["[" + "x" * 10]) == NOT_TAKEN
    assert "a line of 11 characters; max_frame_size is 10" in caplog.text
    assert node.assigns["frames"] == ["x" * 9, "[" + "x" * 9]
    assert node.assigns["reason"] == "invalid message"


def test_a_session_that_ends_within_a_batch(node: Node) -> None:
    session = node.find(node.echo())
    assert session.dispatch([text_line("a"), text_line("stop"), text_line("b")]) == GONE
    assert node.assigns == {"frames": ["a", "stop"], "reason": "stopped"}
    assert session.dispatch([text_line("c")]) == GONE


def test_a_channel_that_is_far_behind_holds_a_batch_up(make_node: Callable[..., Node]) -> None:
    RoomChannel.release = Event()
    node = make_node()
    session = node.find(node.room())
    assert isinstance(session, LocalSession)
    session.carrier.window = SHORT  # the timer of the session keeps the long one: it may not end meanwhile
    assert session.dispatch([JOIN, line("1", "2", "room:1", "wait", {})]) == TAKEN
    notes = [line("1", None, "room:1", "note", {})] * (INBOX_LIMIT - 1)
    assert session.dispatch(notes) == TAKEN
    begin = monotonic()
    assert session.dispatch([notes[0], line("1", "3", "room:1", "echo", {})]) == NOT_TAKEN
    assert monotonic() - begin > SHORT * 0.9
    assert node.connections[0].open
    RoomChannel.release.set()
    turn()
    assert session.dispatch([line("1", "4", "room:1", "echo", {})]) == TAKEN
    assert [message[1] for message in texts(session.poll()[1])] == ["1", "4"]


def test_a_batch_goes_on_when_there_is_room(node: Node) -> None:
    RoomChannel.release = Event()
    session = node.find(node.room())
    session.dispatch([JOIN, line("1", "2", "room:1", "wait", {})])
    notes = [line("1", None, "room:1", "note", {})] * INBOX_LIMIT
    posting = gevent.spawn(session.dispatch, [*notes, line("1", "3", "room:1", "echo", {})])
    turn()
    assert not posting.ready()
    RoomChannel.release.set()
    assert posting.get(timeout=DEADLINE) == TAKEN
    turn()
    assert [message[1] for message in texts(session.poll()[1])] == ["1", "3"]


def test_a_time_limit_of_somebody_else_is_not_ours(node: Node) -> None:
    RoomChannel.release = Event()
    session = node.find(node.room())
    session.dispatch(
        [JOIN, line("1", "2", "room:1", "wait", {}), *[line("1", None, "room:1", "note", {})] * (INBOX_LIMIT - 1)]
    )
    limit = gevent.Timeout(SHORT)
    with pytest.raises(gevent.Timeout) as expired, limit:
        session.dispatch([line("1", None, "room:1", "note", {})])
    assert expired.value is limit
    RoomChannel.release.set()


def test_statuses_of_a_poll(make_node: Callable[..., Node]) -> None:
    node = make_node(window=SHORT)
    session = node.find(node.echo())
    assert session.poll() == (NOTHING, [])
    session.dispatch([text_line("a")])
    assert session.poll() == (TAKEN, ["echo 'a'"])
    node.connections[0].close(1001, "disconnected")
    assert session.poll() == (GONE, [])


# Lines


@pytest.mark.parametrize(
    ("written", "frame"),
    [
        ("[1]", "[1]"),
        ("[", "["),
        ('{"a":1}', '{"a":1}'),
        (text_line("[1]"), "[1]"),
        (text_line("AAEC"), "AAEC"),
        (text_line(""), ""),
        (text_line("\tx"), "\tx"),
        ("AAEC", b"\x00\x01\x02"),
        ("AAE=", b"\x00\x01"),
        ("/+8=", b"\xff\xef"),
        ("", b""),
    ],
)
def test_lines(written: str, frame: Frame) -> None:
    assert read_line(written, 100) == frame


@pytest.mark.parametrize("written", ["AAE", "_-8=", "!!!!", "AA EC", "AAEC\n", "\u00e9", '"text"', "1"])
def test_what_is_no_line(written: str) -> None:
    with pytest.raises(InvalidMessage, match="neither JSON nor base64") as mistake:
        read_line(written, 100)
    assert repr(written) in str(mistake.value)


def test_the_length_of_a_line() -> None:
    assert read_line("[" * 5, 5) == "[" * 5
    with pytest.raises(InvalidMessage, match="a line of 6 characters; max_frame_size is 5"):
        read_line("[" * 6, 5)


# A session of another node


@pytest.fixture(params=["idle", "serving"])
def nodes(make_node: Callable[..., Node], network: list[MemoryAdapter], request: pytest.FixtureRequest) -> list[Node]:
    """Return three nodes that hear each other; the sessions are to be the first one's, the second one is asked."""
    nodes = [make_node(network) for _ in range(3)]
    for node in nodes[1:] if request.param == "serving" else []:
        node.engine.serve()
    return nodes


def test_a_token_leads_to_another_node(nodes: list[Node]) -> None:
    here, there, _ = nodes
    token = here.echo()
    assert isinstance(here.find(token), LocalSession)
    assert isinstance(there.find(token), RemoteSession)


def test_frames_of_a_remote_session(nodes: list[Node]) -> None:
    here, there, other = nodes
    token = here.echo()
    assert there.find(token).dispatch([text_line("a"), text_line("[1]"), base64.b64encode(b"\xff").decode()]) == TAKEN
    assert here.assigns["frames"] == ["a", "[1]", b"\xff"]
    assert other.find(token).poll() == (TAKEN, ["echo 'a'", "echo '[1]'", "echo b'\\xff'"])
    assert other.find(token).dispatch([]) == TAKEN


def test_a_conversation_with_a_remote_session(nodes: list[Node]) -> None:
    here, there, _ = nodes
    token = here.room()
    poll = gevent.spawn(there.find(token).poll)
    turn()
    assert there.find(token).dispatch([JOIN]) == TAKEN
    status, frames = poll.get(timeout=DEADLINE)
    assert (status, texts(frames)) == (TAKEN, [JOINED])
    there.engine.broadcast(Broadcast("room:1", "said", {"caf\u00e9": "\u2603"}))
    status, frames = there.find(token).poll()
    assert (status, texts(frames)) == (TAKEN, [[None, None, "room:1", "said", {"caf\u00e9": "\u2603"}]])


def test_a_remote_poll_runs_into_its_window(make_node: Callable[..., Node], network: list[MemoryAdapter]) -> None:
    here, there = (make_node(network, window=SHORT) for _ in range(2))
    begin = monotonic()
    assert there.find(here.echo()).poll() == (NOTHING, [])
    assert SHORT * 0.9 < monotonic() - begin < DEADLINE


def test_a_remote_session_that_ends_while_a_poll_waits(nodes: list[Node]) -> None:
    here, there, _ = nodes
    poll = gevent.spawn(there.find(here.echo("user:7")).poll)
    turn()
    assert not poll.ready()
    there.engine.broadcast(Broadcast("user:7", DISCONNECT, {}))
    assert poll.get(timeout=DEADLINE) == (GONE, [])
    assert here.assigns["reason"] == "disconnected"


def test_what_is_no_message_for_a_remote_session(nodes: list[Node]) -> None:
    here, there, _ = nodes
    token = here.room()
    begin = monotonic()
    assert there.find(token).dispatch(["["]) == NOT_TAKEN
    assert monotonic() - begin < DEADLINE
    assert here.sessions.find(token) is None


def test_a_remote_session_that_is_gone(make_node: Callable[..., Node], network: list[MemoryAdapter]) -> None:
    here, there = (make_node(network, pubsub_timeout=SHORT) for _ in range(2))
    token = here.echo()
    session = there.find(token)
    here.connections[0].close(1001, "disconnected")
    for answer in (session.poll, lambda: (session.dispatch([text_line("a")]), [])):
        begin = monotonic()
        assert answer() == (GONE, [])
        assert SHORT * 0.9 < monotonic() - begin < DEADLINE
    # It is asked for when it is looked for; at home nobody has to be asked.
    assert there.sessions.find(token) is None
    assert here.sessions.find(token) is None


def test_a_node_that_is_gone(make_node: Callable[..., Node], network: list[MemoryAdapter]) -> None:
    here, there = (make_node(network, pubsub_timeout=SHORT) for _ in range(2))
    session = there.find(here.echo())
    here.stop()
    assert session.poll() == (GONE, [])


def test_a_node_that_has_the_session_and_never_answers(
    make_node: Callable[..., Node], network: list[MemoryAdapter]
) -> None:
    here, there = make_node(network), make_node(network, window=SHORT, pubsub_timeout=SHORT)
    begin = monotonic()
    assert there.find(here.echo()).poll() == (GONE, [])
    assert SHORT * 1.9 < monotonic() - begin < DEADLINE


def test_the_first_request_of_a_node_is_for_a_remote_session(
    make_node: Callable[..., Node], network: list[MemoryAdapter]
) -> None:
    token, fresh = make_node(network).echo(), make_node(network)
    fresh.find(token)
    assert fresh.adapter is not None
    assert fresh.adapter.began == ["start", "subscribe"]


def test_nothing_is_left_in_the_network(nodes: list[Node]) -> None:
    here, there, _ = nodes
    token = here.echo()
    _, id = URLSafeTimedSerializer(here.keys, salt=SALT).loads(token)
    there.find(token).dispatch([text_line("a")])
    there.find(token).poll()
    assert here.adapter is not None
    assert there.adapter is not None
    assert (here.adapter.topics, there.adapter.topics) == ({topic_of(id)}, set())
    here.connections[0].close(1001, "disconnected")
    assert here.adapter.topics == set()
    assert not here.engine.pubsub.subscribed(topic_of(id))
