"""What clients that come back have missed: histories, positions, and what a join says of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar
from unittest.mock import ANY

import gevent
import pytest
from gevent.event import Event
from msgspec import Struct

from flask_phoenix import (
    Channel,
    History,
    HistoryLost,
    InvalidOption,
    InvalidPayload,
    Position,
    Refused,
    Unsupported,
    clock,
    intercept,
    on,
)
from flask_phoenix.protocol.messages import Broadcast, Kept
from flask_phoenix.pubsub.history import OVERHEAD, MemoryStore, Stretch
from flask_phoenix.runtime import histories
from flask_phoenix.runtime.tail import Tail
from flask_phoenix.testing import MemoryAdapter
from tests.support.clients import CRASHED, JOINED, Client, Room, Site, WebSocketClient
from tests.support.processes import DEADLINE, ROOT, START
from tests.support.slow import SlowAdapter

ROOM = "room:1"


class Chat(Room):
    """A room that keeps what is said."""

    history = History(size=5, ttl=60)

    @on("say")
    def say(self, payload: Any) -> Any:
        self.broadcast_from("said", payload)
        return {}

    @on("tell")
    def tell(self, payload: Any) -> Any:
        self.broadcast("said", payload)
        return {}

    @on("read")
    def read(self, payload: Any) -> Any:
        return {"kept": [[each.event, each.payload, each.ref] for each in self.history(**payload)]}


class Hushed(Chat):
    """A room in which what is said is whispered, twice, but for secrets."""

    @intercept("said")
    def whisper(self, payload: Any) -> None:
        if payload["n"] != "secret":
            self.push("hint", {})
            self.push("whispered", payload)


def join(client: Client, since: Any, ref: str = "1") -> Any:
    """Join a topic with a position; return what the reply says of it."""
    client.say(ref, ref, ROOM, "phx_join", {"since": since})
    reply = client.hear()
    assert reply[1:4] == [ref, ROOM, "phx_reply"], reply
    assert reply[4]["status"] == "ok", reply
    return reply[4]["response"]["phx_history"]


def say(site: Site, *numbers: Any, event: str = "said") -> Position:
    """Broadcast some messages; return the position of the last."""
    with site.app.test_request_context():
        for number in numbers:
            position = site.phoenix.broadcast(ROOM, event, {"n": number})
    assert position is not None
    return position


def said(since: Any, *numbers: Any, first: int = 1, event: str = "said") -> list[Any]:
    """Return the broadcasts of some messages, the first of which has an offset."""
    epoch = since["epoch"] if isinstance(since, dict) else since.epoch
    return [[None, f"{epoch}:{first + i}", ROOM, event, {"n": number}] for i, number in enumerate(numbers)]


def test_a_client_that_comes_back_gets_what_it_missed(site: Site) -> None:
    site.serve(Chat)
    client = site.connect()
    since = join(client, None)
    assert (since["recovered"], since["offset"], since["missed"]) == (False, 0, 0)
    say(site, 1)
    client.hears_only(*said(since, 1))
    client.hang_up()
    say(site, 2, 3)
    client = site.connect()
    back = join(client, {**since, "ref": f"{since['epoch']}:1"})
    assert back == {**since, "recovered": True, "offset": 1, "missed": 2, "ref": f"{since['epoch']}:1"}
    say(site, 4)
    client.hears_only(*said(since, 2, 3, 4, first=2))


def test_a_ref_alone_is_a_position(site: Site) -> None:
    site.serve(Chat)
    first = say(site, 1)
    say(site, 2)
    client = site.connect()
    assert join(client, str(first))["recovered"]
    client.hears_only(*said(first, 2, first=2))


def test_others_see_nothing_new(site: Site) -> None:
    client = site.enter(Chat)
    say(site, 1)
    client.hears_only([None, None, ROOM, "said", {"n": 1}])


@pytest.mark.parametrize(
    "ref", ["", "x", ":1", "x:", "x:-1", "x:1", "x:\u0663", 5, True, [], {}, {"ref": 5}, "x:" + 99 * "9"]
)
def test_what_is_no_position_of_this_epoch_is_not_recovered(site: Site, ref: Any) -> None:
    site.serve(Chat)
    say(site, 1)
    client = site.connect()
    told = join(client, ref)
    assert (told["recovered"], told["offset"], told["missed"]) == (False, 1, 0)
    client.hears_only()


def test_what_is_lost_is_told_and_nothing_is_sent(site: Site) -> None:
    site.serve(Chat)
    epoch = say(site, *range(7)).epoch  # the first two are no longer kept
    client = site.connect()
    assert not join(client, f"{epoch}:1")["recovered"]
    client.hears_only()
    assert not join(client, f"{epoch}:8", "2")["recovered"]  # of a future that never was
    client.hears_only(["1", "1", ROOM, "phx_close", {}])
    assert join(client, f"{epoch}:2", "3")["missed"] == 5
    client.hears_only(["2", "2", ROOM, "phx_close", {}], *said(Position(epoch, 0), *range(2, 7), first=3))


def test_after_a_restart_nothing_is_recovered(site: Site) -> None:
    site.serve(Chat)
    position = say(site, 1)
    site.engine.stop()
    client = site.connect()
    assert not join(client, str(position))["recovered"]


def test_a_process_that_is_forked_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site((WebSocketClient, "2.0.0"))  # which no other test has after it: it has forgotten what ran
    site.serve(Chat)
    position = say(site, 1)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    for _ in range(2):
        say(site, 2)
    assert not join(site.connect(), str(position))["recovered"]
    site.close()


def test_interceptors_see_what_was_missed_in_its_order(site: Site) -> None:
    site.serve(Hushed)
    client = site.connect()
    since = join(client, None)
    client.hang_up()
    say(site, 1, "secret")
    say(site, 2, event="shouted")
    client = site.connect()
    assert join(client, since)["missed"] == 3
    say(site, 3)
    say(site, 4, event="shouted")
    ref = f"{since['epoch']}:"
    client.hears_only(
        ["1", None, ROOM, "hint", {}],
        ["1", ref + "1", ROOM, "whispered", {"n": 1}],
        [None, ref + "3", ROOM, "shouted", {"n": 2}],
        ["1", None, ROOM, "hint", {}],
        ["1", ref + "4", ROOM, "whispered", {"n": 3}],
        [None, ref + "5", ROOM, "shouted", {"n": 4}],
    )


class Broken(Chat):
    """Whose interceptor fails at every second message."""

    @intercept("said")
    def pass_on(self, payload: Any) -> None:
        self.push("said", payload)
        assert payload["n"] % 2


def test_what_an_interceptor_fails_at_is_left_out_when_it_is_sent_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.serve(Broken)
    client = site.connect()
    since = join(client, None)
    say(site, 1, 2, 3)
    ref = f"{since['epoch']}:"
    client.hears_only(["1", ref + "1", ROOM, "said", {"n": 1}], ["1", "1", ROOM, "phx_error", CRASHED])
    assert join(client, ref + "1", "2")["missed"] == 2
    client.hears_only(["2", ref + "3", ROOM, "said", {"n": 3}])
    assert "its client missed and now goes without" in caplog.text


def test_what_a_client_says_during_its_join_is_handled_before_what_it_says_later(site: Site) -> None:
    gates = {name: Event() for name in ("join", "said")}

    class Slow(Chat):
        def join(self, payload: Any) -> None:
            assert gates["join"].wait(DEADLINE)

        @intercept("said")
        def pass_on(self, payload: Any) -> None:
            assert gates["said"].wait(DEADLINE)

    site.serve(Slow)
    client, position = site.connect(), say(site, 1)
    client.say("1", "1", ROOM, "phx_join", {"since": f"{position.epoch}:0"})
    client.say("1", "2", ROOM, "echo")
    client.hears_only()
    gates["join"].set()
    assert client.hear()[4]["response"]["phx_history"]["missed"] == 1
    client.say("1", "3", ROOM, "echo")
    client.hears_only()
    gates["said"].set()
    client.hears_only(*(["1", ref, ROOM, "phx_reply", JOINED] for ref in "23"))


def test_what_a_client_is_not_given_it_has_not_missed(site: Site) -> None:
    class Calm(Chat):
        def join(self, payload: Any) -> None:
            self.ignore("typing")

    site.serve(Calm)
    client = site.connect()
    since = join(client, None)
    client.hang_up()
    say(site, 1, event="typing")
    say(site, 2)
    client = site.connect()
    assert join(client, since)["missed"] == 1
    client.hears_only(*said(since, 2, first=2))


class Name(Struct, forbid_unknown_fields=True):
    """Who comes; nothing else is taken."""

    name: str


class Strict(Chat):
    """Has types."""

    def join(self, payload: Name) -> Name:
        return Name(f"hello, {payload.name}")


def test_types_of_a_join_need_not_know_of_positions(site: Site) -> None:
    site.serve(Strict)
    client = site.connect()
    client.say("1", "1", ROOM, "phx_join", {"name": "Ada", "since": None})
    response = client.hear()[4]["response"]
    assert (response["name"], response["phx_history"]["missed"]) == ("hello, Ada", 0)
    client.say("2", "2", ROOM, "phx_join", {"name": 5, "since": None})
    assert client.hear()[4]["response"]["errors"][0]["path"] == "name"


def test_what_a_client_said_to_others_does_not_come_back_to_it(site: Site) -> None:
    site.serve(Chat)
    client, other = site.connect(), site.connect()
    since, others = join(client, None), join(other, None)
    assert client.call("say", {"n": 1})["status"] == "ok"
    other.hears_only(*said(since, 1))
    say(site, 2)
    for each in (client, other):
        each.hang_up()
    client, other = site.connect(), site.connect()
    assert join(client, since)["missed"] == 1
    client.hears_only(*said(since, 2, first=2))
    assert join(other, others)["missed"] == 2
    other.hears_only(*said(since, 1, 2))


def test_bytes_have_their_ref_in_the_frame_before(site: Site) -> None:
    site.serve(Chat)
    client = site.connect(WebSocketClient, "2.0.0")
    since = join(client, None)
    binary = b"\x00\x00\x06\x04room:1said\x01\x02"
    for _ in range(2):
        site.phoenix.broadcast(ROOM, "said", b"\x01\x02")
    frames: list[Any] = []
    for n in (1, 2):
        frames += [[None, f"{since['epoch']}:{n}", ROOM, "phx_offset", {}], binary]
    client.hears(*frames[:2])
    client.hang_up()
    client = site.connect(WebSocketClient, "2.0.0")
    assert join(client, f"{since['epoch']}:1")["missed"] == 1
    client.hears(*frames[2:])


def test_an_author_reads_the_history(site: Site) -> None:
    site.serve(Chat)
    site.serve(Room, "hall:*")
    epoch = say(site, 1, 2, 3).epoch
    assert [(each.topic, each.event, each.payload, each.ref) for each in site.phoenix.history(ROOM, limit=1)] == [
        (ROOM, "said", {"n": 3}, f"{epoch}:3")
    ]
    assert site.phoenix.history(ROOM, limit=0) == site.phoenix.history(ROOM, since=f"{epoch}:3") == []
    client = site.connect()
    client.join()
    answer = client.call("read", {"since": f"{epoch}:1"})
    assert answer["response"] == {"kept": [["said", {"n": 2}, f"{epoch}:2"], ["said", {"n": 3}, f"{epoch}:3"]]}
    with pytest.raises(HistoryLost):
        site.phoenix.history(ROOM, since="older:1")
    with pytest.raises(InvalidOption, match="history = History"):
        site.phoenix.history("hall:1")


def test_what_all_topics_lose_is_logged_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    site = Site((WebSocketClient, "2.0.0"))
    site.enter(Chat)
    site.engine.histories.total = OVERHEAD
    for _ in range(3):
        say(site, 1)
    assert site.engine.limits["history_total"] == 3
    assert caplog.text.count("PHOENIX_HISTORY_TOTAL is reached") == 1
    site.close()


class Map(Chat):
    """Whose clients need the newest place of each alone, unless they recover."""

    conflate: ClassVar = {"said": lambda payload: "place"}


def test_who_recovers_gets_every_broadcast_also_where_others_need_the_newest_alone(site: Site) -> None:
    site.serve(Map)
    client = site.connect()
    since = join(client, None)
    [(_, _, conflation, _)] = site.engine.pubsub._topics[ROOM]
    assert conflation is None
    say(site, 1, 2)
    client.hears_only(*said(since, 1, 2))


def test_a_key_publishes_once(site: Site) -> None:
    client = site.enter(Chat)
    first = site.phoenix.broadcast(ROOM, "said", {"n": 1}, idempotency_key="a")
    assert site.phoenix.broadcast(ROOM, "said", {"n": 2}, idempotency_key="a") == first
    assert site.phoenix.broadcast(ROOM, "said", {"n": 3}, idempotency_key="b") != first
    client.hears_only(*([None, None, ROOM, "said", {"n": n}] for n in (1, 3)))
    site.serve(Room, "hall:*")
    assert site.phoenix.broadcast("hall:1", "said", {}) is None
    with pytest.raises(InvalidOption, match="needs one"):
        site.phoenix.broadcast("hall:1", "said", {}, idempotency_key="a")


def test_a_reply_without_a_place_for_it_crashes_the_join(site: Site) -> None:
    class Bytes(Chat):
        def join(self, payload: Any) -> Any:
            return b"no place"

    site.serve(Bytes)
    client = site.connect()
    client.say("1", "1", ROOM, "phx_join", {"since": None})
    client.hears(["1", "1", ROOM, "phx_reply", {"status": "error", "response": {"reason": "join crashed"}}])


def test_too_large_a_message_is_nobody_s(site: Site) -> None:
    class Small(Chat):
        history = History(max_bytes=OVERHEAD + 10)

    client = site.enter(Small)
    with pytest.raises(InvalidPayload, match="max_bytes"):
        say(site, "too large")
    client.hears_only()
    assert say(site, 1).offset == 1


@pytest.mark.parametrize("options", [{"size": -1}, {"size": 1.5}, {"ttl": 0}, {"ttl": "1"}, {"max_bytes": 0}])
def test_impossible_histories_are_refused(options: Any) -> None:
    with pytest.raises(InvalidOption, match="History"):
        History(**options)


def test_a_channel_s_history_is_a_declaration() -> None:
    with pytest.raises(InvalidOption, match="history = History"):

        class Wrong(Channel):
            history = 5  # type: ignore[assignment]


def kept(store: MemoryStore, topic: str, history: History, now: float) -> list[int]:
    """Return the offsets of what a topic keeps."""
    stretch = store.read(topic, history, now)
    assert stretch is not None
    return [entry.offset for entry in stretch.entries]


def test_old_messages_leave() -> None:
    store, history = MemoryStore("e"), History(ttl=10)
    for now in (0.0, 4.0, 8.0):
        store.append(Broadcast("a", "x", "{}"), history, now, key=str(now))
    assert kept(store, "a", history, 11) == [2, 3]
    assert store.append(Broadcast("a", "x", "{}"), history, 11, key="0.0") == (Position("e", 4), True)
    store.append(Broadcast("b", "x", "{}"), history, 21.5)  # others make those leave that nobody asks for
    assert store.size == OVERHEAD + 2


def test_all_topics_together_are_bounded() -> None:
    reached: list[None] = []
    store, history = MemoryStore("e", 2 * OVERHEAD + 20, lambda: reached.append(None)), History()
    for topic in "abb":
        store.append(Broadcast(topic, "x", "{}"), history, 0)
    assert reached == [None]
    assert (kept(store, "a", history, 0), kept(store, "b", history, 0)) == ([], [1, 2])


def test_a_forgotten_topic_does_not_use_a_number_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flask_phoenix.pubsub.history.TOPICS", 1)
    store, history = MemoryStore("e"), History()
    for _ in range(3):
        store.append(Broadcast("a", "x", "{}"), history, 0)
    store.append(Broadcast("b", "x", "{}"), history, 0)
    assert store.append(Broadcast("a", "x", "{}"), history, 0)[0].offset > 3
    assert store.read("a", history, 0, Position("e", 2)) is None


class Lossy(MemoryAdapter):
    """Loses what it is told to, and can be made to wait."""

    def __init__(self, network: list[MemoryAdapter]) -> None:
        super().__init__(network)
        self.deaf = False
        #: Lets what is asked be read, and then be answered.
        self.reading, self.gate = Event(), Event()
        self.reading.set()
        self.gate.set()

    def _hear(self, topic: str, data: bytes) -> None:
        if not self.deaf:
            super()._hear(topic, data)

    def kept(self, topic: str, history: History, since: Position | None) -> Any:
        assert self.reading.wait(DEADLINE)
        answer = super().kept(topic, history, since)
        assert self.gate.wait(DEADLINE)
        return answer

    def position(self, topic: str, history: History) -> Position:
        assert self.reading.wait(DEADLINE)
        return super().position(topic, history)


class Pair:
    """Two nodes that keep what is said in their rooms."""

    def __init__(self, channel: type[Channel] = Chat, serving: bool = True) -> None:
        network: list[MemoryAdapter] = []
        self.adapters = [Lossy(network), Lossy(network)]
        self.sites = [Site((WebSocketClient, "2.0.0"), adapter) for adapter in self.adapters]
        for site in self.sites:
            site.serve(channel)
        if serving:
            self.serve()

    def serve(self) -> None:
        """Let both be nodes from now on."""
        for site in self.sites:
            site.connect()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Return two nodes."""
    pair = Pair()
    yield pair
    for site in pair.sites:
        site.close()


def test_a_client_may_come_back_to_another_node(pair: Pair) -> None:
    client = pair.sites[0].connect()
    since = join(client, None)
    say(pair.sites[0], 1)
    client.hears_only(*said(since, 1))
    client.hang_up()
    say(pair.sites[1], 2)
    say(pair.sites[0], 3)
    client = pair.sites[1].connect()
    assert join(client, f"{since['epoch']}:1")["missed"] == 2
    say(pair.sites[0], 4)
    client.hears_only(*said(since, 2, 3, 4, first=2))


def test_what_was_lost_between_nodes_is_read_before_what_follows(pair: Pair) -> None:
    client = pair.sites[1].connect()
    since = join(client, None)
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1, 2)
    client.hears_only()
    pair.adapters[1].deaf = False
    say(pair.sites[0], 3)
    client.hears_only(*said(since, 1, 2, 3))


def test_what_was_lost_last_is_read_when_the_link_is_back(pair: Pair) -> None:
    client = pair.sites[1].connect()
    since = join(client, None)
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1)
    client.hears_only()
    pair.adapters[1].restored()
    client.hears_only(*said(since, 1))


def test_nodes_that_speak_together_are_heard_in_one_order(pair: Pair) -> None:
    clients = [site.connect() for site in pair.sites]
    since, _ = [join(client, None) for client in clients]
    for n in range(4):  # what each says overtakes what it is told
        say(pair.sites[n % 2], n)
    for client in clients:
        client.hears_only(*said(since, *range(4)))


def test_who_relies_on_what_is_lost_joins_again(pair: Pair) -> None:
    client, other = pair.sites[1].connect(), pair.sites[1].connect()
    since = join(client, None)
    other.join()
    pair.adapters[1].deaf = True
    say(pair.sites[0], *range(6))
    client.hears_only()
    pair.adapters[1].deaf = False
    say(pair.sites[0], 6)
    client.hears_only(["1", "1", ROOM, "phx_error", {"reason": "channel_crash"}])
    assert not join(client, since, "2")["recovered"]
    say(pair.sites[0], 7)
    client.hears_only(*said(since, 7, first=8))
    other.hears_only(*([None, None, ROOM, "said", {"n": n}] for n in range(2, 8)))


def test_a_new_epoch_is_a_loss(pair: Pair) -> None:
    client = pair.sites[1].connect()
    since = join(client, None)
    say(pair.sites[1], 1)
    client.hears_only(*said(since, 1))
    pair.sites[0].engine.stop()  # with which the network has kept what it keeps
    say(pair.sites[1], 2)
    client.hears_only(["1", "1", ROOM, "phx_error", {"reason": "channel_crash"}])
    assert not join(client, f"{since['epoch']}:1", "2")["recovered"]


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("gate", ["reading", "gate"])
def test_broadcasts_during_a_rejoin_come_once(pair: Pair, late: int, gate: str) -> None:
    neighbour = pair.sites[1].connect()
    since = join(neighbour, None)
    say(pair.sites[0], 1, 2)
    neighbour.hears_only(*said(since, 1, 2))
    client = pair.sites[1].connect()
    getattr(pair.adapters[1], gate).clear()
    client.say("1", "1", ROOM, "phx_join", {"since": since["ref"]})
    client.hears_only()
    say(pair.sites[late], 3)
    neighbour.hears_only(*said(since, 3, first=3))
    getattr(pair.adapters[1], gate).set()
    reply = client.hear()
    assert reply[4]["response"]["phx_history"]["missed"] == 3
    say(pair.sites[0], 4)
    client.hears_only(*said(since, 1, 2, 3, 4))


def test_a_join_is_answered_though_the_history_does_not_answer(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "OPEN_TIMEOUT", 0.05)
    since = join(pair.sites[0].connect(), None)
    gate = pair.adapters[0].gate
    gate.clear()
    assert not join(pair.sites[0].connect(), since)["recovered"]
    assert not gate.is_set()
    gate.set()


def test_a_join_waits_for_topic_and_history_together(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    since = join(pair.sites[1].connect(), None)
    now, adapter = [1e6], pair.adapters[0]
    monkeypatch.setattr(histories, "OPEN_TIMEOUT", 2 * DEADLINE)
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    monkeypatch.setattr(adapter, "subscribe", lambda topic: now.__setitem__(0, now[0] + 2 * DEADLINE))
    adapter.gate.clear()
    assert not join(pair.sites[0].connect(), since)["recovered"]
    adapter.gate.set()


def test_what_comes_while_the_history_is_read_is_not_left_for_later(pair: Pair) -> None:
    client = pair.sites[1].connect()
    since = join(client, None)
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1)
    client.hears_only()
    pair.adapters[1].deaf = False
    pair.adapters[1].gate.clear()
    pair.adapters[1].restored()
    client.hears_only()
    say(pair.sites[0], 2)
    client.hears_only()
    pair.adapters[1].gate.set()
    client.hears_only(*said(since, 1, 2))


class Elsewhere(Room):
    """Hears the room from another topic."""

    def after_join(self) -> None:
        self.subscribe(ROOM)

    def handle_info(self, message: Broadcast) -> None:
        self.note(message.payload["n"])


@pytest.mark.parametrize("begin", ["before it is a node", "as a node", "in a channel"])
def test_a_function_of_the_app_misses_nothing_while_the_first_client_joins(begin: str) -> None:
    pair = Pair(serving=begin != "before it is a node")
    site, adapter = pair.sites[1], pair.adapters[1]
    if begin == "in a channel":
        site.serve(Elsewhere, "other:*")
        site.connect().join("other:1")
    else:
        site.phoenix.subscribe(ROOM, lambda broadcast: site.log.put(broadcast.payload["n"]))
    pair.serve()
    gevent.idle()
    say(pair.sites[0], 1)
    adapter.reading.clear()
    client = site.connect()
    client.say("1", "1", ROOM, "phx_join", {})
    gevent.idle()
    say(pair.sites[0], 2)
    gevent.idle()
    adapter.deaf = True
    say(pair.sites[0], 3)
    adapter.deaf = False
    adapter.reading.set()
    say(pair.sites[0], 4)
    assert [site.log.get(timeout=DEADLINE) for _ in range(4)] == [1, 2, 3, 4]
    for each in pair.sites:
        each.close()


def test_what_is_collected_before_a_loss_does_not_stand_before_what_follows_it() -> None:
    taken = [(Stretch("e", 1, []), True), (Stretch("e", 9, []), False)]
    delivered: list[Kept] = []
    tail = Tail(ROOM, History(), lambda since: taken.pop(0), lambda message, sender: delivered.append(message))
    tail.reach(Position("e", 1), DEADLINE)
    collected = tail.collect()
    messages = [Kept.made(Broadcast(ROOM, "said", {}), f"e:{offset}") for offset in (2, 10)]
    tail.arrive(messages[0])
    tail.reach(Position("e", 9), DEADLINE)
    tail.arrive(messages[1])
    assert collected == messages[1:]
    assert delivered == messages


def test_a_join_that_is_given_up_sends_nothing(pair: Pair) -> None:
    neighbour = pair.sites[1].connect()
    since = join(neighbour, None)
    say(pair.sites[0], 1)
    neighbour.hears_only(*said(since, 1))
    client = pair.sites[1].connect()
    pair.adapters[1].gate.clear()
    client.say("1", "1", ROOM, "phx_join", {"since": since["ref"]})
    client.say("1", "2", ROOM, "phx_leave")
    client.say("3", "3", ROOM, "phx_join", {"since": since["ref"]})
    client.hears_only()
    pair.adapters[1].gate.set()
    given_up, left = {"status": "error", "response": {"reason": "given up"}}, {"status": "ok", "response": {}}
    client.hears(["1", "1", ROOM, "phx_reply", given_up], ["1", "2", ROOM, "phx_reply", left])
    assert client.hear()[4]["response"]["phx_history"]["missed"] == 1
    client.hears_only(*said(since, 1))


def test_a_client_that_knows_more_than_its_new_node_gets_nothing_twice(pair: Pair) -> None:
    neighbour = pair.sites[1].connect()
    since = join(neighbour, None)
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1, 2)
    client = pair.sites[1].connect()
    assert join(client, f"{since['epoch']}:1")["missed"] == 1
    client.hears_only(*said(since, 2, first=2))
    neighbour.hears_only(*said(since, 1, 2))


def test_a_node_that_stays_behind_what_a_client_knows_says_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "OPEN_TIMEOUT", 0.05)
    adapter, never = pair.adapters[1], Event()
    neighbour = pair.sites[1].connect()
    since = join(neighbour, None)
    adapter.deaf = True
    say(pair.sites[0], 1, 2)
    read = adapter.kept

    def kept(topic: str, history: History, position: Position | None) -> Any:
        if position == Position(since["epoch"], 0):  # where the node is
            never.wait()
        return read(topic, history, position)

    monkeypatch.setattr(adapter, "kept", kept)
    told = join(pair.sites[1].connect(), f"{since['epoch']}:1")
    assert (told["recovered"], told["offset"]) == (False, 0)
    never.set()


def test_a_sender_does_not_hear_itself_by_way_of_the_history(pair: Pair) -> None:
    clients = [site.connect() for site in pair.sites]
    since = [join(client, None) for client in clients]
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1)
    clients[1].say("1", "2", ROOM, "say", {"n": 2})
    clients[1].hears_only(*said(since[1], 1), ["1", "2", ROOM, "phx_reply", {"status": "ok", "response": {}}])
    clients[0].hears_only(*said(since[0], 1, 2))


class Told(Chat):
    """Tells whoever comes what was said, and takes its time."""

    def join(self, payload: Any) -> Any:
        kept = self.history()
        self.note("read")
        assert self.assigns["gate"].wait(DEADLINE)
        return {"latest": [each.payload["n"] for each in kept]}


@pytest.mark.parametrize("since", [None, "older:1"])
def test_what_a_join_has_read_and_what_follows_it_have_no_hole(pair: Pair, since: Any) -> None:
    gate = Event()
    pair.sites[1].serve(Told, gate=gate)
    epoch = say(pair.sites[0], 1).epoch
    client = pair.sites[1].connect()
    client.say("1", "1", ROOM, "phx_join", {"since": since})
    assert pair.sites[1].noted() == "read"
    say(pair.sites[0], 2)
    gate.set()
    response = client.hear()[4]["response"]
    told = response["phx_history"]
    assert (response["latest"], told["recovered"], told["offset"], told["missed"]) == ([1], False, 1, 1)
    say(pair.sites[0], 3)
    client.hears_only(*said(Position(epoch, 0), 2, 3, first=2))


def test_where_one_process_is_alone_too_nothing_is_between_what_a_join_reads_and_what_follows(site: Site) -> None:
    gate = Event()
    site.serve(Told, gate=gate)
    epoch = say(site, 1).epoch
    client = site.connect()
    client.say("1", "1", ROOM, "phx_join", {"since": None})
    assert site.noted() == "read"
    say(site, 2)
    gate.set()
    assert client.hear()[4]["response"]["phx_history"]["missed"] == 1
    client.hears_only(*said(Position(epoch, 0), 2, first=2))


def test_where_nothing_keeps_it_is_said(slow_site: Site, slow: SlowAdapter) -> None:
    slow.quick = (ROOM,)
    slow_site.serve(Chat)
    client = slow_site.connect()
    assert join(client, "x:1") == {**join(client, "x:1", "2"), "sender": ANY, "recovered": False, "epoch": ""}
    client.hears_only(["1", "1", ROOM, "phx_close", {}])
    assert slow_site.phoenix.broadcast(ROOM, "said", {"n": 1}) is None
    client.hears_only([None, None, ROOM, "said", {"n": 1}])
    with pytest.raises(Unsupported, match="keeps no histories"):
        slow_site.phoenix.history(ROOM)


class Till(Room):
    """Takes money, once."""

    @on("pay")
    def pay(self, payload: Any) -> Any:
        return self.once(payload["key"], lambda: self.charge(payload))

    def charge(self, payload: Any) -> Any:
        self.note(payload["key"])
        if "refuse" in payload:
            raise Refused("no money")
        if self.assigns.pop("fail", False):
            raise RuntimeError
        return {"paid": payload["amount"]}


def test_a_push_that_comes_again_is_answered_as_the_first(site: Site) -> None:
    client = site.enter(Till)
    for key in ("a", "a", "b"):
        assert client.call("pay", {"key": key, "amount": 5})["response"] == {"paid": 5}
    for _ in range(2):
        reply = client.call("pay", {"key": "c", "refuse": True})
        assert reply == {"status": "error", "response": {"reason": "no money"}}
    assert site.notes() == ["a", "b", "c"]


def test_another_node_gives_the_same_answer() -> None:
    pair = Pair(Till)
    clients = [site.connect() for site in pair.sites]
    for client in clients:
        client.join()
    for amount, client in zip((5, 6), clients, strict=True):
        assert client.call("pay", {"key": "a", "amount": amount})["response"] == {"paid": 5}
    for site in pair.sites:
        site.close()


class DeclaredTill(Till):
    """Takes money, once for each key of the payload's own."""

    @on("pay", once="key")
    def pay(self, payload: Any) -> Any:
        return self.charge(payload)

    def charge(self, payload: Any) -> Any:
        self.note(payload.get("key"))
        return {"paid": payload["amount"]}


@dataclass
class Payment:
    """What is paid."""

    key: str
    amount: int


class TypedTill(DeclaredTill):
    """Takes a payload of a type."""

    @on("pay", once="key")
    def pay(self, payload: Payment) -> Any:
        return self.charge(asdict(payload))


class OverridingTill(DeclaredTill):
    """Handles the same in another way."""

    def pay(self, payload: Any) -> Any:
        return super().pay(payload)


@pytest.mark.parametrize("channel", [DeclaredTill, OverridingTill])
def test_a_payload_has_its_key_where_the_handler_says(site: Site, channel: type[Channel]) -> None:
    client = site.enter(channel)
    for key in ("a", "a", "b", 7, 7):
        assert client.call("pay", {"key": key, "amount": 5})["response"] == {"paid": 5}
    for payload in ({"amount": 5}, {"amount": 5}, {"key": None, "amount": 5}):
        assert client.call("pay", payload)["response"] == {"paid": 5}
    assert site.notes() == ["a", "b", 7, None, None, None]


class TwoTills(DeclaredTill):
    """Gives money back, too."""

    @on("refund", once="key")
    def refund(self, payload: Any) -> Any:
        self.note("refund")
        return {"back": payload["amount"]}


@pytest.mark.parametrize(("param", "alan"), [("user", 4), ("name", 3)])
def test_a_key_is_of_its_handler_and_of_a_client_that_has_an_id(site: Site, param: str, alan: int) -> None:
    site.serve(TwoTills)
    for name, paid in (("ada", 3), ("alan", alan), ("ada", 3)):
        client = site.connect(**{param: name})
        client.join()
        assert client.call("pay", {"key": 1, "amount": len(name)})["response"] == {"paid": paid}
        assert client.call("refund", {"key": 1, "amount": 3})["response"] == {"back": 3}


@pytest.mark.parametrize("key", ["", "a" * 256, {}, [1], 1.5, True])
def test_a_key_that_is_none_is_refused(site: Site, key: Any) -> None:
    client = site.enter(DeclaredTill)
    message = "expected a string of 1 to 255 characters, or a whole number"
    assert client.call("pay", {"key": key, "amount": 5}) == {
        "status": "error",
        "response": {"reason": "invalid payload", "errors": [{"path": "key", "message": message}]},
    }
    assert site.notes() == []


def test_a_payload_of_a_type_has_a_key_too(site: Site) -> None:
    client = site.enter(TypedTill)
    assert client.call("pay", {"key": "a", "amount": "much"})["response"]["reason"] == "invalid payload"
    for amount in (5, 6):
        assert client.call("pay", {"key": "a", "amount": amount})["response"] == {"paid": 5}
    assert site.notes() == ["a"]


def test_the_name_of_a_key_is_a_string() -> None:
    with pytest.raises(InvalidOption, match=r'@on\("pay", once="key"\)'):
        on("pay", once=5)  # type: ignore[arg-type] # a mistake


def test_a_call_that_failed_is_made_again(site: Site) -> None:
    site.serve(Till, fail=True)
    client = site.connect()
    client.join()
    client.say("1", "2", ROOM, "pay", {"key": "a", "amount": 5})
    client.hears(["1", "1", ROOM, "phx_error", {"reason": "channel_crash"}])
    site.serve(Till, fail=False)
    client.join(join_ref="3")
    assert client.call("pay", {"key": "a", "amount": 5}, join_ref="3")["response"] == {"paid": 5}


def test_a_reply_does_not_overtake_what_was_broadcast_before_it(pair: Pair) -> None:
    client = pair.sites[1].connect()
    since = join(client, None)
    pair.adapters[1].deaf = True
    say(pair.sites[0], 1)
    client.say("1", "2", ROOM, "tell", {"n": 2})
    client.hears(*said(since, 1, 2), ["1", "2", ROOM, "phx_reply", {"status": "ok", "response": {}}])


def test_the_module_leaves_what_comes_before_the_reply_to_the_next_join() -> None:
    words = ("node", "late.mjs")
    shown = subprocess.run(words, cwd=ROOT / "tests" / "clients", capture_output=True, check=True, timeout=START)
    assert json.loads(shown.stdout) == [None, [1], "e:1"]
