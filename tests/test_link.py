"""One channel, as the engine runs it: joins, messages, ends, and what an author may ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix.channel import Channel, SocketRef, intercept, on
from flask_phoenix.exceptions import NotJoined, NotPublished, PhoenixError, Refused
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Reply
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from tests.processes import DEADLINE
from tests.roads import CRASHED, JOIN_CRASHED, JOINED, UNMATCHED, V1, Tab, in_thread, serve, turn
from tests.support.slow import SlowAdapter

FAILURES = [RuntimeError, gevent.GreenletExit, SystemExit, gevent.Timeout]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


class Room(Channel):
    """Lets everybody in, and remembers how it ended."""

    ended: Queue[Any]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ended = self.assigns.setdefault("ended", Queue())

    def join(self, payload: Any) -> Any:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("do")
    def do(self, payload: Any) -> Any:
        return self.done()

    def done(self) -> Any:
        """Do what a test wants done inside a message."""

    def terminate(self, reason: Any) -> None:
        self.ended.put(reason)


def enter(engine: Engine, channel: type[Room], **options: Any) -> tuple[Tab, Queue[Any]]:
    """Join ``room:1``; return the tab, and where the reason of the channel's end will be."""
    ended: Queue[Any] = Queue()
    tab = Tab(engine, serve(channel, assigns={"ended": ended}), **options)
    tab.join()
    return tab, ended


def doing(function: Callable[[Room], Any]) -> type[Room]:
    """Make a room that does something when it is told ``do``."""

    class Doer(Room):
        def done(self) -> Any:
            return function(self)

    return Doer


# The join


@pytest.mark.parametrize(
    ("returned", "status", "response"),
    [
        (None, "ok", {}),
        ({"motd": "hi"}, "ok", {"motd": "hi"}),
        (Reply("ok", [1, 2]), "ok", [1, 2]),
        (Reply("error", {"reason": "full"}), "error", {"reason": "full"}),
        (Reply("later", None), "later", None),
    ],
)
def test_what_a_join_returns_is_its_reply(engine: Engine, returned: Any, status: str, response: Any) -> None:
    class Returning(Room):
        def join(self, payload: Any) -> Any:
            return returned

    tab = Tab(engine, serve(Returning))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.hear() == ["1", "2", "room:1", "phx_reply", {"status": status, "response": response}]
    assert tab.rest() == []
    assert engine.pubsub.subscribed("room:1") is (status == "ok")


def test_a_join_may_be_answered_with_bytes(engine: Engine) -> None:
    class Returning(Room):
        def join(self, payload: Any) -> Any:
            return b"\x01\x02"

    tab = Tab(engine, serve(Returning))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.hear() == b"\x01\x01\x01\x06\x02" + b"12room:1ok" + b"\x01\x02"


def test_a_join_is_given_what_there_is_to_know(engine: Engine) -> None:
    seen: list[Any] = []

    class Knowing(Room):
        def join(self, payload: Any) -> None:
            seen.append((payload, self.topic, self.subtopic, self.params, self.transport))

    tab = Tab(engine, serve(Knowing))
    tab.socket.params["token"] = "x"
    tab.say("1", "1", "room:a:b", "phx_join", {"last": 7})
    assert seen == [({"last": 7}, "room:a:b", "a:b", {"token": "x"}, "websocket")]


def test_assigns_are_the_sockets_and_the_routes_and_its_own(engine: Engine) -> None:
    seen: list[dict[str, Any]] = []

    class Noting(Channel):
        def join(self, payload: Any) -> None:
            self.assigns["joined"] = self.topic
            seen.append(self.assigns)

    route = {"kind": "room", "level": 2}
    tab = Tab(engine, serve(Noting, assigns=route))
    tab.socket.assigns.update(user=7, level=1)
    tab.join("room:1")
    tab.join("room:2", "2", "2")
    assert seen[0] == {"user": 7, "kind": "room", "level": 2, "joined": "room:1"}
    assert seen[1] == {"user": 7, "kind": "room", "level": 2, "joined": "room:2"}
    assert (tab.socket.assigns, route) == ({"user": 7, "level": 1}, {"kind": "room", "level": 2})


@pytest.mark.parametrize("refusal", [Refused("mybad"), Refused(reason="mybad")])
def test_a_refused_join(engine: Engine, refusal: Refused, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Room):
        def join(self, payload: Any) -> None:
            raise refusal

    ended: Queue[Any] = Queue()
    tab = Tab(engine, serve(Refusing, assigns={"ended": ended}))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.hear() == ["1", "2", "room:1", "phx_reply", {"status": "error", "response": {"reason": "mybad"}}]
    assert ended.get(timeout=DEADLINE) == "shutdown"
    tab.say("1", "3", "room:1", "echo", {})
    assert tab.rest() == [[None, "3", "room:1", "phx_reply", UNMATCHED]]
    assert not engine.pubsub.subscribed("room:1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_refused_channel_cannot_push_from_its_terminate(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(Room):
        def join(self, payload: Any) -> None:
            raise Refused("no")

        def terminate(self, reason: Any) -> None:
            self.push("bye", {})

    tab = Tab(engine, serve(Refusing))
    tab.say("1", "1", "room:1", "phx_join", {})
    assert tab.hear()[4]["status"] == "error"
    assert tab.rest() == []
    assert "failed to terminate" in caplog.text
    assert "NotJoined" in caplog.text


@pytest.mark.parametrize("failure", FAILURES)
def test_a_join_that_crashes(engine: Engine, failure: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    class Crashing(Room):
        def join(self, payload: Any) -> None:
            if payload:
                raise failure()

    ended: Queue[Any] = Queue()
    tab = Tab(engine, serve(Crashing, assigns={"ended": ended}))
    tab.say("1", "2", "room:1", "phx_join", {"crash": True})
    assert tab.rest() == [["1", "2", "room:1", "phx_reply", JOIN_CRASHED]]
    assert "Crashing crashed in its join on topic 'room:1'" in caplog.text
    assert failure.__name__ in caplog.text
    assert ended.empty()
    tab.join("room:2", "3", "3")
    tab.join("room:1", "4", "4")


@pytest.mark.parametrize("returned", [7, "text", [1], True, ("ok", {})])
def test_a_join_that_returns_what_it_may_not(engine: Engine, returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Returning(Room):
        def join(self, payload: Any) -> Any:
            return returned

    tab = Tab(engine, serve(Returning))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.rest() == [["1", "2", "room:1", "phx_reply", JOIN_CRASHED]]
    assert f"Returning.join returned {returned!r}; expected a dict or bytes" in caplog.text


@pytest.mark.parametrize(
    "returned", [{"never": float("nan")}, {"thing": object()}, Reply("error", {"thing": object()})]
)
def test_a_join_whose_reply_cannot_be_written(engine: Engine, returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Returning(Room):
        def join(self, payload: Any) -> Any:
            return returned

    tab = Tab(engine, serve(Returning))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.rest() == [["1", "2", "room:1", "phx_reply", JOIN_CRASHED]]
    assert "cannot be joined" in caplog.text
    assert not engine.pubsub.subscribed("room:1")


def test_bytes_cannot_answer_a_join_of_vsn_1(engine: Engine) -> None:
    class Returning(Room):
        def join(self, payload: Any) -> Any:
            return b"\x01"

    tab = Tab(engine, serve(Returning), V1)
    tab.connection.receive('{"topic":"room:1","event":"phx_join","payload":{},"ref":"1"}')
    assert tab.hear()["payload"] == JOIN_CRASHED


def test_a_channel_whose_constructor_fails_has_crashed_in_its_join(engine: Engine) -> None:
    class Unmade(Room):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            raise RuntimeError("broken")

    tab = Tab(engine, serve(Unmade))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.rest() == [["1", "2", "room:1", "phx_reply", JOIN_CRASHED]]
    tab.leave()


SPEECHES: dict[str, Callable[[Channel], Any]] = {
    "push": lambda channel: channel.push("e", {}),
    "broadcast": lambda channel: channel.broadcast("e", {}),
    "broadcast_from": lambda channel: channel.broadcast_from("e", {}),
    "socket_ref": lambda channel: channel.socket_ref(),
}


@pytest.mark.parametrize("verb", SPEECHES)
def test_nobody_speaks_before_the_join_is_over(engine: Engine, verb: str, caplog: pytest.LogCaptureFixture) -> None:
    raised: list[NotJoined] = []

    class Hasty(Room):
        def join(self, payload: Any) -> None:
            try:
                SPEECHES[verb](self)
            except NotJoined as error:
                raised.append(error)
                raise

    tab = Tab(engine, serve(Hasty))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.rest() == [["1", "2", "room:1", "phx_reply", JOIN_CRASHED]]
    assert str(raised[0]).startswith(f"Hasty may not {verb.removesuffix('_from')} before its join is over")
    assert "after_join(self)" in str(raised[0])
    assert "NotJoined" in caplog.text


@pytest.mark.parametrize("how", ["refused", "crashed", "unwritable"])
def test_a_join_that_fails_leaves_nothing_behind(engine: Engine, how: str) -> None:
    log: list[Any] = []

    class Failing(Room):
        def join(self, payload: Any) -> Any:
            self.subscribe("news")
            self.send("a note")
            self.send_after(0, "a timer")
            if how == "unwritable":
                return {"thing": object()}
            raise Refused("no") if how == "refused" else RuntimeError("broken")

        def handle_info(self, message: Any) -> None:
            log.append(message)

    tab = Tab(engine, serve(Failing))
    tab.say("1", "2", "room:1", "phx_join", {})
    assert tab.hear()[4]["status"] == "error"
    engine.broadcast(Broadcast("news", "e", {}))
    turn(10)
    assert not engine.pubsub.subscribed("news")
    assert log == []


# Behind the join


def test_what_needs_a_joined_channel_comes_behind_the_joins_reply(engine: Engine) -> None:
    class Greeting(Room):
        def after_join(self) -> None:
            self.broadcast("user_entered", {"user": None})
            self.push("joined", {"status": "connected"})

    tab = Tab(engine, serve(Greeting))
    tab.say("11", "1", "room:1", "phx_join", {})
    assert [tab.hear() for _ in range(3)] == [
        ["11", "1", "room:1", "phx_reply", JOINED],
        [None, None, "room:1", "user_entered", {"user": None}],
        ["11", None, "room:1", "joined", {"status": "connected"}],
    ]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_crash_behind_the_join(engine: Engine, failure: type[BaseException]) -> None:
    class Greeting(Room):
        def after_join(self) -> None:
            raise failure()

    tab, ended = enter(engine, Greeting)
    assert isinstance(ended.get(timeout=DEADLINE), failure)
    assert tab.rest() == [["1", "1", "room:1", "phx_error", CRASHED]]


# Messages


@pytest.mark.parametrize(
    ("returned", "status", "response"),
    [
        ({}, "ok", {}),
        ({"id": 1}, "ok", {"id": 1}),
        (Reply(), "ok", {}),
        (Reply("ok", [1, 2]), "ok", [1, 2]),
        (Reply("error", "no"), "error", "no"),
        (Reply("queued", None), "queued", None),
    ],
)
def test_what_a_handler_returns_is_the_reply(engine: Engine, returned: Any, status: str, response: Any) -> None:
    tab, _ = enter(engine, doing(lambda channel: returned))
    tab.say("1", "2", "room:1", "do", {})
    assert tab.hear() == ["1", "2", "room:1", "phx_reply", {"status": status, "response": response}]


def test_a_handler_that_returns_nothing_does_not_reply(engine: Engine) -> None:
    tab, _ = enter(engine, doing(lambda channel: None))
    tab.say("1", "2", "room:1", "do", {})
    assert tab.rest() == []


def test_a_handler_may_return_and_take_bytes(engine: Engine) -> None:
    tab, _ = enter(engine, Room)
    tab.connection.receive(b"\x00\x01\x01\x06\x04" + b"12room:1echo" + b"\xff")
    assert tab.hear() == b"\x01\x01\x01\x06\x02" + b"12room:1ok" + b"\xff"


@pytest.mark.parametrize(
    ("refusal", "response"),
    [(Refused("no"), {"reason": "no"}), (Refused({"code": 4}), {"code": 4}), (Refused([1]), [1])],
)
def test_a_refused_message(engine: Engine, refusal: Refused, response: Any) -> None:
    def refuse(channel: Room) -> None:
        raise refusal

    tab, ended = enter(engine, doing(refuse))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "echo", {})
    assert tab.hear() == ["1", "2", "room:1", "phx_reply", {"status": "error", "response": response}]
    assert tab.hear()[1] == "3"
    assert ended.empty()


def test_payloads_need_not_be_objects(engine: Engine) -> None:
    class Any_(Room):
        def handle_in(self, event: str, payload: Any) -> Any:
            return Reply("ok", [event, payload])

    tab, _ = enter(engine, Any_)
    for number, payload in enumerate((None, 1, "text", [1, 2])):
        tab.say("1", number, "room:1", "phx_error", payload)
        assert tab.hear()[4] == {"status": "ok", "response": ["phx_error", payload]}


def test_what_a_handler_says_comes_before_its_reply(engine: Engine) -> None:
    def speak(channel: Room) -> Any:
        channel.push("first", {})
        channel.broadcast("second", {})
        channel.push("third", {})
        channel.broadcast("fourth", {})
        return {"last": True}

    tab, _ = enter(engine, doing(speak))
    tab.say("1", "2", "room:1", "do", {})
    assert [tab.hear()[3] for _ in range(5)] == ["first", "second", "third", "fourth", "phx_reply"]


def test_broadcasts_reach_all_or_all_others(engine: Engine) -> None:
    class Speaker(Room):
        @on("all")
        def all(self, payload: Any) -> None:
            self.broadcast("said", {"to": "all"})

        @on("others")
        def others(self, payload: Any) -> None:
            self.broadcast_from("said", {"to": "others"})

    speaker, other = enter(engine, Speaker)[0], enter(engine, Speaker)[0]
    for number, event in enumerate(("all", "others")):
        speaker.say("1", number, "room:1", event, {})
    to_all, to_others = ([None, None, "room:1", "said", {"to": whom}] for whom in ("all", "others"))
    assert speaker.rest() == [to_all]
    assert other.rest() == [to_all, to_others]


def test_another_channel_of_the_same_tab_is_another_one(engine: Engine) -> None:
    class Speaker(Room):
        def done(self) -> None:
            self.broadcast_from("said", {})

    tab, _ = enter(engine, Speaker)
    tab.join("room:2", "2", "2")
    tab.say("1", "3", "room:1", "do", {})
    assert tab.rest() == []


# Crashes


@pytest.mark.parametrize("failure", FAILURES)
def test_a_crash(engine: Engine, failure: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def crash(channel: Room) -> None:
        raise failure()

    tab, ended = enter(engine, doing(crash))
    tab.join("room:2", "2", "2")
    tab.say("1", "3", "room:1", "do", {})
    assert tab.rest() == [["1", "1", "room:1", "phx_error", CRASHED]]
    assert isinstance(ended.get(timeout=DEADLINE), failure)
    assert "Doer crashed on topic 'room:1'" in caplog.text
    assert failure.__name__ in caplog.text
    tab.say("1", "4", "room:1", "echo", {})
    tab.say("2", "5", "room:2", "echo", {})
    assert tab.hear() == [None, "4", "room:1", "phx_reply", UNMATCHED]
    assert tab.hear() == ["2", "5", "room:2", "phx_reply", JOINED]
    assert not engine.pubsub.subscribed("room:1")
    tab.join("room:1", "6", "6")


@pytest.mark.parametrize("returned", [7, {"never": float("nan")}, Refused({"thing": object()}), "text"])
def test_a_reply_that_cannot_be_is_a_crash(engine: Engine, returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    def do(channel: Room) -> Any:
        if isinstance(returned, Refused):
            raise returned
        return returned

    tab, ended = enter(engine, doing(do))
    tab.say("1", "2", "room:1", "do", {})
    assert tab.rest() == [["1", "1", "room:1", "phx_error", CRASHED]]
    assert isinstance(ended.get(timeout=DEADLINE), PhoenixError)


def test_an_unknown_event_is_a_crash(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    tab, _ = enter(engine, Room)
    tab.say("1", "2", "room:1", "nope", {})
    assert tab.hear() == ["1", "1", "room:1", "phx_error", CRASHED]
    assert "Room has no method for 'nope': write one under @on('nope'), or Room.handle_in" in caplog.text


@pytest.mark.parametrize("what", [[1], "text", None, {"thing": object()}])
def test_a_payload_that_cannot_be_raises_where_it_is_said(engine: Engine, what: Any) -> None:
    log: list[str] = []

    def speak(channel: Room) -> None:
        for verb in (channel.push, channel.broadcast, channel.broadcast_from):
            try:
                verb("e", what)
            except PhoenixError as error:
                log.append(type(error).__name__)

    tab, _ = enter(engine, doing(speak))
    other, _ = enter(engine, Room)
    tab.say("1", "2", "room:1", "do", {})
    assert log == ["InvalidPayload"] * 3
    assert tab.rest() == other.rest() == []


def test_terminate_comes_before_the_notice_of_a_crash(engine: Engine) -> None:
    class Crashing(Room):
        def done(self) -> None:
            raise RuntimeError("broken")

        def terminate(self, reason: Any) -> None:
            self.push("last words", {})

    tab, _ = enter(engine, Crashing)
    tab.say("1", "2", "room:1", "do", {})
    assert [frame[3] for frame in tab.rest()] == ["last words", "phx_error"]


@pytest.mark.parametrize("then", ["close", "duplicate"])
def test_what_happens_while_a_crashed_channel_cleans_up_ends_it_no_second_time(engine: Engine, then: str) -> None:
    gate = Event()

    class Cleaning(Room):
        def terminate(self, reason: Any) -> None:
            assert gate.wait(DEADLINE)
            super().terminate(reason)

    tab, ended = enter(engine, Cleaning)
    tab.say("1", "2", "room:1", "unknown", {})
    tab.say("1", "3", "room:1", "echo", {})
    if then == "close":
        tab.leave()
    else:
        tab.say("4", "4", "room:1", "phx_join", {})
        assert [tab.hear()[:4] for _ in range(2)] == [
            ["4", "4", "room:1", "phx_reply"],
            ["1", "1", "room:1", "phx_close"],
        ]
    gate.set()
    assert isinstance(ended.get(timeout=DEADLINE), PhoenixError)
    turn()
    assert ended.empty()
    assert engine.pubsub.subscribed("room:1") is (then == "duplicate")
    if then == "duplicate":
        tab.say("4", "5", "room:1", "echo", {})
        assert [frame for frame in tab.rest() if frame[0] == "4"] == [["4", "5", "room:1", "phx_reply", JOINED]]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_terminate_that_fails(engine: Engine, failure: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Room):
        def terminate(self, reason: Any) -> None:
            raise failure()

    tab, _ = enter(engine, Failing)
    tab.say("1", "2", "room:1", "phx_leave", {})
    assert [frame[3] for frame in tab.rest()] == ["phx_reply", "phx_close"]
    assert "Failing failed to terminate on topic 'room:1'" in caplog.text


# Stops


@pytest.mark.parametrize("reason", ["normal", "shutdown", ("shutdown",), ("shutdown", "moved")])
def test_a_stop_on_purpose(engine: Engine, reason: Any, caplog: pytest.LogCaptureFixture) -> None:
    def stop(channel: Room) -> Any:
        channel.stop(reason)
        return {"resp": "foo"}

    tab, ended = enter(engine, doing(stop))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "echo", {})
    assert tab.rest() == [
        ["1", "2", "room:1", "phx_reply", {"status": "ok", "response": {"resp": "foo"}}],
        ["1", "1", "room:1", "phx_close", {}],
        [None, "3", "room:1", "phx_reply", UNMATCHED],
    ]
    assert ended.get(timeout=DEADLINE) == reason
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]
    assert not engine.pubsub.subscribed("room:1")


@pytest.mark.parametrize("reason", ["boom", ("other", 1), RuntimeError("broken"), None, 7, ()])
def test_a_stop_for_any_other_reason_is_a_crash(engine: Engine, reason: Any, caplog: pytest.LogCaptureFixture) -> None:
    def stop(channel: Room) -> Any:
        channel.stop(reason)
        return {}

    tab, ended = enter(engine, doing(stop))
    tab.say("1", "2", "room:1", "do", {})
    assert [frame[3] for frame in tab.rest()] == ["phx_reply", "phx_error"]
    assert ended.get(timeout=DEADLINE) == reason
    assert "crashed" in caplog.text
    assert str(reason) in caplog.text


def test_a_stop_without_a_reason_is_normal(engine: Engine) -> None:
    tab, ended = enter(engine, doing(lambda channel: channel.stop()))
    tab.say("1", "2", "room:1", "do", {})
    assert ended.get(timeout=DEADLINE) == "normal"
    assert tab.rest() == [["1", "1", "room:1", "phx_close", {}]]


def test_a_stopped_channel_handles_nothing_more(engine: Engine) -> None:
    gate = Event()

    def stop(channel: Room) -> Any:
        channel.stop()
        assert gate.wait(DEADLINE)
        return {}

    tab, ended = enter(engine, doing(stop))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "echo", {})
    gate.set()
    assert ended.get(timeout=DEADLINE) == "normal"
    assert [frame[3] for frame in tab.rest()] == ["phx_reply", "phx_close"]


@pytest.mark.parametrize("where", ["join", "after_join", "handle_info", "handle_out"])
def test_a_channel_may_stop_anywhere(engine: Engine, where: str) -> None:
    class Stopping(Room):
        def join(self, payload: Any) -> None:
            self.mark("join")

        def after_join(self) -> None:
            self.mark("after_join")
            self.send("note")

        def handle_info(self, message: Any) -> None:
            self.mark("handle_info")
            self.broadcast("news", {})

        @intercept("news")
        def handle_out(self, event: str, payload: Any) -> None:
            self.mark("handle_out")

        def mark(self, name: str) -> None:
            """Stop if it is the time."""
            if name == where:
                self.stop("shutdown")

    tab, ended = enter(engine, Stopping)
    assert ended.get(timeout=DEADLINE) == "shutdown"
    assert tab.rest() == [["1", "1", "room:1", "phx_close", {}]]


@pytest.mark.parametrize("place", ["greenlet", "thread"])
def test_a_channel_may_be_stopped_from_elsewhere(engine: Engine, place: str) -> None:
    channels: list[Room] = []
    tab, ended = enter(engine, doing(channels.append))
    tab.say("1", "2", "room:1", "do", {})
    if place == "thread":
        in_thread(channels[0].stop, "shutdown")
    else:
        gevent.spawn(channels[0].stop, "shutdown").join(DEADLINE)
    assert ended.get(timeout=DEADLINE) == "shutdown"
    assert tab.rest() == [["1", "1", "room:1", "phx_close", {}]]


def test_a_stop_from_elsewhere_waits_for_the_callback_that_runs(engine: Engine) -> None:
    channels: list[Room] = []
    gate = Event()

    def wait(channel: Room) -> Any:
        channels.append(channel)
        assert gate.wait(DEADLINE)
        return {}

    tab, ended = enter(engine, doing(wait))
    tab.say("1", "2", "room:1", "do", {})
    channels[0].stop()
    assert tab.rest() == []
    gate.set()
    assert ended.get(timeout=DEADLINE) == "normal"
    assert [frame[3] for frame in tab.rest()] == ["phx_reply", "phx_close"]


# Leaves


def test_a_leave(engine: Engine) -> None:
    class Leaving(Room):
        def terminate(self, reason: Any) -> None:
            super().terminate(reason)
            self.push("you_left", {"message": "bye!"})
            self.broadcast("gone", {})

    tab, ended = enter(engine, Leaving)
    other, _ = enter(engine, Room)
    tab.say("1", "3", "room:1", "phx_leave", {})
    assert tab.rest() == [
        ["1", "3", "room:1", "phx_reply", JOINED],
        ["1", "1", "room:1", "phx_close", {}],
        ["1", None, "room:1", "you_left", {"message": "bye!"}],
    ]
    assert ended.get(timeout=DEADLINE) == "left"
    assert other.rest() == [[None, None, "room:1", "gone", {}]]


def test_a_leave_waits_for_what_came_before_it(engine: Engine) -> None:
    gate = Event()

    def wait(channel: Room) -> Any:
        assert gate.wait(DEADLINE)
        return {}

    tab, ended = enter(engine, doing(wait))
    for ref, event in (("2", "do"), ("3", "echo"), ("4", "phx_leave"), ("5", "phx_leave"), ("6", "echo")):
        tab.say("1", ref, "room:1", event, {})
    gate.set()
    assert ended.get(timeout=DEADLINE) == "left"
    frames = tab.rest()
    assert [(frame[1], frame[3]) for frame in frames] == [
        ("2", "phx_reply"),
        ("3", "phx_reply"),
        ("4", "phx_reply"),
        ("1", "phx_close"),
    ]
    assert ended.empty()


def test_a_leave_without_a_ref(engine: Engine) -> None:
    tab, _ = enter(engine, Room)
    tab.say(None, None, "room:1", "phx_leave", {})
    assert tab.rest() == [["1", None, "room:1", "phx_reply", JOINED], ["1", "1", "room:1", "phx_close", {}]]


# Late replies


def remember(refs: list[Any]) -> type[Room]:
    """Make a room that remembers the message that it is told ``do`` by."""
    return doing(lambda channel: refs.append((channel, channel.socket_ref())))


def test_a_late_reply(engine: Engine) -> None:
    refs: list[Any] = []
    tab, _ = enter(engine, remember(refs))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "echo", {})
    (channel, ref) = refs[0]
    channel.reply(ref, {"late": True})
    channel.reply(ref, Reply("error", "twice"))
    channel.reply(ref)
    assert ref == SocketRef("2")
    assert [tab.hear()[1] for _ in range(2)] == ["3", "2"]
    assert tab.rest() == [
        ["1", "2", "room:1", "phx_reply", {"status": "error", "response": "twice"}],
        ["1", "2", "room:1", "phx_reply", JOINED],
    ]


def test_a_late_reply_from_another_thread(engine: Engine) -> None:
    refs: list[Any] = []
    tab, _ = enter(engine, remember(refs))
    tab.say("1", "2", "room:1", "do", {})
    channel, ref = refs[0]
    in_thread(channel.reply, ref, {"from": "a thread"})
    assert tab.hear() == ["1", "2", "room:1", "phx_reply", {"status": "ok", "response": {"from": "a thread"}}]


def test_a_late_reply_of_a_channel_that_has_ended(engine: Engine) -> None:
    refs: list[Any] = []
    tab, _ = enter(engine, remember(refs))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "phx_leave", {})
    channel, ref = refs[0]
    channel.reply(ref, b"\x01")
    assert [tab.hear()[3] for _ in range(2)] == ["phx_reply", "phx_close"]
    assert tab.rest() == [b"\x01\x01\x01\x06\x02" + b"12room:1ok" + b"\x01"]


def test_a_message_without_a_ref_cannot_be_answered_later(engine: Engine) -> None:
    refs: list[Any] = []
    tab, ended = enter(engine, remember(refs))
    tab.say("1", None, "room:1", "do", {})
    assert tab.hear() == ["1", "1", "room:1", "phx_error", CRASHED]
    failure = ended.get(timeout=DEADLINE)
    assert isinstance(failure, NotJoined)
    assert "ref" in str(failure)


@pytest.mark.parametrize("ref", [0, "", False])
def test_a_ref_that_looks_like_none_is_one(engine: Engine, ref: Any) -> None:
    refs: list[Any] = []
    tab, _ = enter(engine, remember(refs))
    tab.say("1", ref, "room:1", "do", {})
    assert refs[0][1] == SocketRef(ref)


def test_outside_a_message_there_is_nothing_to_remember(engine: Engine) -> None:
    class Asking(Room):
        def handle_info(self, message: Any) -> None:
            self.socket_ref()

    refs: list[Any] = []
    tab, ended = enter(engine, type("Both", (Asking, remember(refs)), {}))
    tab.say("1", "2", "room:1", "do", {})
    channel, _ = refs[0]
    with pytest.raises(NotJoined):
        channel.socket_ref()
    channel.send("ask")
    assert isinstance(ended.get(timeout=DEADLINE), NotJoined)


def test_a_handler_that_waits_remembers_its_own_message(engine: Engine) -> None:
    gate = Event()
    refs: list[SocketRef] = []

    def wait(channel: Room) -> None:
        assert gate.wait(DEADLINE)
        refs.append(channel.socket_ref())

    tab, _ = enter(engine, doing(wait))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "do", {})
    gate.set()
    turn()
    assert refs == [SocketRef("2"), SocketRef("3")]


# Notes to itself


class Noting(Room):
    """Pushes what it is informed of."""

    def handle_info(self, message: Any) -> None:
        self.push("info", {"message": message if isinstance(message, str) else list(message)})


def test_notes_are_handled_in_order_behind_what_runs(engine: Engine) -> None:
    class Sending(Noting):
        def done(self) -> Any:
            self.send("one")
            self.send("two")
            return {}

    tab, _ = enter(engine, Sending)
    tab.say("1", "2", "room:1", "do", {})
    frames = tab.rest()
    assert [frame[3] for frame in frames] == ["phx_reply", "info", "info"]
    assert frames[1:] == [["1", None, "room:1", "info", {"message": each}] for each in ("one", "two")]


def test_a_note_sent_in_the_join_is_handled_behind_it(engine: Engine) -> None:
    class Sending(Noting):
        def join(self, payload: Any) -> None:
            self.send("from the join")

        def after_join(self) -> None:
            self.push("after_join", {})

    tab, _ = enter(engine, Sending)
    assert [frame[3] for frame in tab.rest()] == ["after_join", "info"]


@pytest.mark.parametrize("place", ["greenlet", "thread"])
def test_a_note_from_elsewhere(engine: Engine, place: str) -> None:
    channels: list[Room] = []
    tab, _ = enter(engine, type("Both", (Noting, doing(channels.append)), {}))
    tab.say("1", "2", "room:1", "do", {})
    if place == "thread":
        in_thread(channels[0].send, "note")
    else:
        gevent.spawn(channels[0].send, "note").join(DEADLINE)
    assert tab.hear() == ["1", None, "room:1", "info", {"message": "note"}]


def test_a_note_that_nobody_handles_is_logged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    tab, ended = enter(engine, doing(lambda channel: channel.send("unhandled")))
    tab.say("1", "2", "room:1", "do", {})
    turn()
    assert "Doer has no handle_info(self, message); ignored: 'unhandled'" in caplog.text
    tab.say("1", "3", "room:1", "echo", {})
    assert tab.hear()[1] == "3"
    assert ended.empty()


def test_a_note_later(engine: Engine) -> None:
    def send(channel: Room) -> Any:
        channel.send_after(0.002, "second")
        channel.send_after(0, "first")
        return {}

    tab, _ = enter(engine, type("Both", (Noting, doing(send)), {}))
    tab.say("1", "2", "room:1", "do", {})
    assert [tab.hear()[4] for _ in range(3)] == [JOINED, {"message": "first"}, {"message": "second"}]


def test_a_note_later_can_be_cancelled(engine: Engine) -> None:
    cancels: list[Callable[[], None]] = []

    def send(channel: Room) -> None:
        cancels.append(channel.send_after(0, "cancelled"))
        cancels.append(channel.send_after(0.001, "kept"))

    tab, _ = enter(engine, type("Both", (Noting, doing(send)), {}))
    tab.say("1", "2", "room:1", "do", {})
    cancels[0]()
    cancels[0]()
    assert tab.hear()[4] == {"message": "kept"}
    cancels[1]()
    assert tab.rest() == []


def test_timers_end_with_their_channel(engine: Engine) -> None:
    cancels: list[Callable[[], None]] = []
    channels: list[Room] = []

    def send(channel: Room) -> None:
        channels.append(channel)
        cancels.append(channel.send_after(0, "never"))

    tab, _ = enter(engine, type("Both", (Noting, doing(send)), {}))
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "phx_leave", {})
    assert [tab.hear()[3] for _ in range(2)] == ["phx_reply", "phx_close"]
    cancels[0]()
    channels[0].send_after(0, "never")()
    channels[0].send_after(0, "never")
    channels[0].send("never")
    channels[0].subscribe("news")
    channels[0].unsubscribe("news")
    channels[0].stop()
    rung = Event()
    gevent.spawn_later(0.005, rung.set)
    assert rung.wait(DEADLINE)
    assert tab.rest() == []
    assert not engine.pubsub.subscribed("news")


# Other topics


class Reader(Room):
    """Hears other topics."""

    @on("subscribe")
    def start(self, payload: Any) -> Any:
        self.subscribe(payload["topic"])
        return {}

    @on("unsubscribe")
    def end(self, payload: Any) -> Any:
        self.unsubscribe(payload["topic"])
        return {}

    def handle_info(self, message: Any) -> None:
        assert isinstance(message, Broadcast)
        self.push("heard", {"topic": message.topic, "event": message.event, **message.payload})


def call(tab: Tab, event: str, topic: str) -> None:
    """Tell a reader something, and hear that it is done."""
    tab.say("1", "9", "room:1", event, {"topic": topic})
    assert tab.hear() == ["1", "9", "room:1", "phx_reply", JOINED]


def test_other_topics_are_heard_until_they_are_not(engine: Engine) -> None:
    tab, _ = enter(engine, Reader)
    call(tab, "subscribe", "news")
    engine.broadcast(Broadcast("news", "e", {"n": 1}))
    assert tab.rest() == [["1", None, "room:1", "heard", {"topic": "news", "event": "e", "n": 1}]]
    call(tab, "unsubscribe", "news")
    call(tab, "unsubscribe", "news")
    engine.broadcast(Broadcast("news", "e", {"n": 2}))
    assert tab.rest() == []


def test_who_subscribes_twice_hears_twice(engine: Engine) -> None:
    tab, _ = enter(engine, Reader)
    call(tab, "subscribe", "news")
    call(tab, "subscribe", "news")
    engine.broadcast(Broadcast("news", "e", {}))
    assert len(tab.rest()) == 2


def test_its_own_topic_can_be_heard_too(engine: Engine) -> None:
    tab, _ = enter(engine, Reader)
    call(tab, "subscribe", "room:1")
    engine.broadcast(Broadcast("room:1", "e", {}))
    assert [frame[3] for frame in tab.rest()] == ["e", "heard"]


def test_an_unsubscription_without_a_subscription(engine: Engine) -> None:
    tab, _ = enter(engine, Reader)
    call(tab, "unsubscribe", "news")


@pytest.mark.parametrize("how", ["leave", "crash", "close", "duplicate"])
def test_subscriptions_end_with_the_channel(engine: Engine, how: str) -> None:
    tab, ended = enter(engine, Reader)
    call(tab, "subscribe", "news")
    call(tab, "subscribe", "more")
    if how == "close":
        tab.leave()
    elif how == "duplicate":
        tab.say("2", "2", "room:1", "phx_join", {})
    else:
        tab.say("1", "2", "room:1", "phx_leave" if how == "leave" else "unknown", {})
    ended.get(timeout=DEADLINE)
    assert not engine.pubsub.subscribed("news")
    assert not engine.pubsub.subscribed("more")
    assert engine.pubsub.subscribed("room:1") is (how == "duplicate")


# Interception


class Picky(Room):
    """Lets broadcasts pass through itself."""

    def done(self) -> Any:
        self.broadcast("news", {"n": 1})
        self.broadcast("plain", {})
        return {}

    @intercept("news")
    def news(self, payload: Any) -> None:
        self.push("news", {**payload, "transport": self.transport})

    @intercept("other")
    def handle_out(self, event: str, payload: Any) -> None:
        super().handle_out(event, payload)


def test_an_intercepted_broadcast_comes_behind_the_reply(engine: Engine) -> None:
    tab, _ = enter(engine, Picky)
    tab.say("1", "2", "room:1", "do", {})
    assert [tab.hear() for _ in range(3)] == [
        [None, None, "room:1", "plain", {}],
        ["1", "2", "room:1", "phx_reply", JOINED],
        ["1", None, "room:1", "news", {"n": 1, "transport": "websocket"}],
    ]


def test_each_channel_intercepts_for_itself(engine: Engine) -> None:
    picky, plain = enter(engine, Picky)[0], enter(engine, Room)[0]
    engine.broadcast(Broadcast("room:1", "other", {"n": 1}))
    assert picky.rest() == [["1", None, "room:1", "other", {"n": 1}]]
    assert plain.rest() == [[None, None, "room:1", "other", {"n": 1}]]


def test_a_crash_in_an_interception(engine: Engine) -> None:
    class Crashing(Room):
        @intercept("news")
        def news(self, payload: Any) -> None:
            raise RuntimeError("broken")

    tab, ended = enter(engine, Crashing)
    engine.broadcast(Broadcast("room:1", "news", {}))
    assert isinstance(ended.get(timeout=DEADLINE), RuntimeError)
    assert tab.rest() == [["1", "1", "room:1", "phx_error", CRASHED]]


@pytest.mark.parametrize("road", ["intercepted", "subscribed"])
def test_a_channel_that_is_slower_than_its_broadcasts_crashes(engine: Engine, road: str) -> None:
    gate, entered = Event(), Event()
    waiting: list[int] = []

    class Slow(Room):
        def after_join(self) -> None:
            self.subscribe("subscribed")

        @intercept("news")
        def news(self, payload: Any) -> None:
            entered.set()
            assert gate.wait(DEADLINE)

        def handle_info(self, message: Any) -> None:
            self.news(message.payload)

    tab, ended = enter(engine, Slow)
    topic = "room:1" if road == "intercepted" else "subscribed"
    for _ in range(INBOX_LIMIT * 3):
        engine.broadcast(Broadcast(topic, "news", {}))
    assert entered.wait(DEADLINE)
    turn()
    waiting.append(len(tab.connection.protocol.memberships["room:1"].server.inbox))
    gate.set()
    failure = ended.get(timeout=DEADLINE)
    assert isinstance(failure, PhoenixError)
    assert f"{INBOX_LIMIT} messages wait" in str(failure)
    assert tab.hear() == ["1", "1", "room:1", "phx_error", CRASHED]
    assert waiting[0] <= INBOX_LIMIT + 10


# The end of the connection


@pytest.mark.parametrize("reason", ["closed", "timeout", "disconnected", "draining"])
def test_the_end_of_a_connection_is_the_end_of_its_channels(engine: Engine, reason: str) -> None:
    tab, ended = enter(engine, Room)
    tab.join("room:2", "2", "2")
    tab.connection.closed(reason)
    assert [ended.get(timeout=DEADLINE) for _ in range(2)] == [reason] * 2
    assert tab.rest() == []
    assert not engine.pubsub.subscribed("room:1")
    assert not engine.pubsub.subscribed("room:2")
    assert tab.connection.protocol.memberships == {}


def test_disconnecting_by_id(engine: Engine) -> None:
    tab, ended = enter(engine, Room, name="user:1")
    engine.broadcast(Broadcast("user:1", "disconnect", {}))
    assert ended.get(timeout=DEADLINE) == "disconnected"
    assert tab.road.closed == (1001, "disconnected")
    assert tab.rest() == []
    assert not engine.pubsub.subscribed("user:1")


def test_a_handler_that_runs_may_finish(engine: Engine) -> None:
    gate = Event()
    log: list[str] = []

    class Waiting(Room):
        def done(self) -> Any:
            assert gate.wait(DEADLINE)
            self.push("late", {})
            self.broadcast("late", {})
            log.append("finished")
            return {}

        def terminate(self, reason: Any) -> None:
            log.append(reason)
            super().terminate(reason)

    tab, ended = enter(engine, Waiting)
    tab.say("1", "2", "room:1", "do", {})
    tab.say("1", "3", "room:1", "do", {})
    tab.leave()
    assert not engine.pubsub.subscribed("room:1")
    turn()
    assert log == []
    gate.set()
    assert ended.get(timeout=DEADLINE) == "closed"
    assert log == ["finished", "closed"]
    assert ended.empty()


@pytest.mark.parametrize("failure", FAILURES)
def test_a_handler_that_crashes_behind_the_end_ends_nothing_twice(engine: Engine, failure: type[BaseException]) -> None:
    gate = Event()

    def crash(channel: Room) -> None:
        assert gate.wait(DEADLINE)
        raise failure()

    tab, ended = enter(engine, doing(crash))
    tab.say("1", "2", "room:1", "do", {})
    tab.leave()
    gate.set()
    assert ended.get(timeout=DEADLINE) == "closed"
    assert ended.empty()
    assert tab.rest() == []


def test_a_connection_that_ends_while_a_constructor_waits(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    gate, entered = Event(), Event()

    class Unmade(Room):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            entered.set()
            assert gate.wait(DEADLINE)
            raise RuntimeError("broken")

    ended: Queue[Any] = Queue()
    tab = Tab(engine, serve(Unmade, assigns={"ended": ended}))
    tab.say("1", "1", "room:1", "phx_join", {})
    assert entered.wait(DEADLINE)
    tab.leave()
    gate.set()
    assert tab.rest() == []
    assert ended.empty()
    assert [record.getMessage() for record in caplog.records] == ["Unmade crashed in its join on topic 'room:1'"]


def test_what_was_on_its_way_when_the_connection_ended_is_dropped(engine: Engine) -> None:
    log: list[str] = []

    class Noting(Room):
        def done(self) -> None:
            channels.append(self)

        def handle_info(self, message: Any) -> None:
            log.append("handle_info")

        @intercept("news")
        def news(self, payload: Any) -> None:
            log.append("news")

    channels: list[Room] = []
    noted, told = enter(engine, Noting), enter(engine, Noting)
    noted[0].say("1", "2", "room:1", "do", {})
    channels[0].send("note")
    noted[0].leave()
    # Told in the same turn, behind the channel's own interception.
    engine.pubsub.subscribe("room:1", Subscriber(lambda _: told[0].leave()))
    engine.broadcast(Broadcast("room:1", "news", {}))
    assert [ended.get(timeout=DEADLINE) for _, ended in (noted, told)] == ["closed", "closed"]
    turn()
    assert log == []


@pytest.mark.parametrize("outcome", ["yes", "no", "crash"])
def test_a_connection_that_ends_during_a_join(engine: Engine, outcome: str) -> None:
    gate, entered = Event(), Event()

    class Slow(Room):
        def join(self, payload: Any) -> None:
            self.subscribe("news")
            entered.set()
            assert gate.wait(DEADLINE)
            if outcome != "yes":
                raise Refused("no") if outcome == "no" else RuntimeError("broken")

        def after_join(self) -> None:
            self.push("never", {})

    ended: Queue[Any] = Queue()
    tab = Tab(engine, serve(Slow, assigns={"ended": ended}))
    tab.say("1", "1", "room:1", "phx_join", {})
    tab.say("1", "2", "room:1", "echo", {})
    assert entered.wait(DEADLINE)
    tab.leave()
    gate.set()
    assert ended.get(timeout=DEADLINE) == "closed"
    assert tab.rest() == []
    assert not engine.pubsub.subscribed("room:1")
    assert not engine.pubsub.subscribed("news")
    assert ended.empty()


def test_nothing_is_left_in_the_pubsub(engine: Engine) -> None:
    tabs = [enter(engine, Picky, name=f"user:{number}")[0] for number in range(3)]
    tabs[0].say("1", "2", "room:1", "phx_leave", {})
    tabs[1].say("1", "2", "room:1", "unknown", {})
    turn()
    for tab in tabs:
        tab.leave()
    turn()
    topics = ["room:1", *(f"user:{number}" for number in range(3))]
    assert not any(engine.pubsub.subscribed(topic) for topic in topics)
    assert engine.connections == set()


# Contexts


def test_each_callback_has_a_context_of_its_own() -> None:
    log: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        log.append("(")
        yield
        log.append(")")

    class Noting(Room):
        def join(self, payload: Any) -> None:
            log.append("join")

        def after_join(self) -> None:
            log.append("after_join")

        def done(self) -> Any:
            log.append("do")
            self.send("note")
            return {}

        def handle_info(self, message: Any) -> None:
            log.append("handle_info")

        @intercept("news")
        def news(self, payload: Any) -> None:
            log.append("news")

        def terminate(self, reason: Any) -> None:
            log.append("terminate")
            super().terminate(reason)

    engine = Engine(context, Json())
    tab, ended = enter(engine, Noting)
    tab.say("1", "2", "room:1", "do", {})
    turn()
    engine.broadcast(Broadcast("room:1", "news", {}))
    turn()
    tab.leave()
    ended.get(timeout=DEADLINE)
    engine.stop()
    assert "".join(log) == "(join)(after_join)(do)(handle_info)(news)(terminate)"


def test_listeners_of_the_apps_hear_what_channels_say(engine: Engine) -> None:
    told: list[Broadcast] = []
    engine.pubsub.subscribe("room:1", Subscriber(told.append))
    tab, _ = enter(engine, doing(lambda channel: channel.broadcast_from("e", {"n": 1})))
    tab.say("1", "2", "room:1", "do", {})
    turn()
    assert told == [Broadcast("room:1", "e", {"n": 1})]


# A topic that takes its time


class Diary(Room):
    """Writes down what becomes of it, and says something as soon as it may."""

    def after_join(self) -> None:
        self.assigns["log"].append("after_join")
        self.push("hello", {})

    def done(self) -> Any:
        self.assigns["log"].append("do")
        return {}

    def terminate(self, reason: Any) -> None:
        self.assigns["log"].append(reason)


def knock(engine: Engine, log: list[Any], channel: type[Room] = Diary, **options: Any) -> Tab:
    """Ask for ``room:1``, and come so far that the other nodes are told."""
    tab = Tab(engine, serve(channel, assigns={"log": log}), **options)
    tab.say("1", "1", "room:1", "phx_join", {})
    assert tab.rest() == []
    return tab


HELLO: list[Any] = ["1", None, "room:1", "hello", {}]
YES: list[Any] = ["1", "1", "room:1", "phx_reply", JOINED]


def test_a_join_is_answered_when_the_other_nodes_know(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    far.broadcast(Broadcast("room:1", "too early", {}))
    assert (tab.rest(), log, slow.asked) == ([], [], ["room:1"])
    slow.confirm()
    far.broadcast(Broadcast("room:1", "news", {}))
    assert tab.rest() == [YES, HELLO, [None, None, "room:1", "news", {}]]
    tab.say("1", "2", "room:1", "phx_leave", {})
    turn()
    assert (log, slow.topics) == (["after_join", "left"], [])


def test_each_of_many_is_answered_when_the_other_nodes_know(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tabs = [knock(far, log) for _ in range(3)]
    assert slow.asked == ["room:1"] * 3
    for number, tab in enumerate(tabs):
        slow.confirm()
        assert tab.rest() == [YES, HELLO]
        assert [other.rest() for other in tabs[number + 1 :]] == [[]] * (2 - number)
    late = Tab(far, serve(Diary, assigns={"log": log}))
    late.join()
    assert slow.asked == []


def test_what_comes_while_a_join_waits_is_handled_behind_it_and_in_order(far: Engine, slow: SlowAdapter) -> None:
    gate = Event()

    class Waiting(Room):
        def join(self, payload: Any) -> None:
            assert gate.wait(DEADLINE)

        def after_join(self) -> None:
            self.push("hello", {})

    tab = knock(far, [], Waiting)
    steps: list[Callable[[], Any]] = [gate.set, slow.confirm, turn]
    for number, then in enumerate(steps):
        tab.say("1", f"{number}", "room:1", "echo", {"n": number})
        then()
        turn()
    frames = tab.rest()
    assert frames[:2] == [YES, HELLO]
    assert [(frame[1], frame[4]["response"]) for frame in frames[2:]] == [(str(n), {"n": n}) for n in range(3)]


def test_nobody_speaks_through_a_channel_whose_join_waits(far: Engine, slow: SlowAdapter) -> None:
    channels: list[Channel] = []

    class Shared(Room):
        def join(self, payload: Any) -> None:
            channels.append(self)

    tab = knock(far, [], Shared)
    for speak in SPEECHES.values():
        with pytest.raises(NotJoined):
            speak(channels[0])
    assert tab.rest() == []
    slow.confirm()
    channels[0].push("e", {})
    assert tab.rest() == [YES, ["1", None, "room:1", "e", {}]]


@pytest.mark.parametrize("reason", ["closed", "draining"])
def test_a_connection_that_ends_while_a_join_waits(far: Engine, slow: SlowAdapter, reason: str) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    tab.say("1", "2", "room:1", "do", {})
    if reason == "closed":
        tab.leave()
    else:
        tab.connection.close(1012, reason)
    turn()
    slow.confirm()
    far.broadcast(Broadcast("room:1", "news", {}))
    assert tab.rest() == []
    assert (log, slow.topics) == ([reason], [])
    assert not far.pubsub.subscribed("room:1")
    assert far.connections == set()
    assert tab.connection.protocol.memberships == {}


def test_a_connection_that_ends_leaves_a_topic_to_those_who_still_wait(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tabs = [knock(far, log) for _ in range(3)]
    tabs[0].leave()
    slow.confirm()
    slow.confirm()
    tabs[2].leave()
    slow.confirm()
    far.broadcast(Broadcast("room:1", "news", {}))
    assert [tab.rest() for tab in tabs] == [[], [YES, HELLO, [None, None, "room:1", "news", {}]], []]
    assert (log, slow.topics) == (["closed", "after_join", "closed"], ["room:1"])
    tabs[1].leave()
    turn()
    assert (slow.topics, far.pubsub.subscribed("room:1")) == ([], False)


def test_a_client_that_leaves_while_its_join_waits(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    tab.say("1", "2", "room:1", "phx_leave", {})
    assert tab.rest() == []
    slow.confirm()
    frames = tab.rest()
    assert [frame for frame in frames if frame != HELLO] == [
        YES,
        ["1", "2", "room:1", "phx_reply", JOINED],
        ["1", "1", "room:1", "phx_close", {}],
    ]
    assert (log[-1], slow.topics, tab.connection.protocol.memberships) == ("left", [], {})
    tab.say("1", "3", "room:1", "echo", {})
    assert tab.rest() == [[None, "3", "room:1", "phx_reply", UNMATCHED]]


def test_a_client_that_joins_anew_while_its_join_waits(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    tab.say("2", "2", "room:1", "phx_join", {})
    tab.say("2", "3", "room:1", "echo", {"n": 1})
    while slow.asked:
        slow.confirm()
    far.broadcast(Broadcast("room:1", "news", {}))
    frames = tab.rest()
    mine = [frame for frame in frames if frame[0] != "1"]
    assert mine == [
        ["2", "2", "room:1", "phx_reply", JOINED],
        ["2", None, "room:1", "hello", {}],
        ["2", "3", "room:1", "phx_reply", {"status": "ok", "response": {"n": 1}}],
        [None, None, "room:1", "news", {}],
    ]
    former = [frame for frame in frames if frame[0] == "1"]
    assert former[-1] == ["1", "1", "room:1", "phx_close", {}]
    assert frames.index(former[-1]) == frames.index(mine[0]) + 1
    assert all(frames.index(frame) < frames.index(mine[0]) for frame in former[:-1])
    assert log.count("duplicate_join") == 1
    tab.leave()
    turn()
    assert (log[-1], slow.topics, far.pubsub.subscribed("room:1")) == ("closed", [], False)


def test_a_channel_that_is_replaced_twice_while_joins_wait(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    slow.confirm()
    assert tab.rest() == [YES, HELLO]
    for ref in "23":
        tab.say(ref, ref, "room:1", "phx_join", {})
        turn()
    while slow.asked:
        slow.confirm()
    frames = tab.rest()
    assert ["3", "3", "room:1", "phx_reply", JOINED] in frames
    assert [frame[0] for frame in frames if frame[3] == "phx_close"] == ["1", "2"]
    assert log.count("duplicate_join") == 2
    far.broadcast(Broadcast("room:1", "news", {}))
    assert tab.rest() == [[None, None, "room:1", "news", {}]]


@pytest.mark.parametrize("reason", ["shutdown", "broken"])
def test_a_channel_that_is_stopped_while_its_join_waits(far: Engine, slow: SlowAdapter, reason: str) -> None:
    log: list[Any] = []
    channels: list[Channel] = []

    class Shared(Diary):
        def join(self, payload: Any) -> None:
            channels.append(self)

    tab = knock(far, log, Shared)
    channels[0].stop(reason)
    assert tab.rest() == []
    slow.confirm()
    frames = [frame for frame in tab.rest() if frame != HELLO]
    assert frames == [
        YES,
        ["1", "1", "room:1", *(("phx_close", {}) if reason == "shutdown" else ("phx_error", CRASHED))],
    ]
    assert (log[-1], slow.topics, tab.connection.protocol.memberships) == (reason, [], {})


def test_a_topic_that_cannot_be_had_crashes_the_join(
    far: Engine, slow: SlowAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    tab.say("1", "2", "room:1", "do", {})
    slow.confirm(NotPublished("out of reach"))
    assert tab.rest() == [
        ["1", "1", "room:1", "phx_reply", JOIN_CRASHED],
        [None, "2", "room:1", "phx_reply", UNMATCHED],
    ]
    assert "out of reach" in caplog.text
    assert (slow.topics, tab.connection.protocol.memberships) == ([], {})
    assert "after_join" not in log
    tab.say("3", "3", "room:1", "phx_join", {})
    turn()
    slow.confirm()
    assert tab.hear() == ["3", "3", "room:1", "phx_reply", JOINED]


def test_a_connection_that_ends_before_a_topic_turns_out_not_to_be_had(far: Engine, slow: SlowAdapter) -> None:
    log: list[Any] = []
    tab = knock(far, log)
    tab.leave()
    slow.confirm(NotPublished("out of reach"))
    assert (tab.rest(), log, slow.topics) == ([], ["closed"], [])


@pytest.mark.parametrize("where", ["join", "handler"])
def test_a_channel_waits_for_other_topics_too(far: Engine, slow: SlowAdapter, where: str) -> None:
    slow.quick = ("room:1",)
    log: list[Any] = []

    class Reading(Diary):
        def join(self, payload: Any) -> None:
            if where == "join":
                self.subscribe("news")

        def done(self) -> Any:
            self.subscribe("news")
            return super().done()

        def handle_info(self, message: Any) -> None:
            log.append(message.event)

    tab = Tab(far, serve(Reading, assigns={"log": log}))
    tab.say("1", "1", "room:1", "phx_join", {})
    if where == "handler":
        tab.say("1", "2", "room:1", "do", {})
    turn()
    far.broadcast(Broadcast("news", "too early", {}))
    before = tab.rest()
    assert slow.asked == ["news"]
    slow.confirm()
    far.broadcast(Broadcast("news", "heard", {}))
    frames = before + tab.rest()
    assert (len(before), len(frames)) == ((0, 2) if where == "join" else (2, 3))
    assert log[-1] == "heard"
    assert "too early" not in log


def test_a_connection_that_ends_while_a_channel_waits_for_another_topic(far: Engine, slow: SlowAdapter) -> None:
    slow.quick = ("room:1",)
    log: list[Any] = []

    class Reading(Diary):
        def done(self) -> Any:
            self.subscribe("news")
            return super().done()

    tab = Tab(far, serve(Reading, assigns={"log": log}))
    tab.join()
    assert tab.hear() == HELLO
    tab.say("1", "2", "room:1", "do", {})
    turn()
    tab.leave()
    slow.confirm()
    assert (slow.topics, far.pubsub.subscribed("news")) == ([], False)
    assert log == ["after_join", "do", "closed"]


# What is held until the end


def held(channel: Room, log: Queue[Any]) -> Any:
    """Hold something for a channel, and note when it is let go."""
    assert channel.runtime.at_end(lambda: log.put("released")) is True
    return {}


@pytest.mark.parametrize("end", ["leave", "closed", "crash", "stop", "bad stop", "duplicate join"])
def test_what_is_held_is_let_go_at_the_end(engine: Engine, end: str) -> None:
    log: Queue[Any] = Queue()
    acts: list[Callable[[Room], Any]] = [lambda channel: held(channel, log)]

    class Ending(Room):
        def done(self) -> Any:
            return acts.pop()(self)

        def handle_info(self, message: Any) -> None:
            raise RuntimeError(message)

        def terminate(self, reason: Any) -> None:
            super().terminate(log.qsize() == 1)

    tab, ended = enter(engine, Ending)
    tab.say("1", "2", "room:1", "do", {})
    turn()
    assert log.empty()
    if end == "leave":
        tab.say("1", "3", "room:1", "phx_leave", {})
    elif end == "closed":
        tab.leave()
    elif end == "crash":
        tab.connection.protocol.memberships["room:1"].server.send("broken")
    elif end == "duplicate join":
        tab.say("9", "9", "room:1", "phx_join", {})
    else:
        acts.append(lambda channel: channel.stop("normal" if end == "stop" else "broken"))
        tab.say("1", "3", "room:1", "do", {})
    assert ended.get(timeout=DEADLINE) is True, "it was let go before the author cleans up"
    turn()
    assert [log.get_nowait() for _ in range(log.qsize())] == ["released"]


def test_nothing_is_held_before_the_join_is_over_nor_behind_the_end(engine: Engine) -> None:
    answers: Queue[Any] = Queue()

    class Hasty(Room):
        def join(self, payload: Any) -> Any:
            with pytest.raises(NotJoined, match="may not track before its join is over: do it in after_join"):
                self.runtime.at_end(lambda: answers.put("released"))

        def terminate(self, reason: Any) -> None:
            answers.put(self.runtime.at_end(lambda: answers.put("released")))
            super().terminate(reason)

    tab, ended = enter(engine, Hasty)
    tab.leave()
    ended.get(timeout=DEADLINE)
    turn()
    assert [answers.get_nowait() for _ in range(answers.qsize())] == [False]


def test_what_a_crash_holds_in_its_terminate_is_let_go_too(engine: Engine) -> None:
    answers: Queue[Any] = Queue()

    class Crashing(Room):
        def done(self) -> Any:
            raise RuntimeError("broken")

        def terminate(self, reason: Any) -> None:
            answers.put(self.runtime.at_end(lambda: answers.put("released")))
            super().terminate(reason)

    tab, ended = enter(engine, Crashing)
    tab.say("1", "2", "room:1", "do", {})
    ended.get(timeout=DEADLINE)
    turn()
    assert [answers.get_nowait() for _ in range(answers.qsize())] == [True, "released"]
