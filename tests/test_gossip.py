"""This node's replica of a presence: what it tells the others, what it hears, who is silent, and who ends."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.exceptions import NotPublished
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.testing import MemoryAdapter
from flask_phoenix.tracker import replica as gossip
from flask_phoenix.tracker.replica import Replica
from flask_phoenix.tracker.state import Diffs, Entry
from tests.network import LONG, SHORT, Letter, Network, Wireless, eventually, settle
from tests.processes import DEADLINE


class Noting(Replica):
    """Writes down what has changed, and lets presences come and go."""

    def __init__(self, engine: Engine, name: str = "Online", down_period: float = LONG) -> None:
        super().__init__(engine, name, down_period)
        #: The refs of each diff: those that joined, those that left.
        self.changes: list[tuple[list[str], list[str]]] = []

    def told(self, diffs: Diffs) -> None:
        for joins, leaves in diffs.values():
            sides = [[ref(meta) for metas in side.values() for meta in metas] for side in (joins, leaves)]
            self.changes.append((sides[0], sides[1]))

    @property
    def here(self) -> list[str]:
        """The refs on the topic, in order."""
        return sorted(ref(meta) for metas in self.tracker.list("room:1").values() for meta in metas)

    def join(self, *refs: str, **meta: Any) -> None:
        """Hold presences."""
        for each in refs:
            self.changed(self.tracker.join(entry(each, **meta)))

    def update(self, ref: str, new: str) -> None:
        """Hold one in the place of another."""
        self.changed(self.tracker.update(ref, entry(new)))

    def leave(self, *refs: str) -> None:
        """Hold them no more."""
        for each in refs:
            self.changed(self.tracker.leave(each))


class Peer(Noting):
    """One node, and what it has told."""

    def __init__(self, network: Network | None = None, down_period: float = LONG, name: str = "Online") -> None:
        self.adapter: Any = Wireless(network) if network is not None else None
        super().__init__(Engine(nullcontext, Json(), lambda: self.adapter), name, down_period)
        self.engine.add(self)
        self.engine.serve()

    def said(self, network: Network) -> list[Any]:
        """Return what this node has said to the others."""
        said = [(source, data) for source, topic, data in network.published if topic.startswith("phx:presence:Online")]
        return [json.loads(data[data.index(b"[") :]) for source, data in said if source is self.adapter]

    def kinds(self, network: Network) -> list[str]:
        """Return the kinds of what this node has said."""
        return [message[1] for message in self.said(network)]

    def hear(self, data: bytes, topic: str = "phx:presence:Online") -> None:
        """Have something arrive."""
        self.adapter.hear(topic, b"J\x00\x06gossip" + data)


def entry(ref: str, **meta: Any) -> Entry:
    return Entry("room:1", f"key of {ref}", {**meta, "phx_ref": ref})


def ref(meta: dict[str, Any]) -> str:
    return str(meta["phx_ref"])


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def make_peer(network: Network) -> Iterator[Callable[..., Peer]]:
    """Make nodes of the network, and stop them in the end."""
    peers: list[Peer] = []

    def make_peer(**options: Any) -> Peer:
        peers.append(Peer(**{"network": network, **options}))
        return peers[-1]

    yield make_peer
    for peer in peers:
        peer.engine.stop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the time by which nodes judge each other; their timers go on."""
    clock = Clock()
    monkeypatch.setattr(gossip, "monotonic", clock)
    return clock


class Clock:
    """A time that goes on when it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_who_is_told_is_for_others_to_write() -> None:
    with pytest.raises(NotImplementedError):
        Replica(Engine(nullcontext, Json()), "Online", LONG).told({})


# Alone


def test_a_node_without_others_runs_no_timers_and_keeps_nothing_for_them() -> None:
    peer = Peer()
    peer.join("a", "b")
    peer.update("b", "c")
    peer.leave("a", "unknown")
    assert peer.changes == [(["a"], []), (["b"], []), (["c"], ["b"]), ([], ["a"])]
    assert peer.here == ["c"]
    assert gevent.wait(timeout=DEADLINE), "something is still to happen"
    assert peer.tracker.flush() is None
    assert not peer.engine.pubsub.subscribed("phx:presence:Online")
    peer.farewell()
    peer.engine.stop()


def test_a_node_may_hold_presences_before_it_serves_and_behind() -> None:
    replica = Noting(Engine(nullcontext, Json()))
    replica.join("a")
    replica.farewell()
    assert replica.here == ["a"]
    replica.engine.add(replica)
    replica.engine.serve()
    assert replica.here == []
    replica.engine.stop()
    replica.join("b")
    replica.leave("b")
    assert replica.changes == [(["a"], []), (["b"], []), ([], ["b"])]


# Together


def test_changes_arrive(make_peer: Callable[..., Peer]) -> None:
    one, two, three = (make_peer() for _ in range(3))
    one.join("a", n=1)
    eventually(lambda: two.here == three.here == ["a"])
    assert two.tracker.list("room:1") == {"key of a": [{"n": 1, "phx_ref": "a"}]}
    one.update("a", "b")
    two.join("c")
    eventually(lambda: one.here == two.here == three.here == ["b", "c"])
    one.leave("b")
    eventually(lambda: one.here == two.here == three.here == ["c"])
    assert one.changes == [(["a"], []), (["b"], ["a"]), (["c"], []), ([], ["b"])] or one.changes == [
        (["a"], []),
        (["b"], ["a"]),
        ([], ["b"]),
        (["c"], []),
    ]
    assert [change for change in three.changes if change != (["c"], [])] == [(["a"], []), (["b"], ["a"]), ([], ["b"])]


def test_what_came_and_went_between_two_messages_is_told_here_alone(make_peer: Callable[..., Peer]) -> None:
    one, two = make_peer(), make_peer()
    one.join("a")
    one.leave("a")
    one.join("b")
    eventually(lambda: two.here == ["b"])
    assert one.changes == [(["a"], []), ([], ["a"]), (["b"], [])]
    assert two.changes == [(["b"], [])]


def test_changes_are_gathered(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(), make_peer()
    for burst in range(3):
        names = [f"{burst}-{number:03}" for number in range(200)]
        for name in names:
            one.join(name)
            gevent.idle()
        eventually(lambda names=names: set(names) <= set(two.here))  # type: ignore[misc]
    assert one.kinds(network).count("delta") < 300


def test_presences_are_apart(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two, other = make_peer(), make_peer(), make_peer(name="Other")
    one.join("a")
    eventually(lambda: two.here == ["a"])
    other.join("a")
    assert (other.here, one.here, other.changes) == (["a"], ["a"], [(["a"], [])])
    for topic in ("phx:presence:Online", f"phx:presence:Online:{one.engine.node}"):
        assert one.engine.pubsub.subscribed(topic)
        assert not other.engine.pubsub.subscribed(topic)


def test_who_comes_late_is_told_all(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(), make_peer()
    names = [f"{number:05}" for number in range(10_000)]
    one.join(*names)
    two.join("b")
    eventually(lambda: len(two.here) == 10_001)
    late = make_peer()
    eventually(lambda: late.here == [*names, "b"])
    assert len(late.changes) == 2
    assert [message[1:3] for message in late.said(network)] == [["ask", late.engine.node]]
    assert [one.kinds(network).count("state"), two.kinds(network).count("state")] == [2, 1]  # two had asked, too


def test_an_answer_is_for_the_one_who_asked(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(), make_peer()
    one.join("a")
    eventually(lambda: two.here == ["a"])
    late = make_peer()
    eventually(lambda: late.here == ["a"])
    states = [topic for source, topic, data in network.published if source is one.adapter and b'"state"' in data]
    assert states[-1] == f"phx:presence:Online:{late.engine.node}"


def test_what_is_lost_is_asked_for(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    network.copies = lambda letter: 0
    one.join("a", "b")
    eventually(lambda: "delta" in one.kinds(network))
    network.copies = lambda letter: 1
    eventually(lambda: two.here == ["a", "b"])
    network.copies = lambda letter: int(b"delta" not in letter.data)
    one.leave("a")
    one.update("b", "c")
    eventually(lambda: two.here == ["c"])
    assert two.changes == [(["a", "b"], []), (["c"], ["a", "b"])]


def test_what_comes_twice_or_late_is_told_once(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    network.copies = lambda letter: 2
    network.holding = True
    for number in range(5):
        one.join(f"{number}")
        eventually(lambda number=number: one.kinds(network).count("delta") == number + 1)  # type: ignore[misc]
    network.holding = False
    network.release(lambda letters: [*reversed(letters)])
    eventually(lambda: two.here == one.here)
    assert sorted(name for joined, left in two.changes for name in joined) == one.here
    assert [left for _, left in two.changes if left] == []


def test_an_idle_node_gives_a_sign_of_life_in_each_period(make_peer: Callable[..., Peer], network: Network) -> None:
    one, quiet = make_peer(down_period=SHORT), make_peer()
    eventually(lambda: one.kinds(network).count("heartbeat") == 12)
    assert {message[2] for message in one.said(network)} == {one.engine.node}
    assert one.kinds(network)[:3] == ["ask", "state", "heartbeat"]
    assert quiet.kinds(network) == ["ask"]


def test_a_node_that_has_just_begun_can_be_waited_for(
    make_peer: Callable[..., Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "SETTLE", DEADLINE / 20)
    one = make_peer()
    one.join("a")
    two, alone = make_peer(), Peer()
    assert two.here == []
    two.settle()
    assert two.here == ["a"]
    alone.settle()
    alone.engine.stop()


def test_a_node_that_has_begun_long_ago_is_not_waited_for(make_peer: Callable[..., Peer], clock: Clock) -> None:
    one, log = make_peer(), list[str]()
    clock.now += gossip.SETTLE
    gevent.get_hub().loop.run_callback(log.append, "others ran")
    one.settle()
    assert log == []
    settle()


# Silence


def test_who_is_silent_is_gone_until_it_is_heard(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two, three = (make_peer(down_period=SHORT) for _ in range(3))
    one.join("a", "b")
    two.join("c")
    eventually(lambda: one.here == two.here == three.here == ["a", "b", "c"])
    network.part(one.adapter)
    eventually(lambda: two.here == three.here == ["c"] and one.here == ["a", "b"])
    one.leave("b")
    two.join("d")
    eventually(lambda: three.here == ["c", "d"])
    network.heal()
    eventually(lambda: one.here == two.here == three.here == ["a", "c", "d"])
    assert [change for change in three.changes if "a" in str(change) or "b" in str(change)] == [
        (["a", "b"], []),
        ([], ["a", "b"]),
        (["a"], []),
    ]


def test_who_is_silent_is_gone_by_the_down_period(
    make_peer: Callable[..., Peer], network: Network, clock: Clock
) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    one.join("a")
    eventually(lambda: two.here == ["a"])
    network.part(one.adapter)
    last = clock.now
    while two.here and clock.now < last + 2 * SHORT:
        beats = two.kinds(network).count("heartbeat")
        clock.now += SHORT / gossip.BEATS
        eventually(lambda beats=beats: two.kinds(network).count("heartbeat") > beats)  # type: ignore[misc]
        gone_at = clock.now
    assert last + SHORT / 2 < gone_at <= last + SHORT * 1.001


def test_who_has_slept_finds_out_nothing_about_the_others(
    make_peer: Callable[..., Peer], network: Network, clock: Clock
) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    one.join("a")
    two.join("b")
    eventually(lambda: one.here == two.here == ["a", "b"])
    for slept in (SHORT, 1.5 * SHORT, 3 * SHORT, 1000 * SHORT):
        beats = [peer.kinds(network).count("heartbeat") for peer in (one, two)]
        clock.now += slept
        eventually(
            lambda beats=beats: all(  # type: ignore[misc]
                peer.kinds(network).count("heartbeat") > before + 3
                for peer, before in zip((one, two), beats, strict=True)
            )
        )
    assert [left for _, left in one.changes + two.changes if left] == []


def test_who_is_silent_for_very_long_is_forgotten(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(down_period=SHORT / 20), make_peer(down_period=SHORT / 20)
    one.join("a", much="forgotten")
    eventually(lambda: two.here == ["a"])
    network.part(one.adapter)
    eventually(lambda: two.here == [])
    eventually(lambda: known("forgotten") == 1)
    network.heal()
    eventually(lambda: two.here == ["a"])
    assert [left for _, left in one.changes if left] == []


def known(meta: str) -> int:
    """Return how many nodes hold an entry with such a meta."""
    gc.collect()
    return sum(each.meta.get("much") == meta for each in gc.get_objects() if type(each) is Entry)


# Ends


def test_who_says_goodbye_is_gone_at_once(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two, three = (make_peer() for _ in range(3))
    one.join("a")
    two.join("b")
    eventually(lambda: one.here == two.here == three.here == ["a", "b"])
    one.engine.farewell()
    eventually(lambda: two.here == three.here == ["b"])
    assert one.here == ["a", "b"], "it can still be asked here"
    one.join("c")
    eventually(lambda: one.kinds(network)[-1] == "goodbye" and one.kinds(network).count("goodbye") > 1)
    settle()
    assert two.here == three.here == ["b"]
    two.join("d")
    eventually(lambda: one.here == ["a", "b", "c", "d"])
    one.engine.stop()
    settle()
    assert [change for change in two.changes if "b" not in str(change)] == [(["a"], []), ([], ["a"]), (["d"], [])]


def test_what_was_not_told_yet_goes_before_the_goodbye(make_peer: Callable[..., Peer], network: Network) -> None:
    one = make_peer()
    one.join("a")
    one.engine.farewell()
    assert one.kinds(network) == ["ask", "delta", "goodbye"]
    one.engine.farewell()
    assert one.kinds(network) == ["ask", "delta", "goodbye", "goodbye"]


def test_who_stops_is_gone_at_once_and_comes_back_as_another(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(), make_peer()
    one.join("a")
    two.join("b")
    eventually(lambda: one.here == two.here == ["a", "b"])
    topics = ["phx:presence:Online", f"phx:presence:Online:{one.engine.node}"]
    assert one.adapter.topics == set(topics)
    one.engine.stop()
    assert one.adapter.topics == set()
    eventually(lambda: two.here == ["b"])
    one.engine.serve()
    assert one.here == []
    eventually(lambda: one.here == ["b"])
    one.join("a")
    eventually(lambda: two.here == ["a", "b"])


def test_a_node_that_has_stopped_runs_no_timers(network: Network) -> None:
    peer = Peer(network, SHORT)
    peer.join("a")
    peer.engine.stop()
    assert gevent.wait(timeout=DEADLINE), "something is still to happen"
    said = len(network.published)
    peer.leave("a")
    assert gevent.wait(timeout=DEADLINE)
    assert len(network.published) == said


def test_who_is_known_to_have_ended_is_gone_at_once(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(), make_peer()
    one.join("a")
    eventually(lambda: two.here == ["a"])
    network.part(one.adapter)
    network.tell_gone(one.adapter)
    settle()
    assert (two.here, two.changes) == ([], [(["a"], []), ([], ["a"])])
    network.tell_gone(one.adapter)
    two.adapter.gone("nobody")
    settle()
    assert len(two.changes) == 2


def test_who_was_thought_to_have_ended_comes_back(make_peer: Callable[..., Peer], network: Network) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    one.join("a")
    eventually(lambda: two.here == ["a"])
    network.tell_gone(one.adapter)
    eventually(lambda: ([], ["a"]) in two.changes)
    eventually(lambda: two.here == ["a"])


def test_the_adapter_of_the_house_tells_of_ends() -> None:
    adapters: list[MemoryAdapter] = []
    one, two = (Noting(Engine(nullcontext, Json(), lambda: MemoryAdapter(adapters))) for _ in range(2))
    for each in (one, two):
        each.engine.add(each)
        each.engine.serve()
    one.join("a")
    eventually(lambda: two.here == ["a"])
    one.engine.stop()
    eventually(lambda: two.here == [])
    two.engine.stop()


# What goes wrong


JUNK = [
    b"null",
    b"7",
    b'"hello"',
    b"{}",
    b"[]",
    b'[2,"heartbeat","x",1]',
    b'[1,"shout","x",1]',
    b'[1,"heartbeat",7,1]',
    b'[1,"heartbeat","x","1"]',
    b'[1,"heartbeat","x",1,2]',
    b'[1,"delta","x",1,{"room:1":{"k":[{"no":"ref"}]}},[]]',
    b'[1,"delta","x",1,{"room:1":[]},[]]',
    b'[1,"delta","x",1,{"room:1":{"k":[7]}},[]]',
    b'[1,"delta","x",1,{},[7]]',
    b'[1,"state","x",1,{"room:1":{"k":[{"phx_ref":["a"]}]}}]',
    b'[1,"state","x",1,{"room:1":{"k":[{"phx_ref":"mine"}]}}]',
    b'[1,"ask","x",1,7]',
]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_ignored(make_peer: Callable[..., Peer], junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    one, two = make_peer(), make_peer()
    two.join("mine")
    eventually(lambda: one.here == ["mine"])
    two.hear(junk)
    two.hear(junk, f"phx:presence:Online:{two.engine.node}")
    settle()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(messages) == 2
    assert messages[0].startswith("gossip on 'phx:presence:Online' is ignored: expected ")
    one.join("a")
    eventually(lambda: two.here == one.here == ["a", "mine"])
    assert two.changes == [(["mine"], []), (["a"], [])]


def test_what_the_app_says_on_the_topic_of_gossip_is_junk(
    make_peer: Callable[..., Peer], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_peer(), make_peer()
    one.engine.broadcast(Broadcast("phx:presence:Online", "hello", {}))
    one.engine.broadcast(Broadcast("phx:presence:Online", "hello", b"\x00"))
    settle()
    assert len([record for record in caplog.records if "is ignored" in record.getMessage()]) == 4
    one.join("a")
    eventually(lambda: two.here == ["a"])


def test_gossip_that_cannot_be_published_is_made_good(
    make_peer: Callable[..., Peer], network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make_peer(down_period=SHORT), make_peer(down_period=SHORT)
    publish, lost = one.adapter.publish, Event()

    def fail(topic: str, data: bytes) -> None:
        if b"delta" in data:
            lost.set()
        raise NotPublished("the link is down")

    one.adapter.publish = fail
    one.join("a")
    assert lost.wait(DEADLINE)
    assert one.changes == [(["a"], [])]
    one.adapter.publish = publish
    eventually(lambda: two.here == ["a"])
    assert "gossip on 'phx:presence:Online' is lost: the link is down" in caplog.text


def test_what_is_held_while_others_are_asked_is_not_lost(make_peer: Callable[..., Peer], network: Network) -> None:
    gate = Event()

    class Slow(Wireless):
        def subscribe(self, topic: str) -> None:
            assert gate.wait(DEADLINE)
            super().subscribe(topic)

    other, engine = make_peer(), Engine(nullcontext, Json(), lambda: Slow(network))
    other.join("b")
    replicas = [Noting(engine, name) for name in ("Online", "Other")]
    for replica in replicas:
        engine.add(replica)
    serving = gevent.spawn(engine.serve)
    settle()
    engine.serve()
    for replica in replicas:
        replica.join("a")
    settle()
    gate.set()
    serving.get(timeout=DEADLINE)
    eventually(lambda: other.here == replicas[0].here == ["a", "b"])
    assert replicas[1].here == ["a"]
    engine.stop()


def test_a_node_may_end_while_it_asks_the_others(network: Network) -> None:
    gate = Event()

    class Slow(Wireless):
        def subscribe(self, topic: str) -> None:
            assert gate.wait(DEADLINE)
            super().subscribe(topic)

    replica = Noting(Engine(nullcontext, Json(), lambda: Slow(network)))
    replica.engine.add(replica)
    serving = gevent.spawn(replica.engine.serve)
    settle()
    replica.engine.stop()
    gate.set()
    serving.get(timeout=DEADLINE)
    assert gevent.wait(timeout=DEADLINE), "something is still to happen"
    assert network.nodes == []
    assert not replica.engine.pubsub.subscribed("phx:presence:Online")


def test_letters_travel_as_a_test_says(network: Network, make_peer: Callable[..., Peer]) -> None:
    one, two, three = (make_peer() for _ in range(3))
    settle()
    heard: list[Letter] = []
    network.copies = lambda letter: heard.append(letter) or 1  # type: ignore[func-returns-value]
    network.part(one.adapter, two.adapter)
    one.engine.publish(Broadcast("t", "e", {}))
    three.engine.publish(Broadcast("t", "e", {}))
    assert [(letter.source, letter.target) for letter in heard] == [(one.adapter, two.adapter)]
