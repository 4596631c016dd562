"""The author's class for a family of topics: its marks, its returns, and what it asks of the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from flask_phoenix.channel import Channel, ChannelRuntime, SocketRef, Tracking, as_reply, intercept, on
from flask_phoenix.exceptions import InvalidOption, InvalidReturn, Refused, UnknownEvent
from flask_phoenix.protocol.messages import Reply


class Notes(ChannelRuntime):
    """An engine that writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def push(self, event: str, payload: Any) -> None:
        self.asked.append(("push", event, payload))

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        self.asked.append(("broadcast", event, payload, everybody))

    def socket_ref(self) -> SocketRef:
        return SocketRef("7")

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        self.asked.append(("reply", socket_ref, reply))

    def stop(self, reason: Any) -> None:
        self.asked.append(("stop", reason))

    def send(self, message: Any) -> None:
        self.asked.append(("send", message))

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        self.asked.append(("send_after", seconds, message))
        return lambda: self.asked.append(("cancel",))

    def subscribe(self, topic: str) -> None:
        self.asked.append(("subscribe", topic))

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(("unsubscribe", topic))


class Room(Channel):
    """Uses every mark."""

    def join(self, payload: Any) -> None:
        return None

    @on("new_msg")
    def new_msg(self, payload: Any) -> dict[str, Any]:
        return {"said": payload}

    @on("shout", "yell")
    def loud(self, payload: Any) -> None:
        self.push("loud", payload)

    @intercept("news")
    def filter_news(self, payload: Any) -> None:
        self.push("news", {"filtered": payload})

    @intercept("first", "second")
    def handle_out(self, event: str, payload: Any) -> None:
        self.push(event, {"out": payload})


def make(channel: type[Channel] = Room) -> tuple[Any, Notes]:
    """Make a channel and its engine."""
    notes = Notes()
    return channel(notes, "room:42", "42", {"user": 7}), notes


# Marks


def test_a_channel_knows_its_topic() -> None:
    channel, _ = make()
    assert (channel.topic, channel.subtopic, channel.assigns) == ("room:42", "42", {"user": 7})


def test_marked_methods_are_gathered() -> None:
    assert Room.handlers == {"new_msg": "new_msg", "shout": "loud", "yell": "loud"}
    assert Room.interceptors == {"news": "filter_news", "first": "handle_out", "second": "handle_out"}
    assert Room.intercepts == {"news", "first", "second"}
    assert (Channel.handlers, Channel.interceptors, Channel.intercepts) == ({}, {}, frozenset())


def test_events_find_their_methods() -> None:
    channel, notes = make()
    assert channel.dispatch("new_msg", {"n": 1}) == Reply("ok", {"said": {"n": 1}})
    assert channel.dispatch("shout", {"n": 2}) is None
    assert channel.dispatch("yell", {"n": 3}) is None
    assert notes.asked == [("push", "loud", {"n": 2}), ("push", "loud", {"n": 3})]


def test_broadcasts_find_their_methods() -> None:
    channel, notes = make()
    channel.dispatch_out("news", {"n": 1})
    channel.dispatch_out("second", {"n": 2})
    assert notes.asked == [("push", "news", {"filtered": {"n": 1}}), ("push", "second", {"out": {"n": 2}})]


def test_handle_out_pushes_unless_it_is_overridden() -> None:
    class Plain(Channel):
        @intercept("news")
        def handle_out(self, event: str, payload: Any) -> None:
            super().handle_out(event, payload)

    channel, notes = make(Plain)
    channel.dispatch_out("news", {"n": 1})
    assert notes.asked == [("push", "news", {"n": 1})]


def test_marks_are_inherited() -> None:
    class Quiet(Room):
        @on("hush")
        def hush(self, payload: Any) -> None:
            self.push("hushed", payload)

        @on("yell")
        def yell(self, payload: Any) -> None:
            self.push("yelled", payload)

        def new_msg(self, payload: Any) -> dict[str, Any]:
            return {"quietly": payload}

        @intercept("news")
        def handle_out(self, event: str, payload: Any) -> None:
            self.push(event, {"quietly": payload})

    channel, notes = make(Quiet)
    assert channel.dispatch("new_msg", {}) == Reply("ok", {"quietly": {}})
    channel.dispatch("hush", {})
    channel.dispatch("yell", {})
    channel.dispatch("shout", {})
    channel.dispatch_out("news", {})
    channel.dispatch_out("first", {})
    assert [event for _, event, _ in notes.asked] == ["hushed", "yelled", "loud", "news", "first"]
    assert set(Room.handlers) == {"new_msg", "shout", "yell"}


def test_marks_of_every_base_are_gathered() -> None:
    class Typing:
        @on("typing")
        def typing(self, payload: Any) -> dict[str, Any]:
            return {"typing": payload}

    class Editing(Channel):
        @on("edit")
        def edit(self, payload: Any) -> dict[str, Any]:
            return {"edited": payload}

        @intercept("edited")
        def edited(self, payload: Any) -> None:
            self.push("edited", payload)

    class Both(Typing, Room, Editing):
        pass

    channel, _ = make(Both)
    assert channel.dispatch("typing", {}) == Reply("ok", {"typing": {}})
    assert channel.dispatch("edit", {}) == Reply("ok", {"edited": {}})
    assert channel.dispatch("new_msg", {}) == Reply("ok", {"said": {}})
    assert "edited" in Both.intercepts


def test_marks_can_be_piled_up() -> None:
    class Piled(Channel):
        @on("one")
        @on("two")
        @intercept("three")
        @intercept("four")
        def many(self, payload: Any) -> dict[str, Any]:
            return {"many": payload}

    assert Piled.handlers == {"one": "many", "two": "many"}
    assert Piled.intercepts == {"three", "four"}


@pytest.mark.parametrize("mark", [on, intercept])
def test_a_mark_names_events(mark: Any) -> None:
    for wrong in ((), (7,), ("event", None), (lambda self, payload: None,)):
        with pytest.raises(InvalidOption, match=r"@on\('new_msg'\)"):
            mark(*wrong)


# Events without a method


def test_an_unknown_event_tells_the_remedy() -> None:
    channel, _ = make()
    with pytest.raises(
        UnknownEvent, match=r"Room has no method for 'nope': write one under @on\('nope'\), or Room.handle_in"
    ):
        channel.dispatch("nope", {})


@pytest.mark.parametrize("event", [None, 7, [1], {"a": 1}])
def test_an_event_that_is_no_string_is_unknown(event: Any) -> None:
    channel, _ = make()
    with pytest.raises(UnknownEvent):
        channel.dispatch(event, {})


def test_handle_in_is_given_what_has_no_method() -> None:
    class Open(Room):
        def handle_in(self, event: str, payload: Any) -> dict[str, Any]:
            return {"event": event}

    channel, _ = make(Open)
    assert channel.dispatch("nope", {}) == Reply("ok", {"event": "nope"})
    assert channel.dispatch("new_msg", {}) == Reply("ok", {"said": {}})


def test_a_refusal_passes_through() -> None:
    class Strict(Channel):
        @on("e")
        def e(self, payload: Any) -> None:
            raise Refused("no")

    channel, _ = make(Strict)
    with pytest.raises(Refused):
        channel.dispatch("e", {})


# Returns


class Ordered(dict[str, Any]):
    """A dict of its own kind."""


@pytest.mark.parametrize(
    ("returned", "reply"),
    [
        (None, None),
        ({}, Reply("ok", {})),
        ({"a": 1}, Reply("ok", {"a": 1})),
        (Ordered(a=1), Reply("ok", {"a": 1})),
        (b"", Reply("ok", b"")),
        (b"\x01", Reply("ok", b"\x01")),
        (Reply("queued", [1]), Reply("queued", [1])),
    ],
)
def test_what_a_method_may_return(returned: Any, reply: Reply | None) -> None:
    assert as_reply(returned, make()[0], "new_msg") == reply


@pytest.mark.parametrize("returned", [True, 7, "text", [1], ("ok", {}), object, Refused("no")])
def test_what_a_method_may_not_return(returned: Any) -> None:
    with pytest.raises(InvalidReturn) as raised:
        as_reply(returned, make()[0], "new_msg")
    text = str(raised.value)
    assert text.startswith(f"Room.new_msg returned {returned!r}; expected a dict or bytes")
    for hint in ("Reply(status, response)", "None (no reply)", "Reply('ok', value)", "raise Refused(...)"):
        assert hint in text


@pytest.mark.parametrize("event", ["marked", "other"])
def test_a_wrong_return_names_the_method(event: str) -> None:
    class Wrong(Channel):
        @on("marked")
        def mine(self, payload: Any) -> Any:
            return 7

        def handle_in(self, event: str, payload: Any) -> Any:
            return 8

    channel, _ = make(Wrong)
    with pytest.raises(
        InvalidReturn, match=r"Wrong\.mine returned 7" if event == "marked" else r"Wrong\.handle_in returned 8"
    ):
        channel.dispatch(event, {})


# What an author writes, and need not


def test_a_join_has_to_be_written() -> None:
    class Empty(Channel):
        pass

    with pytest.raises(NotImplementedError):
        make(Empty)[0].join({})


def test_the_rest_need_not_be_written(caplog: pytest.LogCaptureFixture) -> None:
    channel, notes = make()
    channel.after_join()
    channel.terminate("left")
    assert not caplog.records
    channel.handle_info("a thing")
    assert notes.asked == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "Room has no handle_info(self, message); ignored: 'a thing'"


# What an author asks for


def test_what_is_asked_of_the_engine() -> None:
    channel, notes = make()
    channel.push("e", {"n": 1})
    channel.broadcast("e", {"n": 2})
    channel.broadcast_from("e", b"\x03")
    channel.stop()
    channel.stop(("shutdown", 1))
    channel.send("m")
    channel.send_after(0.5, "m")()
    channel.subscribe("other")
    channel.unsubscribe("other")
    assert notes.asked == [
        ("push", "e", {"n": 1}),
        ("broadcast", "e", {"n": 2}, True),
        ("broadcast", "e", b"\x03", False),
        ("stop", "normal"),
        ("stop", ("shutdown", 1)),
        ("send", "m"),
        ("send_after", 0.5, "m"),
        ("cancel",),
        ("subscribe", "other"),
        ("unsubscribe", "other"),
    ]


def test_a_late_reply_may_be_all_that_a_return_may() -> None:
    channel, notes = make()
    ref = channel.socket_ref()
    channel.reply(ref)
    channel.reply(ref, {"a": 1})
    channel.reply(ref, b"")
    channel.reply(ref, Reply("error", "no"))
    assert [reply for _, _, reply in notes.asked] == [
        Reply(),
        Reply("ok", {"a": 1}),
        Reply("ok", b""),
        Reply("error", "no"),
    ]
    assert {socket_ref for _, socket_ref, _ in notes.asked} == {SocketRef("7")}
    with pytest.raises(InvalidReturn, match=r"Room\.reply returned 'text'"):
        channel.reply(ref, "text")


# Presence


class Crowd(Tracking):
    """Notes what it is asked, and by whom."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def track(self, where: Any, key: str, meta: Any = None, topic: str | None = None) -> str:
        self.asked.append(("track", where, key, meta, topic))
        return "ref 1"

    def update(self, where: Any, key: str, meta: Any, topic: str | None = None) -> str:
        self.asked.append(("update", where, key, meta, topic))
        return "ref 2"

    def untrack(self, where: Any, key: str, topic: str | None = None) -> None:
        self.asked.append(("untrack", where, key, topic))

    def list(self, where: Any) -> dict[str, Any]:
        self.asked.append(("list", where))
        return {"ada": {"metas": []}}


def test_a_presence_is_asked_for_the_channel() -> None:
    crowd = Crowd()

    class Crowded(Room):
        presence = crowd

    channel, notes = make(Crowded)
    assert channel.track("ada") == channel.track("bob", {"n": 1}) == "ref 1"
    assert channel.update("ada", {"n": 2}) == channel.update("ada", dict) == "ref 2"
    channel.untrack("ada")
    assert channel.presences() == {"ada": {"metas": []}}
    assert crowd.asked == [
        ("track", channel, "ada", None, None),
        ("track", channel, "bob", {"n": 1}, None),
        ("update", channel, "ada", {"n": 2}, None),
        ("update", channel, "ada", dict, None),
        ("untrack", channel, "ada", None),
        ("list", channel),
    ]
    assert notes.asked == []
    assert type(Room.presence) is Tracking


@pytest.mark.parametrize("verb", ["track", "update", "untrack", "presences"])
def test_a_channel_without_a_presence_tells_the_remedy(verb: str) -> None:
    channel, _ = make()
    arguments: dict[str, list[Any]] = {"track": ["ada"], "update": ["ada", {}], "untrack": ["ada"], "presences": []}
    with pytest.raises(InvalidOption, match="this channel has no presence: make one with"):
        getattr(channel, verb)(*arguments[verb])
