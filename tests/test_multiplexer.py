"""Many channels over one connection: who waits for whom, and in which order all of it arrives."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix.channel import Channel, on
from flask_phoenix.exceptions import InvalidMessage, Refused
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.hub import STRIDE
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from tests.processes import DEADLINE
from tests.roads import CRASHED, JOIN_CRASHED, JOINED, UNMATCHED, V1, V2, Road, Tab, in_thread, serve, turn

HEARTBEAT: tuple[Any, ...] = (None, "hb", "phoenix", "heartbeat", {})
ALIVE = [None, "hb", "phoenix", "phx_reply", JOINED]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


class Hall:
    """What the channels of a test share: gates to wait at, and a log."""

    def __init__(self) -> None:
        self.gates: dict[str, Event] = {}
        self.log: list[Any] = []
        self.ended: Queue[Any] = Queue()

    def gate(self, name: str) -> Event:
        """Return the gate of that name."""
        return self.gates.setdefault(name, Event())

    def open(self, name: str) -> None:
        """Open a gate."""
        self.gate(name).set()

    def end(self) -> Any:
        """Wait for the next end of a channel."""
        return self.ended.get(timeout=DEADLINE)


class Room(Channel):
    """Waits where it is told to."""

    def join(self, payload: Any) -> Any:
        self.hall: Hall = self.assigns["hall"]
        self.name = payload.get("name", "nobody")
        self.wait(payload)
        if "refuse" in payload:
            raise Refused(payload["refuse"])
        if "crash" in payload:
            raise RuntimeError(payload["crash"])

    def after_join(self) -> None:
        self.hall.log.append(f"{self.name} is in")
        if self.name != "nobody":
            self.push("welcome", {"name": self.name})

    @on("wait")
    def wait(self, payload: Any) -> Any:
        if "at" in payload:
            assert self.hall.gate(payload["at"]).wait(DEADLINE)
            return {"waited": payload["at"]}
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("say")
    def say(self, payload: Any) -> Any:
        self.broadcast("said", payload)
        return {}

    @on("push")
    def tell(self, payload: Any) -> Any:
        self.push("pushed", payload)
        return {}

    def terminate(self, reason: Any) -> None:
        self.assigns["hall"].ended.put(reason)


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def tab(engine: Engine, hall: Hall) -> Tab:
    return Tab(engine, serve(Room, assigns={"hall": hall}))


def replies(frames: list[Any]) -> list[Any]:
    """Return the refs and the events of frames: their order."""
    return [(frame[1], frame[3]) for frame in frames]


# Nobody waits for another


def test_a_handler_that_waits_delays_nobody_else(tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "1", "1")
    tab.join("room:2", "2", "2")
    tab.say("1", "3", "room:1", "wait", {"at": "gate"})
    tab.say(*HEARTBEAT)
    tab.say("2", "4", "room:2", "echo", {"n": 4})
    tab.say("5", "5", "room:3", "phx_join", {})
    tab.say("2", "6", "room:2", "phx_leave", {})
    tab.say("1", "7", "room:1", "echo", {"n": 7})
    frames = tab.rest()
    assert frames[0] == ALIVE
    assert replies(frames[1:]) == [("4", "phx_reply"), ("5", "phx_reply"), ("6", "phx_reply"), ("2", "phx_close")]
    hall.open("gate")
    assert tab.hear() == ["1", "3", "room:1", "phx_reply", {"status": "ok", "response": {"waited": "gate"}}]
    assert tab.hear() == ["1", "7", "room:1", "phx_reply", {"status": "ok", "response": {"n": 7}}]


def test_a_join_that_waits_delays_nobody_else(tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "1", "1")
    tab.say("2", "2", "room:2", "phx_join", {"at": "gate"})
    tab.say(*HEARTBEAT)
    tab.say("1", "3", "room:1", "echo", {})
    tab.say("4", "4", "room:3", "phx_join", {})
    assert [frame[1] for frame in tab.rest()] == ["hb", "3", "4"]
    hall.open("gate")
    assert tab.hear() == ["2", "2", "room:2", "phx_reply", JOINED]


def test_broadcasts_arrive_while_a_handler_waits(engine: Engine, tab: Tab, hall: Hall) -> None:
    tab.join()
    tab.say("1", "2", "room:1", "wait", {"at": "gate"})
    engine.broadcast(Broadcast("room:1", "news", {}))
    assert tab.hear() == [None, None, "room:1", "news", {}]
    hall.open("gate")
    assert tab.hear()[1] == "2"


def test_messages_of_one_channel_are_handled_in_order(tab: Tab, hall: Hall) -> None:
    tab.join()
    tab.say("1", "first", "room:1", "wait", {"at": "gate"})
    for number in range(20):
        tab.say("1", number, "room:1", "echo", {})
    assert tab.rest() == []
    hall.open("gate")
    assert tab.hear()[1] == "first"
    assert [tab.hear()[1] for _ in range(20)] == list(range(20))


def test_a_reader_that_is_killed_while_a_handler_waits(engine: Engine, tab: Tab, hall: Hall) -> None:
    tab.join()

    def read() -> None:
        tab.say("1", "2", "room:1", "wait", {"at": "gate"})
        hall.gate("never").wait()

    reader = gevent.spawn(read)
    turn()
    reader.kill()
    tab.leave()
    hall.open("gate")
    assert hall.end() == "closed"
    assert not engine.pubsub.subscribed("room:1")


# What waits for a join


def test_what_comes_during_a_join_is_handled_behind_it(tab: Tab, hall: Hall) -> None:
    tab.say("1", "1", "room:1", "phx_join", {"at": "gate", "name": "ann"})
    tab.say("1", "2", "room:1", "echo", {"n": 2})
    tab.say("1", "3", "room:1", "push", {})
    tab.say("stale", "4", "room:1", "echo", {})
    tab.say("1", "5", "room:1", "echo", {"n": 5})
    assert tab.rest() == []
    hall.open("gate")
    assert [tab.hear() for _ in range(6)] == [
        ["1", "1", "room:1", "phx_reply", JOINED],
        ["1", None, "room:1", "welcome", {"name": "ann"}],
        ["1", "2", "room:1", "phx_reply", {"status": "ok", "response": {"n": 2}}],
        ["1", None, "room:1", "pushed", {}],
        ["1", "3", "room:1", "phx_reply", JOINED],
        ["1", "5", "room:1", "phx_reply", {"status": "ok", "response": {"n": 5}}],
    ]
    assert tab.rest() == []


def test_a_leave_during_a_join(engine: Engine, tab: Tab, hall: Hall) -> None:
    tab.say("1", "1", "room:1", "phx_join", {"at": "gate"})
    tab.say("1", "2", "room:1", "echo", {})
    tab.say("1", "3", "room:1", "phx_leave", {})
    tab.say("1", "4", "room:1", "echo", {})
    hall.open("gate")
    assert hall.end() == "left"
    assert replies(tab.rest()) == [("1", "phx_reply"), ("2", "phx_reply"), ("3", "phx_reply"), ("1", "phx_close")]
    assert not engine.pubsub.subscribed("room:1")


@pytest.mark.parametrize("how", ["refuse", "crash"])
def test_what_waited_for_a_join_that_fails_finds_nobody(tab: Tab, hall: Hall, how: str) -> None:
    tab.say("1", "1", "room:1", "phx_join", {"at": "gate", how: "full"})
    tab.say("1", "2", "room:1", "echo", {})
    tab.say("1", "3", "room:1", "phx_leave", {})
    tab.say("4", "4", "room:1", "phx_join", {})
    hall.open("gate")
    no = JOIN_CRASHED if how == "crash" else {"status": "error", "response": {"reason": "full"}}
    assert [tab.hear() for _ in range(4)] == [
        ["1", "1", "room:1", "phx_reply", no],
        [None, "2", "room:1", "phx_reply", UNMATCHED],
        ["1", "3", "room:1", "phx_reply", JOINED],
        ["4", "4", "room:1", "phx_reply", JOINED],
    ]
    assert tab.rest() == []


def test_a_join_that_is_over_takes_no_broadcast_of_before(engine: Engine, tab: Tab, hall: Hall) -> None:
    tab.say("1", "1", "room:1", "phx_join", {"at": "gate"})
    engine.broadcast(Broadcast("room:1", "early", {}))
    turn()
    hall.open("gate")
    assert tab.hear() == ["1", "1", "room:1", "phx_reply", JOINED]
    engine.broadcast(Broadcast("room:1", "late", {}))
    assert tab.rest() == [[None, None, "room:1", "late", {}]]


# Duplicate joins


def test_the_newer_join_wins(engine: Engine, tab: Tab, hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flask_phoenix")
    tab.join("room:1", "11", "1")
    tab.say("12", "2", "room:1", "phx_join", {"name": "ann"})
    assert [tab.hear() for _ in range(3)] == [
        ["12", "2", "room:1", "phx_reply", JOINED],
        ["11", "11", "room:1", "phx_close", {}],
        ["12", None, "room:1", "welcome", {"name": "ann"}],
    ]
    assert hall.end() == "duplicate_join"
    assert "duplicate join of 'room:1'" in caplog.text
    tab.say("11", "3", "room:1", "echo", {})
    tab.say("12", "4", "room:1", "echo", {})
    assert replies(tab.rest()) == [("4", "phx_reply")]
    engine.broadcast(Broadcast("room:1", "news", {}))
    assert len(tab.rest()) == 1


def test_an_older_one_that_is_idle_cleans_up_before_the_newer_joins(tab: Tab, hall: Hall) -> None:
    class Watched(Room):
        def join(self, payload: Any) -> None:
            super().join(payload)
            self.hall.log.append(f"{self.name} joins")

        def terminate(self, reason: Any) -> None:
            self.hall.log.append(f"{self.name} cleans up")

    watched = Tab(tab.connection.engine, serve(Watched, assigns={"hall": hall}))
    for number, name in enumerate(("old", "new")):
        watched.say(number, number, "room:1", "phx_join", {"name": name})
        turn()
    assert hall.log == ["old joins", "old is in", "old cleans up", "new joins", "new is in"]


@pytest.mark.parametrize("how", ["refuse", "crash"])
def test_the_older_one_is_gone_when_the_newer_join_fails(engine: Engine, tab: Tab, hall: Hall, how: str) -> None:
    tab.join("room:1", "11", "1")
    tab.say("12", "2", "room:1", "phx_join", {how: "full"})
    no, close = tab.hear(), tab.hear()
    assert no[:4] == ["12", "2", "room:1", "phx_reply"]
    assert no[4]["status"] == "error"
    assert close == ["11", "11", "room:1", "phx_close", {}]
    reasons = [hall.end() for _ in range(1 if how == "crash" else 2)]
    assert sorted(reasons) == ["duplicate_join", "shutdown"][: len(reasons)]
    tab.say("11", "3", "room:1", "echo", {})
    assert tab.rest() == [[None, "3", "room:1", "phx_reply", UNMATCHED]]
    assert not engine.pubsub.subscribed("room:1")


def test_a_duplicate_join_waits_for_no_handler(tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "11", "1")
    tab.say("11", "2", "room:1", "wait", {"at": "gate"})
    tab.say("11", "3", "room:1", "echo", {})
    tab.say("12", "4", "room:1", "phx_join", {})
    tab.say("12", "5", "room:1", "echo", {})
    assert replies(tab.rest()) == [("4", "phx_reply"), ("11", "phx_close"), ("5", "phx_reply")]
    assert hall.ended.empty()
    hall.open("gate")
    assert hall.end() == "duplicate_join"
    late = tab.rest()
    assert all(frame[0] == "11" and frame[3] == "phx_reply" for frame in late)
    assert [frame[1] for frame in late] in ([], ["2"])


def test_a_duplicate_join_while_the_join_goes_on(tab: Tab, hall: Hall) -> None:
    tab.say("1", "1", "room:1", "phx_join", {"at": "one"})
    tab.say("2", "2", "room:1", "phx_join", {"at": "two"})
    tab.say("3", "3", "room:1", "phx_join", {})
    tab.say("1", "4", "room:1", "echo", {})
    tab.say("3", "5", "room:1", "echo", {})
    hall.open("one")
    assert tab.hear() == ["1", "1", "room:1", "phx_reply", JOINED]
    assert hall.end() == "duplicate_join"
    hall.open("two")
    assert hall.end() == "duplicate_join"
    assert replies([tab.hear() for _ in range(5)]) == [
        ("2", "phx_reply"),
        ("1", "phx_close"),
        ("3", "phx_reply"),
        ("2", "phx_close"),
        ("5", "phx_reply"),
    ]
    assert tab.rest() == []


def test_a_join_behind_a_leave_that_waits(tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "1", "1")
    tab.say("1", "2", "room:1", "wait", {"at": "gate"})
    tab.say("1", "3", "room:1", "phx_leave", {})
    tab.say("4", "4", "room:1", "phx_join", {})
    assert replies([tab.hear(), tab.hear()]) == [("4", "phx_reply"), ("1", "phx_close")]
    hall.open("gate")
    assert hall.end() in ("duplicate_join", "left")
    assert all(frame[0] == "1" and frame[3] == "phx_reply" for frame in tab.rest())
    tab.say("4", "5", "room:1", "echo", {})
    assert tab.hear()[1] == "5"


def test_a_join_behind_a_leave(tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "1", "1")
    tab.say("1", "2", "room:1", "phx_leave", {})
    tab.say("3", "3", "room:1", "phx_join", {})
    assert replies([tab.hear() for _ in range(3)]) == [("2", "phx_reply"), ("1", "phx_close"), ("3", "phx_reply")]
    assert hall.end() == "left"


def test_a_connection_that_ends_during_a_duplicate_join(engine: Engine, tab: Tab, hall: Hall) -> None:
    tab.join("room:1", "1", "1")
    tab.say("1", "2", "room:1", "wait", {"at": "old"})
    tab.say("3", "3", "room:1", "phx_join", {"at": "new"})
    tab.say("4", "4", "room:1", "phx_join", {})
    tab.leave()
    hall.open("new")
    hall.open("old")
    assert sorted([hall.end(), hall.end()]) == ["closed", "duplicate_join"]
    assert not engine.pubsub.subscribed("room:1")
    assert hall.ended.empty()


# Answers that need no channel


def test_a_topic_without_a_channel(tab: Tab, caplog: pytest.LogCaptureFixture) -> None:
    tab.say("1", "1", "nope", "phx_join", {})
    tab.say("1", "2", "nope", "echo", {})
    tab.say("1", "3", "nope", "phx_leave", {})
    assert tab.rest() == [
        [None, "1", "nope", "phx_reply", UNMATCHED],
        [None, "2", "nope", "phx_reply", UNMATCHED],
        ["1", "3", "nope", "phx_reply", JOINED],
    ]
    assert [record.getMessage() for record in caplog.records] == ["One: ignoring unmatched topic 'nope'"] * 2


def test_too_many_channels(engine: Engine, hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    tab = Tab(engine, serve(Room, assigns={"hall": hall}), max_channels=1)
    tab.join("room:1", "1", "1")
    tab.say("2", "2", "room:2", "phx_join", {})
    no = {"status": "error", "response": {"reason": "too many channels joined"}}
    assert tab.hear() == ["2", "2", "room:2", "phx_reply", no]
    assert "max_channels" in caplog.text
    tab.say("1", "3", "room:1", "phx_leave", {})
    assert replies([tab.hear(), tab.hear()]) == [("3", "phx_reply"), ("1", "phx_close")]
    tab.join("room:2", "4", "4")


@pytest.mark.parametrize("frame", ["nonsense", "[1]", b"\x07", "{}"])
def test_a_frame_that_is_no_message(tab: Tab, frame: str | bytes) -> None:
    with pytest.raises(InvalidMessage):
        tab.connection.receive(frame)
    tab.say(*HEARTBEAT)
    assert tab.hear() == ALIVE


def test_a_stale_message_is_dropped(tab: Tab) -> None:
    tab.join()
    tab.say("stale", "2", "room:1", "echo", {})
    tab.say("stale", "3", "room:1", "phx_leave", {})
    assert tab.rest() == []
    tab.say(None, "4", "room:1", "phx_leave", {})
    assert tab.rest() == [["1", "4", "room:1", "phx_reply", JOINED], ["1", "1", "room:1", "phx_close", {}]]


# Order


def crowd(engine: Engine, topic: str, size: int) -> list[bytes]:
    """Let many others hear a topic."""
    heard: list[bytes] = []
    lane = Road().lane(V2)
    for _ in range(size):
        engine.pubsub.subscribe(topic, Subscriber(lambda _: None, lane, heard.append))
    return heard


@pytest.mark.parametrize("stream", [True, False])
def test_a_broadcast_comes_before_the_reply_however_many_hear_it(engine: Engine, hall: Hall, stream: bool) -> None:
    tab = Tab(engine, serve(Room, assigns={"hall": hall}), stream=stream)
    heard = crowd(engine, "room:1", STRIDE * 3)
    tab.join()
    tab.say("1", "2", "room:1", "say", {"n": 1})
    tab.say("1", "3", "room:1", "push", {"n": 2})
    tab.say("1", "4", "room:1", "say", {"n": 3})
    tab.say(*HEARTBEAT)
    assert [(frame[1], frame[3]) for frame in (tab.hear() for _ in range(7))] == [
        (None, "said"),
        ("2", "phx_reply"),
        (None, "pushed"),
        ("3", "phx_reply"),
        (None, "said"),
        ("4", "phx_reply"),
        ("hb", "phx_reply"),
    ]
    turn(10)
    assert heard


def test_what_is_said_during_a_large_fan_out_comes_behind_it(engine: Engine, tab: Tab, hall: Hall) -> None:
    heard = crowd(engine, "room:1", STRIDE * 4)
    tab.join()
    engine.broadcast(Broadcast("room:1", "news", {}))
    while not heard:
        turn(1)
    assert len(heard) < STRIDE * 4
    tab.say("1", "2", "room:1", "echo", {})
    assert tab.hear()[3] == "news"
    assert tab.hear()[1] == "2"


def test_a_large_fan_out_delays_nobody_who_does_not_hear_it(engine: Engine, tab: Tab) -> None:
    heard = crowd(engine, "elsewhere", STRIDE * 4)
    tab.join()
    engine.broadcast(Broadcast("elsewhere", "news", {}))
    tab.say("1", "2", "room:1", "echo", {})
    assert tab.hear()[1] == "2"
    assert len(heard) < STRIDE * 4


def test_the_last_broadcast_comes_before_the_close(engine: Engine, tab: Tab) -> None:
    crowd(engine, "room:1", STRIDE * 2)
    tab.join()
    engine.broadcast(Broadcast("room:1", "news", {}))
    tab.say("1", "2", "room:1", "phx_leave", {})
    tab.say("3", "3", "room:1", "phx_join", {})
    assert replies([tab.hear() for _ in range(4)]) == [
        (None, "news"),
        ("2", "phx_reply"),
        ("1", "phx_close"),
        ("3", "phx_reply"),
    ]


@pytest.mark.parametrize("how", ["crash", "refuse"])
def test_the_last_broadcast_comes_before_the_no_to_a_duplicate_join(engine: Engine, tab: Tab, how: str) -> None:
    tab.join()
    engine.broadcast(Broadcast("room:1", "news", {}))
    tab.say("2", "2", "room:1", "phx_join", {how: "full"})
    assert replies([tab.hear() for _ in range(3)]) == [(None, "news"), ("2", "phx_reply"), ("1", "phx_close")]


def test_broadcasts_of_one_speaker_keep_their_order(engine: Engine, tab: Tab) -> None:
    tab.join("room:1", "1", "1")
    tab.join("room:2", "2", "2")
    for number in range(60):
        engine.broadcast(Broadcast(f"room:{number % 2 + 1}", "e", {"n": number}))
        if not number % 7:
            turn(1)
    assert [frame[4]["n"] for frame in tab.rest()] == list(range(60))


def test_a_burst_is_one_write(engine: Engine, tab: Tab) -> None:
    tab.join()
    turn()
    before = len(tab.road.writes)
    for number in range(10):
        engine.broadcast(Broadcast("room:1", "e", {"n": number}))
    tab.say("1", "2", "room:1", "echo", {})
    assert len(tab.rest()) == 11
    assert len(tab.road.writes) == before + 1


def test_broadcasts_from_another_thread(engine: Engine, tab: Tab) -> None:
    tab.join()

    def talk() -> None:
        for number in range(30):
            engine.broadcast(Broadcast("room:1", "e", {"n": number}))

    in_thread(talk)
    assert [tab.hear()[4]["n"] for _ in range(30)] == list(range(30))


# Room


def test_the_reader_is_held_back_by_a_channel_that_is_too_far_behind(tab: Tab, hall: Hall) -> None:
    tab.join()
    read: list[int] = []

    def reader() -> None:
        tab.say("1", "first", "room:1", "wait", {"at": "gate"})
        for number in range(INBOX_LIMIT + 10):
            tab.say("1", number, "room:1", "echo", {})
            read.append(number)

    reading = gevent.spawn(reader)
    turn()
    assert INBOX_LIMIT - 1 <= len(read) <= INBOX_LIMIT
    hall.open("gate")
    assert tab.hear()[1] == "first"
    assert [tab.hear()[1] for _ in range(INBOX_LIMIT + 10)] == list(range(INBOX_LIMIT + 10))
    reading.join(DEADLINE)
    assert reading.successful()


def test_the_reader_is_held_back_by_a_join_that_takes_too_long(tab: Tab, hall: Hall) -> None:
    read: list[int] = []

    def reader() -> None:
        tab.say("1", "first", "room:1", "phx_join", {"at": "gate"})
        for number in range(INBOX_LIMIT + 10):
            tab.say("1", number, "room:1", "echo", {})
            read.append(number)

    reading = gevent.spawn(reader)
    turn()
    assert INBOX_LIMIT - 1 <= len(read) <= INBOX_LIMIT
    hall.open("gate")
    assert tab.hear()[1] == "first"
    assert [tab.hear()[1] for _ in range(INBOX_LIMIT + 10)] == list(range(INBOX_LIMIT + 10))
    reading.join(DEADLINE)
    assert reading.successful()


@pytest.mark.parametrize("event", ["wait", "phx_join"])
def test_a_reader_that_is_held_back_goes_on_when_the_connection_ends(tab: Tab, hall: Hall, event: str) -> None:
    if event == "wait":
        tab.join()

    def reader() -> None:
        tab.say("1", "first", "room:1", event, {"at": "gate"})
        while tab.connection.open:
            tab.say("1", None, "room:1", "echo", {})

    reading = gevent.spawn(reader)
    turn()
    held_back = not reading.dead
    tab.connection.close(1001, "disconnected")
    turn()
    went_on = reading.dead
    hall.open("gate")
    assert hall.end() == "disconnected"
    reading.join(DEADLINE)
    assert (held_back, went_on) == (True, True)


# Versions


def test_a_conversation_in_vsn_1(engine: Engine, hall: Hall) -> None:
    tab = Tab(engine, serve(Room, assigns={"hall": hall}), V1)

    def say(event: str, ref: str, payload: Any) -> None:
        tab.connection.receive(json.dumps({"topic": "room:1", "event": event, "payload": payload, "ref": ref}))

    say("phx_join", "1", {"name": "ann"})
    say("say", "2", {"n": 1})
    say("unknown", "3", {})
    assert [tab.hear() for _ in range(5)] == [
        {"topic": "room:1", "event": "phx_reply", "ref": "1", "payload": JOINED},
        {"topic": "room:1", "event": "welcome", "ref": None, "payload": {"name": "ann"}},
        {"topic": "room:1", "event": "said", "ref": None, "payload": {"n": 1}},
        {"topic": "room:1", "event": "phx_reply", "ref": "2", "payload": JOINED},
        {"topic": "room:1", "event": "phx_error", "ref": None, "payload": CRASHED},
    ]


def test_versions_share_a_room(engine: Engine, hall: Hall) -> None:
    new = Tab(engine, serve(Room, assigns={"hall": hall}))
    old = Tab(engine, serve(Room, assigns={"hall": hall}), V1)
    new.join()
    old.connection.receive('{"topic":"room:1","event":"phx_join","payload":{},"ref":"1"}')
    old.hear()
    new.say("1", "2", "room:1", "say", {"n": 1})
    assert new.hear() == [None, None, "room:1", "said", {"n": 1}]
    assert old.hear() == {"topic": "room:1", "event": "said", "ref": None, "payload": {"n": 1}}


def test_what_one_version_cannot_take_crashes_the_speaker_and_reaches_nobody(engine: Engine, hall: Hall) -> None:
    class Blob(Room):
        @on("blob")
        def blob(self, payload: Any) -> Any:
            self.broadcast("blob", b"\x01")

    kind = serve(Blob, assigns={"hall": hall})
    speaker, new, old = Tab(engine, kind), Tab(engine, kind), Tab(engine, kind, V1)
    speaker.join()
    new.join()
    old.connection.receive('{"topic":"room:1","event":"phx_join","payload":{},"ref":"1"}')
    old.hear()
    speaker.say("1", "2", "room:1", "blob", {})
    assert speaker.rest() == [["1", "1", "room:1", "phx_error", CRASHED]]
    assert new.rest() == old.rest() == []
