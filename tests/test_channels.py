"""A channel from its join to its end, as its author writes it and its client sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from flask import current_app, g, has_app_context
from gevent.event import Event

from flask_phoenix import (
    Broadcast,
    Channel,
    History,
    InvalidOption,
    InvalidPayload,
    NotJoined,
    PhoenixError,
    Refused,
    Reply,
    intercept,
    on,
)
from flask_phoenix.protocol.messages import RECOVERY
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.runtime.recovery import SINCE
from tests.support.clients import (
    CRASHED,
    JOIN_CRASHED,
    JOINED,
    KINDS,
    UNMATCHED,
    Client,
    Room,
    Site,
    enters,
    fails,
    scripted,
)
from tests.support.loop import in_thread, turn
from tests.support.processes import DEADLINE, wait_until

#: An exception of the app's, and two that are none of Exception; test_callbacks raises every kind in every callback.
FAILURES = [RuntimeError, asyncio.CancelledError, gevent.GreenletExit]

YES = ["1", "1", "room:1", "phx_reply", JOINED]
CLOSED = ["1", "1", "room:1", "phx_close", {}]
ERROR = ["1", "1", "room:1", "phx_error", CRASHED]


def replied(ref: Any, response: Any = None, status: str = "ok") -> list[Any]:
    """Return a reply in room:1."""
    payload = {"status": status, "response": {} if response is None else response}
    return ["1", ref, "room:1", "phx_reply", payload]


def pushed(event: str, payload: Any = None) -> list[Any]:
    """Return a push in room:1."""
    return ["1", None, "room:1", event, {} if payload is None else payload]


def told(event: str, payload: Any = None) -> list[Any]:
    """Return a broadcast in room:1."""
    return [None, None, "room:1", event, {} if payload is None else payload]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that tell of an error of the app's."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def where_it_was(client: Client) -> str:
    """Return how a log line about a channel ends."""
    return f"on topic 'room:1' (connection {client.connection.number})"


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
def test_reply_to_a_join_is_what_it_returns(site: Site, returned: Any, status: str, response: Any) -> None:
    client = enters(site, join=lambda _: returned)
    client.hears_only(["1", "1", "room:1", "phx_reply", {"status": status, "response": response}])
    site.phoenix.broadcast("room:1", "news", {})
    client.hears_only(*([told("news")] if status == "ok" else []))


def test_join_is_given_what_there_is_to_know(site: Site) -> None:
    class Knowing(Room):
        def join(self, payload: Any) -> Any:
            self.assigns["mine"] = 1
            seen = {name: value for name, value in self.assigns.items() if name != "log"}
            return {
                "payload": payload,
                "topic": [self.topic, self.subtopic],
                "assigns": seen,
                "user": self.params["user"],
            }

    site.serve(Knowing, kind="room", level=2)
    site.serve(Knowing, "exact")
    client = site.connect(user="ann")
    client.connection.socket.assigns.update(user="ann", level=1)
    for ref, (topic, subtopic, assigns) in enumerate(
        [("room:a:b", "a:b", {"user": "ann", "kind": "room", "level": 2}), ("exact", "", {"user": "ann", "level": 1})]
    ):
        client.say(ref, ref, topic, "phx_join", {"last": 7})
        response = {
            "payload": {"last": 7},
            "topic": [topic, subtopic],
            "assigns": {**assigns, "mine": 1},
            "user": "ann",
        }
        client.hears([ref, ref, topic, "phx_reply", {"status": "ok", "response": response}])
    assert client.connection.socket.assigns == {"user": "ann", "level": 1}


@pytest.mark.parametrize("refusal", [Refused("mybad"), Refused(reason="mybad")])
def test_refused_join(site: Site, refusal: Refused, caplog: pytest.LogCaptureFixture) -> None:
    client = enters(site, join=fails(refusal))
    client.say("1", "2", "room:1", "echo")
    client.hears_only(replied("1", {"reason": "mybad"}, "error"), [None, "2", "room:1", "phx_reply", UNMATCHED])
    assert (site.notes(), errors(caplog), site.hears("room:1")) == (["shutdown"], [], False)


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("where", ["__init__", "join"])
def test_join_that_crashes(
    site: Site, failure: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = enters(site, **{where: fails(failure)})
    client.hears_only(["1", "1", "room:1", "phx_reply", JOIN_CRASHED])
    assert errors(caplog) == [f"Scripted crashed in its join {where_it_was(client)}"]
    assert failure.__name__ in caplog.text
    assert site.notes() == []
    site.serve(Room)
    client.join()


@pytest.mark.parametrize(
    "returned", [7, "text", {1}, ("ok", {}), {"never": float("nan")}, Reply("error", {"x": object()})]
)
def test_join_that_returns_what_it_may_not(site: Site, returned: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = enters(site, join=lambda _: returned)
    client.hears_only(["1", "1", "room:1", "phx_reply", JOIN_CRASHED])
    expected = isinstance(returned, (dict, Reply))
    assert (
        "cannot be joined" if expected else f"join returned {returned!r}; expected a dict, a list or bytes"
    ) in caplog.text
    assert not site.hears("room:1")


VERBS: dict[str, Callable[[Channel], Any]] = {
    "push": lambda channel: channel.push("e", {}),
    "broadcast": lambda channel: channel.broadcast("e", {}),
    "broadcast_from": lambda channel: channel.broadcast_from("e", {}),
    "socket_ref": lambda channel: channel.socket_ref(),
    "track": lambda channel: channel.runtime.at_end(lambda: None),
}


@pytest.mark.parametrize("verb", VERBS)
def test_nobody_speaks_before_the_join_is_over(site: Site, verb: str, caplog: pytest.LogCaptureFixture) -> None:
    client = enters(site, join=VERBS[verb])
    client.hears_only(["1", "1", "room:1", "phx_reply", JOIN_CRASHED])
    said = f"Scripted may not {verb.removesuffix('_from')} before its join is over: do it in after_join(self)"
    assert f"NotJoined: {said}" in caplog.text


@pytest.mark.parametrize("outcome", [Refused("no"), RuntimeError("broken"), {"thing": object()}])
def test_failed_join_leaves_nothing(site: Site, outcome: Any, caplog: pytest.LogCaptureFixture) -> None:
    def join(channel: Room) -> Any:
        channel.subscribe("news")
        channel.send("a note")
        channel.send_after(0, "a timer")
        return outcome if isinstance(outcome, dict) else fails(outcome)()

    client = enters(
        site, join=join, handle_info=Room.note, terminate=lambda channel, reason: channel.push("too late", {})
    )
    assert client.hear()[4]["status"] == "error"
    site.phoenix.broadcast("news", "e", {})
    client.hears_only()
    refused = isinstance(outcome, Refused)
    assert (site.notes(), site.hears("news")) == (["shutdown"] if refused else [], False)
    assert (f"Scripted failed to terminate {where_it_was(client)}" in errors(caplog)) is refused


def test_what_needs_a_joined_channel_comes_after_the_reply(site: Site) -> None:
    def greet(channel: Room) -> None:
        channel.broadcast("entered", {"user": None})
        channel.push("welcome", {})

    client = enters(
        site,
        join=lambda channel: channel.send("note"),
        after_join=greet,
        handle_info=lambda channel, message: channel.push(message, {}),
    )
    client.hears(YES, told("entered", {"user": None}), pushed("welcome"), pushed("note"))


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
        (Refused("no"), "error", {"reason": "no"}),
        (Refused("no", field="body"), "error", {"reason": "no", "field": "body"}),
        (Refused({"code": 4}), "error", {"code": 4}),
        (Refused(), "error", {}),
    ],
)
def test_reply_is_what_a_handler_returns(site: Site, returned: Any, status: str, response: Any) -> None:
    client = site.enter(scripted(do=fails(returned) if isinstance(returned, Refused) else lambda _: returned))
    assert client.call("do") == {"status": status, "response": response}
    assert client.call("echo") == JOINED


@pytest.mark.parametrize("payload", [{"text": "caf\u00e9 \u2603 \U0001f642"}, [1, None], "text", 7, False])
def test_payload_may_be_any_json(site: Site, payload: Any) -> None:
    class Open(Room):
        def handle_in(self, event: str, payload: Any) -> Any:
            return Reply("ok", [event, payload])

    client = site.enter(Open)
    assert client.call("echo", payload) == {"status": "ok", "response": payload}
    assert client.call("phx_error", payload) == {"status": "ok", "response": ["phx_error", payload]}
    assert client.call(payload)["response"][0] == payload


def test_what_a_handler_says_comes_before_its_reply(site: Site) -> None:
    def speak(channel: Room) -> Any:
        channel.push("first", {})
        channel.broadcast("second", {})
        channel.push("third", {})
        channel.broadcast("fourth", {})
        return {}

    client = site.enter(scripted(do=speak))
    client.say("1", "2", "room:1", "do")
    client.hears_only(pushed("first"), told("second"), pushed("third"), told("fourth"), replied("2"))


def test_broadcasts_reach_all_or_all_others(site: Site) -> None:
    def speak(channel: Room) -> None:
        channel.broadcast("all", {})
        channel.broadcast_from("others", {})
        site.phoenix.broadcast_from(channel, "room:1", "others too", {})

    heard: list[Broadcast] = []
    end = site.phoenix.subscribe("room:1", heard.append)
    speaker = site.enter(scripted(do=speak))
    others = [site.connect(*kind) for kind in KINDS]
    for other in others:
        other.join()
    speaker.join("room:2", "2")
    outsider = site.connect()
    outsider.join("room:10")
    speaker.say("1", "2", "room:1", "do")
    speaker.hears_only(told("all"))
    for other in others:
        other.hears_only(told("all"), told("others"), told("others too"))
    outsider.hears_only()
    end()
    assert heard == [Broadcast("room:1", event, {}) for event in ("all", "others", "others too")]


@pytest.mark.parametrize("payload", [[1], "text", None, {"thing": object()}])
def test_payload_that_cannot_be_raises_where_it_is_said(site: Site, payload: Any) -> None:
    def speak(channel: Room) -> Any:
        for verb in (channel.broadcast, channel.broadcast_from, channel.push):
            with pytest.raises(InvalidPayload):
                verb("e", payload)
        return {}

    client, new = site.enter(scripted(do=speak)), site.connect(KINDS[1][0], "2.0.0")
    new.join()
    if site.kind[1] == "1.0.0" and not isinstance(payload, dict):
        return  # clients of that version take any JSON in a push
    assert client.call("do") == JOINED
    new.hears_only()


def test_bytes_are_payloads_too() -> None:
    site = Site(KINDS[1])

    def answer(channel: Room) -> Any:
        channel.broadcast("blob", b"\x02")
        return b"\x03"

    client = site.enter(scripted(do=answer))
    client.write(b"\x00\x01\x01\x06\x04" + b"12room:1echo" + b"\xff")
    client.say("1", "3", "room:1", "do")
    client.hears(b"\x01\x01\x01\x06\x02" + b"12room:1ok" + b"\xff", b"\x02\x06\x04room:1blob\x02")
    client.hears(b"\x01\x01\x01\x06\x02" + b"13room:1ok" + b"\x03")
    site.serve(scripted(join=lambda _: b"\x01\x02"))
    client.say("4", "5", "room:2", "phx_join")
    client.hears(b"\x01\x01\x01\x06\x02" + b"45room:2ok" + b"\x01\x02")
    site.close()


# Crashes


@pytest.mark.parametrize("failure", FAILURES)
def test_crash(site: Site, failure: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    client = site.enter(scripted(do=fails(failure)))
    client.join("room:2", "2")
    client.say("1", "3", "room:1", "do")
    client.say("1", "4", "room:1", "echo")
    client.hears_only(ERROR, [None, "4", "room:1", "phx_reply", UNMATCHED])
    assert isinstance(site.noted(), failure)
    assert errors(caplog) == [f"Scripted crashed at event 'do' {where_it_was(client)}"]
    assert failure.__name__ in caplog.text
    assert client.call("echo", topic="room:2", join_ref="2") == JOINED
    client.join("room:1", "5")


#: Callbacks that lead to one another.
CHAIN: dict[str, Callable[..., Any]] = {
    "after_join": lambda channel: channel.send("note"),
    "handle_info": lambda channel, message: channel.broadcast("news", {}),
    "news": lambda channel, payload: None,
}


@pytest.mark.parametrize("where", CHAIN)
def test_crash_anywhere(site: Site, where: str, caplog: pytest.LogCaptureFixture) -> None:
    client = site.enter(scripted(**{**CHAIN, where: fails(Refused("nobody asked"))}))
    client.hears_only(ERROR)
    assert isinstance(site.noted(), Refused)
    place = "at broadcast 'news'" if where == "news" else f"in {where}"
    assert errors(caplog) == [f"Scripted crashed {place} {where_it_was(client)}"]


@pytest.mark.parametrize("returned", [7, {"never": float("nan")}, Refused({"thing": object()})])
def test_reply_that_cannot_be_is_a_crash(site: Site, returned: Any) -> None:
    client = site.enter(scripted(do=fails(returned) if isinstance(returned, Refused) else lambda _: returned))
    client.say("1", "2", "room:1", "do")
    client.hears_only(ERROR)
    assert isinstance(site.noted(), PhoenixError)


def test_unknown_event_is_a_crash(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    client = site.enter()
    client.say("1", "2", "room:1", "nope")
    client.hears_only(ERROR)
    assert "Room has no method for 'nope': write one under @on('nope'), or Room.handle_in" in caplog.text


def test_terminate_comes_before_the_notice_of_a_crash(site: Site) -> None:
    client = site.enter(scripted(terminate=lambda channel, reason: channel.push("last words", {})))
    client.say("1", "2", "room:1", "nope")
    client.hears_only(pushed("last words"), ERROR)


@pytest.mark.parametrize("then", ["close", "duplicate"])
def test_crashed_channel_that_cleans_up_ends_no_second_time(site: Site, then: str) -> None:
    gate = Event()

    client = site.enter(scripted(terminate=lambda channel, reason: gate.wait(DEADLINE)))
    client.say("1", "2", "room:1", "nope")
    client.say("1", "3", "room:1", "echo")
    if then == "close":
        client.rest()
        client.hang_up()
    else:
        client.say("4", "4", "room:1", "phx_join")
        client.hears(["4", "4", "room:1", "phx_reply", JOINED], CLOSED)
    gate.set()
    assert isinstance(site.noted(), PhoenixError)
    turn()
    assert (site.notes(), site.hears("room:1")) == ([], then == "duplicate")
    if then == "duplicate":
        client.rest()
        assert client.call("echo", join_ref="4") == JOINED


@pytest.mark.parametrize("failure", FAILURES)
def test_terminate_that_fails(site: Site, failure: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    client = site.enter(scripted(terminate=fails(failure)))
    client.say("1", "2", "room:1", "phx_leave")
    client.hears_only(replied("2"), CLOSED)
    assert errors(caplog) == [f"Scripted failed to terminate {where_it_was(client)}"]


# Stops


GRACEFUL: list[Any] = ["normal", "shutdown", ("shutdown",), ("shutdown", "moved")]
OTHER: list[Any] = ["boom", ("other", 1), RuntimeError("broken"), None, 7, ()]


@pytest.mark.parametrize("reason", GRACEFUL + OTHER, ids=repr)
def test_stop(site: Site, reason: Any, caplog: pytest.LogCaptureFixture) -> None:
    def stop(channel: Room) -> Any:
        channel.stop(reason)
        return {"resp": "foo"}

    graceful = reason in GRACEFUL
    client = site.enter(scripted(do=stop))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", "echo")
    end = CLOSED if graceful else ERROR
    client.hears_only(replied("2", {"resp": "foo"}), end, [None, "3", "room:1", "phx_reply", UNMATCHED])
    assert site.noted() == reason
    assert ("crashed" in caplog.text) is not graceful
    assert graceful or str(reason) in caplog.text
    assert not site.hears("room:1")


@pytest.mark.parametrize("where", ["join", *CHAIN])
def test_stop_anywhere(site: Site, where: str) -> None:
    client = site.enter(scripted(**{**CHAIN, where: lambda channel, *_: channel.stop()}))
    client.hears_only(CLOSED)
    assert site.noted() == "normal"


@pytest.mark.parametrize("place", ["greenlet", "thread"])
def test_stop_from_elsewhere_waits_for_the_callback_that_runs(site: Site, place: str) -> None:
    gate, running = Event(), Event()
    channels: list[Room] = []

    def wait(channel: Room) -> Any:
        channels.append(channel)
        running.set()
        assert gate.wait(DEADLINE)
        return {}

    client = site.enter(scripted(do=wait))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", "echo")
    assert running.wait(DEADLINE)
    if place == "thread":
        in_thread(channels[0].stop)
    else:
        gevent.spawn(channels[0].stop).join(DEADLINE)
    client.hears_only()
    gate.set()
    assert site.noted() == "normal"
    client.hears_only(replied("2"), CLOSED)


# Leaves


def test_leave(site: Site) -> None:
    def leave(channel: Room, reason: Any) -> None:
        channel.push("you left", {})
        channel.broadcast("gone", {})

    client, other = site.enter(scripted(terminate=leave)), site.enter()
    client.say("1", "3", "room:1", "phx_leave")
    client.hears_only(replied("3"), CLOSED, pushed("you left"))
    assert site.noted() == "left"
    other.hears_only(told("gone"))
    client.say("1", "4", "room:1", "phx_leave")
    client.hears_only(replied("4"))
    client.join(join_ref="5")


def test_leave_waits_for_what_came_before_it(site: Site) -> None:
    gate = Event()
    client = site.enter(scripted(do=lambda channel: {"waited": gate.wait(DEADLINE)}))
    for ref, event in (("2", "do"), ("3", "echo"), ("4", "phx_leave"), ("5", "phx_leave"), ("6", "echo")):
        client.say("1", ref, "room:1", event)
    client.hears_only()
    gate.set()
    assert site.noted() == "left"
    client.hears_only(replied("2", {"waited": True}), replied("3"), replied("4"), CLOSED)
    assert site.notes() == []


def test_leave_without_refs(site: Site) -> None:
    client = site.enter()
    client.say("stale", "2", "room:1", "echo")
    client.say("stale", "3", "room:1", "phx_leave")
    client.say(None, None, "room:1", "phx_leave")
    client.hears_only(["1", None, "room:1", "phx_reply", JOINED], CLOSED)


# Late replies


@pytest.mark.parametrize("end", ["", "phx_leave"])
def test_late_reply(site: Site, end: str) -> None:
    refs: list[Any] = []
    client = site.enter(scripted(do=lambda channel: refs.append((channel, channel.socket_ref()))))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", end or "echo")
    client.hears_only(replied("3"), *([CLOSED] if end else []))
    ((channel, ref),) = refs
    in_thread(channel.reply, ref, {"late": True})
    channel.reply(ref, Reply("error", "twice"))
    channel.reply(ref)
    client.hears(replied("2", {"late": True}), replied("2", "twice", "error"), replied("2"))
    with pytest.raises(PhoenixError, match=r"Scripted\.reply returned 'text'"):
        channel.reply(ref, "text")


@pytest.mark.parametrize("ref", [None, 0, "", False])
def test_late_reply_needs_a_ref(site: Site, ref: Any) -> None:
    refs: list[Any] = []
    channels: list[Room] = []

    def remember(channel: Room) -> None:
        channels.append(channel)
        refs.append(channel.socket_ref().ref)

    client = site.enter(scripted(do=remember))
    client.say("1", ref, "room:1", "do")
    client.hears_only(*([ERROR] if ref is None else []))
    assert refs == [value for value in (ref,) if value is not None]
    with pytest.raises(NotJoined):
        channels[0].socket_ref()


def test_handler_that_waits_remembers_its_own_message(site: Site) -> None:
    gate = Event()
    refs: list[Any] = []

    def wait(channel: Room) -> None:
        assert gate.wait(DEADLINE)
        refs.append(channel.socket_ref().ref)

    client = site.enter(scripted(do=wait))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", "do")
    client.hears_only()
    gate.set()
    turn()
    assert refs == ["2", "3"]


# Messages of its own, and other topics


def push_info(channel: Room, message: Any) -> None:
    """Push what a channel is informed of."""
    channel.push("info", {"message": list(message) if isinstance(message, Broadcast) else message})


def informed(message: Any) -> list[Any]:
    """Return what such a channel pushes."""
    return pushed("info", {"message": message})


def test_notes_are_handled_in_order_after_what_runs(site: Site) -> None:
    def send(channel: Room) -> Any:
        channel.send("one")
        in_thread(channel.send, "two")
        channel.send_after(0.002, "four")
        channel.send_after(0, "three")
        channel.send_after(0, "never")()
        return {}

    client = site.enter(scripted(do=send, handle_info=push_info))
    client.say("1", "2", "room:1", "do")
    client.hears(replied("2"), *(informed(number) for number in ("one", "two", "three", "four")))


def test_note_that_nobody_handles_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    client = site.enter(scripted(do=lambda channel: channel.send("unhandled")))
    client.say("1", "2", "room:1", "do")
    client.hears_only()
    assert "Scripted has no handle_info(self, message); ignored: 'unhandled'" in caplog.text
    assert client.call("echo") == JOINED


def test_timers_end_with_their_channel(site: Site) -> None:
    channels: list[Room] = []

    def send(channel: Room) -> None:
        channels.append(channel)
        channel.send_after(0.05, "never")

    client = site.enter(scripted(do=send, handle_info=push_info))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", "phx_leave")
    client.hears(replied("3"), CLOSED)
    (channel,) = channels
    channel.send_after(0, "never")()
    channel.send_after(0, "never")
    channel.send("never")
    channel.subscribe("news")
    channel.unsubscribe("news")
    channel.stop()
    rung = Event()
    gevent.spawn_later(0.06, rung.set)
    assert rung.wait(DEADLINE)
    client.hears_only()
    assert (site.notes(), site.hears("news")) == (["left"], False)


class Reading(scripted(handle_info=push_info)):  # type: ignore[misc]
    """Hears other topics."""

    @on("subscribe")
    def start(self, payload: Any) -> Any:
        self.subscribe(payload["topic"])
        return {}

    @on("unsubscribe")
    def end(self, payload: Any) -> Any:
        self.unsubscribe(payload["topic"])
        return {}


def test_other_topics_are_heard_until_they_are_not(site: Site) -> None:
    client, news = site.enter(Reading), informed(["news", "e", {}])
    assert client.call("unsubscribe", {"topic": "news"}) == JOINED
    for times in (1, 2):
        assert client.call("subscribe", {"topic": "news"}) == JOINED
        site.phoenix.broadcast("news", "e", {})
        client.hears_only(*[news] * times)
    assert client.call("unsubscribe", {"topic": "news"}) == JOINED
    site.phoenix.broadcast("news", "e", {})
    client.hears_only()
    client.call("subscribe", {"topic": "room:1"})
    site.phoenix.broadcast("room:1", "e", {})
    client.hears_only(told("e"), informed(["room:1", "e", {}]))


@pytest.mark.parametrize("how", ["leave", "crash", "close", "duplicate"])
def test_subscriptions_end_with_the_channel(site: Site, how: str) -> None:
    client = site.enter(Reading)
    for topic in ("news", "more"):
        client.call("subscribe", {"topic": topic})
    if how == "close":
        client.hang_up()
    elif how == "duplicate":
        client.say("2", "2", "room:1", "phx_join")
    else:
        client.say("1", "2", "room:1", "phx_leave" if how == "leave" else "unknown")
    site.noted()
    assert [site.hears(topic) for topic in ("news", "more", "room:1")] == [False, False, how == "duplicate"]


# Interception


def test_intercepted_broadcasts_come_after_the_reply(site: Site) -> None:
    def speak(channel: Room) -> Any:
        channel.broadcast("news", {"n": 1})
        channel.broadcast("plain", {})
        return {}

    class Picky(scripted(do=speak, news=lambda channel, payload: channel.push("news", {**payload, "seen": True}))):  # type: ignore[misc]
        @intercept("other")
        def handle_out(self, event: str, payload: Any) -> None:
            super().handle_out(event, payload)

    client, plain = site.enter(Picky), site.enter()
    client.say("1", "2", "room:1", "do")
    client.hears_only(told("plain"), replied("2"), pushed("news", {"n": 1, "seen": True}))
    plain.hears_only(told("news", {"n": 1}), told("plain"))
    site.phoenix.broadcast("room:1", "other", {})
    client.hears_only(pushed("other"))


@pytest.mark.parametrize("way", ["intercepted", "subscribed"])
def test_channel_that_is_slower_than_its_broadcasts_crashes(site: Site, way: str) -> None:
    gate, entered = Event(), Event()

    def wait(channel: Room, _: Any) -> None:
        entered.set()
        assert gate.wait(DEADLINE)

    subscribe = lambda channel: channel.subscribe("subscribed")  # noqa: E731
    client = site.enter(scripted(after_join=subscribe, news=wait, handle_info=wait))
    topic = "room:1" if way == "intercepted" else "subscribed"
    for _ in range(INBOX_LIMIT * 2):
        site.phoenix.broadcast(topic, "news", {})
    assert entered.wait(DEADLINE)
    assert wait_until(lambda: not site.engine.hub.owes(None, [topic]), turn)  # all are delivered
    gate.set()
    assert f"{INBOX_LIMIT} messages wait" in str(site.noted())
    client.hears_only(ERROR)


# The end of the connection


def test_end_of_a_connection_is_the_end_of_its_channels(site: Site) -> None:
    client, other = site.enter(user="ann"), site.connect(user="bob")
    client.join("room:2", "2")
    other.join()
    site.phoenix.disconnect("ann")
    client.is_closed(1001)
    assert [site.noted(), site.noted()] == ["disconnected"] * 2
    assert (site.hears("room:2"), site.hears("ann")) == (False, False)
    other.hears_only()
    other.hang_up()
    assert (site.noted(), site.hears("room:1"), site.engine.connections) == ("closed", False, set())


@pytest.mark.parametrize("failure", [None, *FAILURES])
def test_handler_that_runs_may_finish(site: Site, failure: type[BaseException] | None) -> None:
    gate, running = Event(), Event()

    def wait(channel: Room) -> Any:
        running.set()
        assert gate.wait(DEADLINE)
        if failure:
            raise failure()
        channel.push("late", {})
        channel.broadcast("late", {})
        channel.note("finished")

    client = site.enter(scripted(do=wait))
    client.say("1", "2", "room:1", "do")
    client.say("1", "3", "room:1", "do")
    assert running.wait(DEADLINE)
    client.connection.close(1012, "draining")
    assert (site.hears("room:1"), site.notes()) == (False, [])
    gate.set()
    assert [site.noted() for _ in range(1 if failure else 2)] == [*([] if failure else ["finished"]), "draining"]
    turn()
    assert site.notes() == []


@pytest.mark.parametrize("outcome", ["yes", "no", "crash", "unmade"])
def test_connection_that_ends_during_a_join(site: Site, outcome: str) -> None:
    gate, entered = Event(), Event()

    def wait(channel: Room) -> None:
        entered.set()
        assert gate.wait(DEADLINE)
        if outcome != "yes":
            raise Refused("no") if outcome == "no" else RuntimeError("broken")

    def join(channel: Room) -> None:
        channel.subscribe("news")
        wait(channel)

    acts = {"__init__": wait} if outcome == "unmade" else {"join": join, "after_join": lambda _: site.log.put("never")}
    client = enters(site, **acts)
    client.say("1", "2", "room:1", "echo")
    assert entered.wait(DEADLINE)
    client.hang_up()
    gate.set()
    turn()
    assert site.notes() == ([] if outcome == "unmade" else ["closed"])
    assert (site.hears("room:1"), site.hears("news")) == (False, False)


def test_what_was_on_its_way_when_the_connection_ended_is_dropped(site: Site) -> None:
    never = lambda channel, _: channel.note("never")  # noqa: E731
    channels: list[Room] = []
    client, other = site.enter(scripted(do=channels.append, news=never, handle_info=never)), site.connect()
    other.join()
    client.say("1", "2", "room:1", "do")
    client.rest()
    channels[0].send("note")
    client.connection.closed("closed")
    # Told in the same turn, after the other channel's own interception.
    ends = Subscriber(lambda _: other.connection.closed("closed"))
    site.engine.pubsub.subscribe("room:1", ends)
    site.phoenix.broadcast("room:1", "news", {})
    turn()
    site.engine.pubsub.unsubscribe("room:1", ends)
    assert site.notes() == ["closed", "closed"]


# What is held until the end


@pytest.mark.parametrize("end", ["leave", "closed", "crash", "stop", "bad stop", "duplicate join"])
def test_what_ends_with_a_channel_ends_before_it_cleans_up(site: Site, end: str) -> None:
    client = site.enter(
        scripted(
            # What fails at the end of a channel keeps nothing else from it.
            after_join=lambda channel: [
                channel.runtime.at_end(end) for end in (fails(OSError), partial(channel.note, "released"))
            ],
            do=lambda channel: channel.stop("normal" if end == "stop" else "broken"),
            terminate=lambda channel, reason: channel.note(channel.runtime.at_end(lambda: channel.note("never"))),
        )
    )
    client.rest()
    if end == "closed":
        client.hang_up()
    elif end == "duplicate join":
        client.say("9", "9", "room:1", "phx_join")
    else:
        client.say("1", "3", "room:1", {"leave": "phx_leave", "crash": "unknown"}.get(end, "do"))
    noted = [site.noted() for _ in range(3)]
    assert (noted[0], noted[2]) == ("released", False), "it ended before the author cleaned up"
    turn()
    assert site.notes() == []


# Contexts


@pytest.mark.parametrize("kind", KINDS)
def test_each_callback_has_an_app_context_of_its_own(kind: Any) -> None:
    site = Site(kind)

    def seen(channel: Room, *_: Any, name: str) -> None:
        assert current_app.name == site.app.name
        assert "callback" not in g
        g.callback = name
        if name in CHAIN:
            CHAIN[name](channel, None) if name != "after_join" else CHAIN[name](channel)

    names = ["join", "after_join", "do", "handle_info", "news", "terminate"]

    @site.app.teardown_appcontext
    def gone(_: BaseException | None) -> None:
        if "callback" in g:
            site.log.put(g.callback)

    client = site.enter(scripted(**{name: partial(seen, name=name) for name in names}))
    client.say("1", "2", "room:1", "do")
    client.rest()
    client.hang_up()
    noted = [site.noted() for _ in range(7)]
    noted.remove("closed")
    assert sorted(noted) == sorted(names)
    assert not has_app_context()
    site.close()


def test_what_a_channel_spawns_ends_with_it_in_a_context(site: Site) -> None:
    class Spawning(Room):
        def after_join(self) -> None:
            self.spawn(self.work, "it")

        def work(self, what: str) -> None:
            self.assigns["log"].put(f"{what} runs in {current_app.name}")
            try:
                gevent.sleep(DEADLINE)
            except gevent.GreenletExit:
                self.assigns["log"].put("ended")
                raise

    site.serve(Spawning)
    client = site.enter(Spawning)
    assert site.noted() == f"it runs in {site.app.name}"
    client.hang_up()
    assert site.noted() == "ended"


def test_what_fails_in_what_a_channel_spawns_is_its_crash(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Spawning(Room):
        @on("work")
        def work(self, payload: Any) -> None:
            self.spawn(self.fail)

        def fail(self) -> None:
            raise RuntimeError("oops")

        def terminate(self, reason: Any) -> None:
            self.assigns["log"].put(reason)

    site.serve(Spawning)
    client = site.enter(Spawning)
    client.say("1", "2", "room:1", "work")
    assert repr(site.noted()) == "RuntimeError('oops')"
    client.hears(ERROR)
    assert "crashed in fail, which it has spawned" in caplog.text


# What a client does not want


class Choosing(Room):
    def join(self, payload: Any) -> None:
        self.ignore(*payload.get("ignored", ()))

    @on("late")
    def late(self, payload: Any) -> Any:
        with pytest.raises(InvalidOption, match="in its join alone"):
            self.ignore("news")
        return {}


def test_a_client_is_not_sent_what_it_ignores_which_costs_nothing_for_each(site: Site) -> None:
    site.serve(Choosing)
    clients = [site.connect() for _ in range(4)]
    for client, ignored in zip(
        clients, ([], ["typing", "presence_diff"], ["presence_diff", "typing"], []), strict=True
    ):
        client.join(payload={"ignored": ignored})
    assert [len(group.members) for group in site.engine.pubsub._topics["room:1"].values()] == [2, 2]
    for event in ("typing", "presence_diff", "news"):
        site.phoenix.broadcast("room:1", event, {})
    events = [[message[3] for message in client.rest()] for client in clients]
    assert events == [["typing", "presence_diff", "news"], ["news"], ["news"], ["typing", "presence_diff", "news"]]
    assert clients[1].call("late") == JOINED


def test_what_cannot_be_ignored(site: Site) -> None:
    site.serve(Choosing)
    client = site.connect()
    client.say("1", "1", "room:1", "phx_join", {"ignored": [7]})
    client.hears(["1", "1", "room:1", "phx_reply", JOIN_CRASHED])


@pytest.mark.parametrize("intercepting", [False, True])
def test_what_is_ignored_is_not_replayed(site: Site, intercepting: bool) -> None:
    class Kept(Choosing):
        history = History(size=10)

        if intercepting:

            @intercept("other")
            def other(self, payload: Any) -> None:
                """Push nothing."""

    site.serve(Kept)
    clients = site.connect(), site.connect()
    since: Any = None
    for client in clients:
        client.say("1", "1", "room:1", "phx_join", {"ignored": ["typing"], SINCE: since})
        reply, *missed = client.rest()
        since = reply[4]["response"][RECOVERY]["ref"]
        assert [message[3] for message in missed] == ([] if client is clients[0] else ["news"])
        for event in ("typing", "news") if client is clients[0] else ():
            site.phoenix.broadcast("room:1", event, {})
        assert [message[3] for message in client.rest()] == (["news"] if client is clients[0] else [])
