"""Many channels of one client: who waits for whom, which join wins, and joins that wait for other nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix import Channel, NotJoined, NotPublished, Refused, on
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.testing import Clock
from tests.support.clients import (
    CRASHED,
    JOIN_CRASHED,
    JOINED,
    KINDS,
    UNMATCHED,
    Client,
    MemoryClient,
    Room,
    Site,
    scripted,
    serve,
)
from tests.support.loop import turn
from tests.support.processes import DEADLINE
from tests.support.slow import SlowAdapter

ALIVE = [None, "hb", "phoenix", "phx_reply", JOINED]


class Waiting(Room):
    """Waits at gates where it is told to, refuses and crashes where it is told to."""

    @property
    def gates(self) -> dict[str, Event]:
        """The gates of the test."""
        gates: dict[str, Event] = self.assigns["gates"]
        return gates

    def join(self, payload: Any) -> Any:
        self.wait(payload)
        if "refuse" in payload:
            raise Refused(payload["refuse"])
        if "crash" in payload:
            raise RuntimeError(payload["crash"])
        self.assigns["hello"] = "hello" in payload

    def after_join(self) -> None:
        if self.assigns["hello"]:
            self.push("hello", {})

    @on("wait")
    def wait(self, payload: Any) -> Any:
        if "at" in payload:
            assert self.gates.setdefault(payload["at"], Event()).wait(DEADLINE)
            return {"waited": payload["at"]}
        return None


class Gates:
    """A client of such channels."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.gates: dict[str, Event] = {}
        site.serve(Waiting, gates=self.gates)
        self.client = site.connect()

    def open(self, name: str) -> None:
        """Open a gate."""
        self.gates.setdefault(name, Event()).set()


@pytest.fixture
def gates(site: Site) -> Gates:
    return Gates(site)


def reply(ref: str, payload: Any = None, join_ref: Any = "1", topic: str = "room:1") -> list[Any]:
    """Return a reply; without a payload it is an ok of nothing."""
    return [join_ref, ref, topic, "phx_reply", payload or JOINED]


def close(join_ref: str) -> list[Any]:
    """Return the notice that a channel of room:1 has ended."""
    return [join_ref, join_ref, "room:1", "phx_close", {}]


def waited(gate: str) -> dict[str, Any]:
    """Return the payload of a reply that waited."""
    return {"status": "ok", "response": {"waited": gate}}


def echoes(client: Client, join_ref: str, *refs: str) -> None:
    """Send messages."""
    for ref in refs:
        client.say(join_ref, ref, "room:1", "echo")


# Who waits for whom


def test_handler_that_waits_delays_nobody_else(gates: Gates) -> None:
    client = gates.client
    client.join("room:1", "1")
    client.join("room:2", "2")
    client.say("1", "3", "room:1", "wait", {"at": "gate"})
    client.say(None, "hb", "phoenix", "heartbeat")
    client.say("2", "4", "room:2", "echo")
    client.say("5", "5", "room:3", "phx_join")
    client.say("2", "6", "room:2", "phx_leave")
    echoes(client, "1", "7", "8")
    closed = ["2", "2", "room:2", "phx_close", {}]
    client.hears(
        ALIVE, reply("4", None, "2", "room:2"), reply("5", None, "5", "room:3"), reply("6", None, "2", "room:2")
    )
    client.hears_only(closed)
    gates.site.phoenix.broadcast("room:1", "news", {})
    client.hears_only([None, None, "room:1", "news", {}])
    gates.open("gate")
    client.hears(reply("3", waited("gate")), reply("7"), reply("8"))


def test_join_that_waits_delays_its_topic_alone(gates: Gates) -> None:
    client = gates.client
    client.join("room:2", "2")
    client.say("1", "1", "room:1", "phx_join", {"at": "gate", "hello": True})
    client.say("2", "3", "room:2", "echo")
    client.say("1", "4", "room:1", "echo")
    client.say("stale", "5", "room:1", "echo")
    client.say("1", "6", "room:1", "wait")
    client.say("1", "7", "room:1", "echo", {"n": 1})
    gates.site.phoenix.broadcast("room:1", "too early", {})
    client.hears_only(reply("3", None, "2", "room:2"))
    gates.open("gate")
    client.hears(reply("1"), ["1", None, "room:1", "hello", {}], reply("4"))
    client.hears_only(reply("7", {"status": "ok", "response": {"n": 1}}))


def test_leave_during_a_join(gates: Gates) -> None:
    client = gates.client
    client.say("1", "1", "room:1", "phx_join", {"at": "gate"})
    echoes(client, "1", "2")
    client.say("1", "3", "room:1", "phx_leave")
    echoes(client, "1", "4")
    client.hears_only()
    gates.open("gate")
    client.hears_only(reply("1"), reply("2"), reply("3"), close("1"))
    assert (gates.site.noted(), gates.site.hears("room:1")) == ("left", False)


@pytest.mark.parametrize("how", ["refuse", "crash"])
def test_what_waited_for_a_join_that_fails_finds_nobody(gates: Gates, how: str) -> None:
    client = gates.client
    client.say("1", "1", "room:1", "phx_join", {"at": "gate", how: "full"})
    echoes(client, "1", "2")
    client.say("1", "3", "room:1", "phx_leave")
    client.say("4", "4", "room:1", "phx_join")
    gates.open("gate")
    no = JOIN_CRASHED if how == "crash" else {"status": "error", "response": {"reason": "full"}}
    client.hears_only(reply("1", no), reply("2", UNMATCHED, None), reply("3"), reply("4", None, "4"))


# Duplicate joins


def test_newer_join_wins(gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flask_phoenix")
    client = gates.client
    client.join(join_ref="11")
    client.say("12", "2", "room:1", "phx_join", {"hello": True})
    client.hears(reply("2", None, "12"), close("11"), ["12", None, "room:1", "hello", {}])
    assert gates.site.noted() == "duplicate_join"
    assert "duplicate join of 'room:1'" in caplog.text
    echoes(client, "11", "3")
    echoes(client, "12", "4")
    gates.site.phoenix.broadcast("room:1", "news", {})
    assert {message[1] for message in client.rest()} == {"4", None}


def test_older_channel_that_is_idle_cleans_up_before_the_newer_joins(site: Site) -> None:
    client = site.enter(scripted(join=lambda channel: channel.note("joins")))
    client.say("2", "2", "room:1", "phx_join")
    assert len(client.rest()) == 2
    assert site.notes() == ["joins", "duplicate_join", "joins"]


@pytest.mark.parametrize("how", ["refuse", "crash"])
def test_older_channel_is_gone_when_the_newer_join_fails(gates: Gates, how: str) -> None:
    client = gates.client
    client.join(join_ref="11")
    gates.site.phoenix.broadcast("room:1", "news", {})
    client.say("12", "2", "room:1", "phx_join", {how: "full"})
    news, no, closed = client.hear(), client.hear(), client.hear()
    assert (news[3], no[1], no[4]["status"], closed[3]) == ("news", "2", "error", "phx_close")
    echoes(client, "11", "3")
    client.hears_only(reply("3", UNMATCHED, None))
    assert sorted(gates.site.notes()) == ["duplicate_join", "shutdown"][: 1 if how == "crash" else 2]
    assert not gates.site.hears("room:1")


@pytest.mark.parametrize("leave", [False, True])
def test_duplicate_join_waits_for_no_handler(gates: Gates, leave: bool) -> None:
    client = gates.client
    client.join()
    client.say("1", "2", "room:1", "wait", {"at": "gate"})
    client.say("1", "3", "room:1", "phx_leave" if leave else "echo")
    client.say("4", "4", "room:1", "phx_join")
    client.hears(reply("4", None, "4"), close("1"))
    echoes(client, "4", "5")
    client.hears_only(reply("5", None, "4"))
    assert gates.site.notes() == []
    gates.open("gate")
    assert gates.site.noted() in ("duplicate_join", "left")
    assert all(message[1] == "2" for message in client.rest())


def test_duplicate_joins_while_the_join_goes_on(gates: Gates) -> None:
    client = gates.client
    client.say("1", "1", "room:1", "phx_join", {"at": "one"})
    client.say("2", "2", "room:1", "phx_join", {"at": "two"})
    client.say("3", "3", "room:1", "phx_join")
    echoes(client, "1", "4")
    echoes(client, "3", "5")
    gates.open("one")
    client.hears_only(reply("1"))
    gates.open("two")
    client.hears(reply("2", None, "2"), close("1"), reply("3", None, "3"), close("2"))
    client.hears_only(reply("5", None, "3"))
    assert gates.site.notes() == ["duplicate_join"] * 2


def test_join_after_a_leave(gates: Gates) -> None:
    client = gates.client
    client.join()
    gates.site.phoenix.broadcast("room:1", "news", {})
    client.say("1", "2", "room:1", "phx_leave")
    client.say("3", "3", "room:1", "phx_join")
    client.hears_only([None, None, "room:1", "news", {}], reply("2"), close("1"), reply("3", None, "3"))
    assert gates.site.noted() == "left"


def test_connection_that_ends_during_a_duplicate_join(gates: Gates) -> None:
    client = gates.client
    client.join()
    client.say("1", "2", "room:1", "wait", {"at": "old"})
    client.say("3", "3", "room:1", "phx_join", {"at": "new"})
    client.say("4", "4", "room:1", "phx_join")
    client.hears_only()
    client.hang_up()
    gates.open("new")
    gates.open("old")
    assert sorted([gates.site.noted(), gates.site.noted()]) == ["closed", "duplicate_join"]
    assert (gates.site.notes(), gates.site.hears("room:1")) == ([], False)


def test_connection_that_is_closed_while_a_replaced_channel_terminates(engine: Engine) -> None:
    gate, log = Event(), list[Any]()

    class Slow(Channel):
        def join(self, payload: Any) -> None:
            log.append("join")

        def terminate(self, reason: Any) -> None:
            log.append(reason)
            gate.wait()

    client = MemoryClient(engine, serve(Slow))
    client.join()
    # It comes between the begin of terminate and the new join, whose reader waits for neither.
    gevent.get_hub().loop.run_callback(client.connection.close, 1001, "closed")
    client.say("2", "2", "room:1", "phx_join", {})
    gate.set()
    assert client.rest() == []
    assert (log, client.carrier.closed, engine.runners.busy) == (["join", "duplicate_join"], (1001, "closed"), 0)


# Answers that need no channel


def test_topic_without_a_channel(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.serve(Room)
    client = site.connect()
    client.say("1", "1", "nope", "phx_join")
    client.say("1", "2", "nope", "echo")
    client.say("1", "3", "nope", "phx_leave")
    client.hears_only(
        reply("1", UNMATCHED, None, "nope"), reply("2", UNMATCHED, None, "nope"), reply("3", None, "1", "nope")
    )
    begin, end = "Visitor: ignoring unmatched topic 'nope'", f" (connection {client.connection.number})"
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"{begin}: the patterns of Visitor are 'room:*'{end}"
    assert second == begin + end


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_channels(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(kind, max_channels=1)
    client = site.enter()
    client.say("2", "2", "room:2", "phx_join")
    no = {"status": "error", "response": {"reason": "too many channels joined"}}
    client.hears_only(reply("2", no, "2", "room:2"))
    assert "max_channels" in caplog.text
    client.say("1", "3", "room:1", "phx_leave")
    client.hears(reply("3"), close("1"))
    client.join("room:2", "4")
    site.close()


@pytest.mark.parametrize("frame", ["nonsense", "[1]", "{}", b"\x07"])
def test_frame_that_is_no_message(frame: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(KINDS[1])
    client = site.enter()
    client.write(frame)
    client.is_closed(1011)
    assert site.noted() == "invalid message"
    assert "a client of Visitor sent an invalid message" in caplog.text
    site.close()


# A topic that other nodes have to know first


def greet(channel: Room) -> None:
    """Say something as soon as it may be said."""
    channel.note("after_join")
    channel.push("hello", {})


HELLO: list[Any] = ["1", None, "room:1", "hello", {}]
NEWS: list[Any] = [None, None, "room:1", "news", {}]


def knock(site: Site, **acts: Callable[..., Any]) -> Client:
    """Ask for room:1, and come so far that the other nodes are told."""
    site.serve(scripted(after_join=greet, do=lambda channel: channel.note("do"), **acts))
    client = site.connect()
    client.say("1", "1", "room:1", "phx_join")
    client.hears_only()
    return client


@pytest.mark.parametrize("ends", [None, NotPublished("out of reach")], ids=["confirmed", "failed"])
@pytest.mark.parametrize("left", [0.5, 50.0], ids=["too late", "in time"])
def test_waits_for_the_id_and_for_the_topic_share_one_limit(
    far: Engine,
    slow: SlowAdapter,
    caplog: pytest.LogCaptureFixture,
    phoenix_clock: Clock,
    left: float,
    ends: Exception | None,
) -> None:
    slow.subscribe_timeout = 100.0
    connecting = gevent.spawn(MemoryClient, far, serve(Room), name="ann")
    phoenix_clock.advance(100.0 - left)
    slow.confirm()
    client = connecting.get(timeout=DEADLINE)
    client.say("1", "1", "room:1", "phx_join", {})
    phoenix_clock.advance(1)
    late = left < 1
    if not late:
        turn()
        slow.confirm(ends)
    assert client.hear()[-1]["status"] == ("ok" if late or ends is None else "error")
    assert ("not confirmed in time" in caplog.text) == late
    if late:  # the adapter goes on, and the topic is had as soon as it is confirmed
        slow.confirm(ends)
        assert (slow.asked, slow.topics) == ([], ["ann", "room:1"])


def test_join_is_answered_when_the_other_nodes_know(slow_site: Site, slow: SlowAdapter) -> None:
    clients = [knock(slow_site) for _ in range(3)]
    clients[0].say("1", "2", "room:1", "echo")
    slow_site.phoenix.local_broadcast("room:1", "too early", {})
    assert slow.asked == ["room:1"] * 3
    for number, client in enumerate(clients):
        client.hears_only()
        slow.confirm()
        client.hears_only(reply("1"), HELLO, *([] if number else [reply("2")]))
    slow_site.connect().join()
    slow_site.phoenix.local_broadcast("room:1", "news", {})
    clients[0].hears_only(NEWS)


def test_nobody_speaks_through_a_channel_whose_join_waits(slow_site: Site, slow: SlowAdapter) -> None:
    channels: list[Room] = []
    client = knock(slow_site, join=channels.append)
    for speak in (channels[0].push, channels[0].broadcast):
        with pytest.raises(NotJoined):
            speak("e", {})
    slow.confirm()
    client.hears_only(reply("1"), HELLO)


@pytest.mark.parametrize("reason", ["closed", "draining"])
@pytest.mark.parametrize("failure", [None, NotPublished("out of reach")])
def test_connection_that_ends_while_a_join_waits(
    slow_site: Site, slow: SlowAdapter, reason: str, failure: Exception | None
) -> None:
    client, other = knock(slow_site), knock(slow_site)
    client.say("1", "2", "room:1", "do")
    client.rest()
    client.connection.closed("closed") if reason == "closed" else client.connection.close(1012, reason)
    turn()
    slow.confirm(failure)
    assert slow.topics == ["room:1"]
    slow.confirm()
    other.hears_only(reply("1"), HELLO)
    other.hang_up()
    turn()
    assert slow_site.notes() == [reason, "after_join", "closed"]
    assert (slow.topics, slow_site.hears("room:1")) == ([], False)
    assert (slow_site.engine.connections, client.connection.protocol.memberships) == (set(), {})


def test_leave_while_a_join_waits(slow_site: Site, slow: SlowAdapter) -> None:
    client = knock(slow_site)
    client.say("1", "2", "room:1", "phx_leave")
    client.hears_only()
    slow.confirm()
    heard = client.rest()
    assert sorted(heard, key=str) == sorted(map(client.written, [reply("1"), HELLO, reply("2"), close("1")]), key=str)
    assert slow_site.notes()[-1] == "left"
    assert (slow.topics, client.connection.protocol.memberships) == ([], {})


def test_joins_that_replace_each_other_while_they_wait(slow_site: Site, slow: SlowAdapter) -> None:
    client = knock(slow_site)
    for ref in "23":
        client.say(ref, ref, "room:1", "phx_join")
    client.say("3", "4", "room:1", "echo")
    heard = client.rest()
    for _ in range(3):
        while slow.asked:
            slow.confirm()
        heard += client.rest()
    closed = [message[1] for message in heard if message[3] == "phx_close"]
    assert closed == ["1", "2"]
    assert [message[1] for message in heard if message[3] == "phx_reply"] == ["1", "2", "3", "4"]
    assert slow_site.notes().count("duplicate_join") == 2
    slow_site.phoenix.local_broadcast("room:1", "news", {})
    client.hears_only(NEWS)
    client.hang_up()
    turn()
    assert (slow.topics, slow_site.hears("room:1")) == ([], False)


@pytest.mark.parametrize("reason", ["shutdown", "broken"])
def test_stop_while_a_join_waits(slow_site: Site, slow: SlowAdapter, reason: str) -> None:
    channels: list[Room] = []
    client = knock(slow_site, join=channels.append)
    channels[0].stop(reason)
    client.hears_only()
    slow.confirm()
    heard = [message for message in client.rest() if message[3] != "hello"]
    end = close("1") if reason == "shutdown" else ["1", "1", "room:1", "phx_error", CRASHED]
    assert heard == [client.written(message) for message in (reply("1"), end)]
    assert (slow_site.notes()[-1], slow.topics) == (reason, [])


def test_topic_that_cannot_be_had_crashes_the_join(
    slow_site: Site, slow: SlowAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    client = knock(slow_site)
    client.say("1", "2", "room:1", "do")
    client.rest()
    slow.confirm(NotPublished("out of reach"))
    client.hears_only(reply("1", JOIN_CRASHED), reply("2", UNMATCHED, None))
    assert "out of reach" in caplog.text
    assert (slow.topics, slow_site.notes()) == ([], [])
    client.say("3", "3", "room:1", "phx_join")
    client.hears_only()
    slow.confirm()
    client.hears(reply("3", None, "3"))


@pytest.mark.parametrize("where", ["join", "handler"])
@pytest.mark.parametrize("leaves", [False, True])
def test_channel_waits_for_other_topics_too(slow_site: Site, slow: SlowAdapter, where: str, leaves: bool) -> None:
    slow.quick = ("room:1",)

    read = lambda channel: channel.subscribe("news")  # noqa: E731
    push = lambda channel, message: channel.push(message.event, {})  # noqa: E731
    slow_site.serve(scripted(**{"join" if where == "join" else "do": read}, handle_info=push))
    client = slow_site.connect()
    client.say("1", "1", "room:1", "phx_join")
    if where == "handler":
        client.say("1", "2", "room:1", "do")
    client.hears_only(*([reply("1")] if where == "handler" else []))
    slow_site.phoenix.local_broadcast("news", "too early", {})
    if leaves:
        client.hang_up()
        turn()
    slow.confirm()
    if leaves:
        assert (slow_site.notes(), slow.topics, slow_site.hears("news")) == (["closed"], [], False)
    else:
        slow_site.phoenix.local_broadcast("news", "heard", {})
        client.hears_only(*([reply("1")] if where == "join" else []), ["1", None, "room:1", "heard", {}])
