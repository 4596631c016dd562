"""What a channel may ask for: said through one that has no inbox, and whose join is over when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from gevent.queue import Queue

from flask_phoenix.channel import Channel, intercept
from flask_phoenix.exceptions import InvalidPayload, NotJoined
from flask_phoenix.host import SocketRef
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Message, Reply
from flask_phoenix.protocol.serializers import Serializer
from flask_phoenix.protocol.state import JoinReceived
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.standing import Standing
from tests.processes import DEADLINE
from tests.roads import JOINED, V1, V2, Tab, serve, turn


class Room(Channel):
    """Intercepts an event, as far as anybody looks at it; nothing here is called."""

    def join(self, payload: Any) -> None:
        raise AssertionError

    @intercept("secret")
    def secret(self, payload: Any) -> None:
        raise AssertionError


class Bare(Standing):
    """Does nothing with the notes that it is sent but to keep them."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.notes: Queue[Any] = Queue()

    def send(self, message: Any) -> None:
        self.notes.put(message)


class Desk:
    """A client that asks to join, and the standing of its channel."""

    def __init__(self, engine: Engine, join_ref: Any = "1", serializer: Serializer = V2) -> None:
        self.tab = Tab(engine, serve(Room), serializer)
        protocol = self.tab.connection.protocol
        join = protocol.dispatch(Message(join_ref, "2", "room:1", "phx_join", {}))
        assert isinstance(join, JoinReceived)
        self.join = join
        self.intercepted: list[Broadcast] = []
        self.heard: list[Broadcast] = []
        self.standing = Bare(
            self.tab.connection, protocol, self.tab.connection.lane, join, self.intercepted.append, self.heard.append
        )
        engine.pubsub.subscribe("room:1", self.standing.subscriber)

    def admit(self) -> Bare:
        """Let the channel in, and say so."""
        self.standing.joined = True
        self.tab.connection.send(self.standing.protocol.accept(self.join, Reply()))
        self.tab.road.read()
        return self.standing

    def close(self) -> None:
        """Forget the membership, which has no channel that could end, and hang up."""
        self.tab.connection.protocol.memberships.clear()
        self.tab.leave()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


@pytest.fixture
def make_desk(engine: Engine) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(*arguments: Any, **options: Any) -> Desk:
        desks.append(Desk(engine, *arguments, **options))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


REQUESTS: dict[str, Callable[[Standing], Any]] = {
    "push": lambda standing: standing.push("e", {}),
    "broadcast": lambda standing: standing.broadcast("e", {}, True),
    "socket_ref": lambda standing: standing.socket_ref(),
    "track": lambda standing: standing.hold(lambda: None),
}


@pytest.mark.parametrize("verb", REQUESTS)
def test_nothing_goes_before_the_join_is_over(desk: Desk, verb: str) -> None:
    with pytest.raises(NotJoined) as mistake:
        REQUESTS[verb](desk.standing)
    assert str(mistake.value).startswith(f"Room may not {verb} before its join is over")
    assert "after_join(self)" in str(mistake.value)
    assert (desk.tab.rest(), desk.intercepted, desk.heard) == ([], [], [])


@pytest.mark.parametrize(("join_ref", "ref"), [("1", "1"), (None, "2"), (7, 7)])
def test_a_push_carries_the_ref_of_the_join(make_desk: Callable[..., Desk], join_ref: Any, ref: Any) -> None:
    desk = make_desk(join_ref)
    desk.admit().push("e", {"n": 1})
    assert desk.tab.rest() == [[ref, None, "room:1", "e", {"n": 1}]]


def test_a_push_is_written_for_its_client(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(None, V1)
    standing = desk.admit()
    standing.push("e", [1])
    assert desk.tab.rest() == [{"topic": "room:1", "event": "e", "ref": None, "payload": [1]}]
    with pytest.raises(InvalidPayload):
        standing.push("e", b"")
    assert desk.tab.rest() == []


def test_a_broadcast_is_for_all_or_for_all_others(make_desk: Callable[..., Desk]) -> None:
    desk, other = make_desk(), make_desk()
    standing = desk.admit()
    standing.broadcast("all", {}, True)
    standing.broadcast("others", {}, False)
    assert [frame[3] for frame in desk.tab.rest()] == ["all"]
    assert other.tab.rest() == [[None, None, "room:1", event, {}] for event in ("all", "others")]
    with pytest.raises(InvalidPayload):
        standing.broadcast("e", [1], True)


def test_what_the_channel_intercepts_is_told(desk: Desk, engine: Engine) -> None:
    desk.admit().broadcast("secret", {"n": 1}, True)
    engine.broadcast(Broadcast("room:1", "plain", {}))
    assert desk.tab.rest() == [[None, None, "room:1", "plain", {}]]
    assert desk.intercepted == [Broadcast("room:1", "secret", {"n": 1})]
    assert desk.heard == []


def test_outside_a_message_there_is_nothing_to_remember(desk: Desk) -> None:
    with pytest.raises(NotJoined, match="while a message with a ref is handled"):
        desk.admit().socket_ref()


@pytest.mark.parametrize("ref", ["5", 5, ""])
def test_a_message_that_is_handled_can_be_answered_later(desk: Desk, ref: Any) -> None:
    standing = desk.admit()
    standing._message = Message("1", ref, "room:1", "e", {})
    remembered = standing.socket_ref()
    standing._message = Message("1", None, "room:1", "e", {})
    with pytest.raises(NotJoined):
        standing.socket_ref()
    assert remembered == SocketRef(ref)
    standing.reply(remembered, Reply())
    standing.reply(SocketRef("6"), Reply("error", {"n": 1}))
    assert desk.tab.rest() == [
        ["1", ref, "room:1", "phx_reply", JOINED],
        ["1", "6", "room:1", "phx_reply", {"status": "error", "response": {"n": 1}}],
    ]


def test_a_note_later(desk: Desk) -> None:
    standing = desk.standing
    cancel = standing.send_after(0, "cancelled")
    standing.send_after(0.001, "kept")
    cancel()
    assert standing.notes.get(timeout=DEADLINE) == "kept"
    turn()
    assert standing.notes.empty()


def test_other_topics_are_heard_and_not_sent(desk: Desk, engine: Engine) -> None:
    desk.standing.subscribe("news")
    for event in ("e", "secret"):
        engine.broadcast(Broadcast("news", event, {}))
    turn()
    assert desk.heard == [Broadcast("news", "e", {}), Broadcast("news", "secret", {})]
    desk.standing.unsubscribe("news")
    engine.broadcast(Broadcast("news", "e", {}))
    turn()
    assert (len(desk.heard), desk.tab.rest(), engine.pubsub.subscribed("news")) == (2, [], False)


def test_a_channel_is_a_subscriber_like_others(desk: Desk, engine: Engine) -> None:
    told: list[Broadcast] = []
    engine.pubsub.subscribe("room:1", Subscriber(told.append))
    desk.admit().broadcast("e", {}, False)
    assert desk.tab.rest() == []
    assert told == [Broadcast("room:1", "e", {})]


def test_what_is_held_is_for_the_end(desk: Desk) -> None:
    log: list[str] = []
    assert desk.admit().hold(lambda: log.append("released")) is True
    turn()
    assert log == []
    desk.standing._ties.close()
    assert log == ["released"]
    assert desk.standing.hold(lambda: log.append("too late")) is False
    assert log == ["released"]


@pytest.mark.parametrize(
    ("reason", "because", "failure"),
    [
        (None, "", "at hand"),
        (RuntimeError("broken"), "", "broken"),
        ("moved", ", for the reason 'moved'", None),
    ],
)
def test_what_goes_wrong_is_logged(
    desk: Desk, caplog: pytest.LogCaptureFixture, reason: Any, because: str, failure: str | None
) -> None:
    try:
        raise KeyError("at hand")
    except KeyError:
        desk.standing._log("stumbled", reason)
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", f"Room stumbled on topic 'room:1'{because}")
    assert bool(record.exc_info) is (failure is not None)
    assert failure is None or failure in caplog.text
