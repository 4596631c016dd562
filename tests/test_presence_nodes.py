"""Presences on several nodes: what nodes tell each other, who is silent, how nodes end, and what is lost on the way."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from asyncio import CancelledError
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.dashboard import names
from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.operations import requests
from flask_phoenix.runtime import peers
from flask_phoenix.server.drain import drain
from flask_phoenix.testing import Clock as VirtualClock
from flask_phoenix.testing import MemoryAdapter
from flask_phoenix.tracker import replica
from flask_phoenix.tracker.state import Entry, Tracker
from tests.support.loop import in_thread
from tests.support.network import Network, NetworkAdapter
from tests.support.presence import LONG, SHORT, MakeNode, Node, entry, eventually, nested, raised, refs, settle
from tests.support.processes import DEADLINE

#: The topic of what nodes tell each other of a presence.
GOSSIP = "phx:presence:Online"


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def make(make_node: MakeNode, network: Network) -> Callable[..., Node]:
    """Make nodes of the network, which have started."""

    def make(*track: str, **options: Any) -> Node:
        node = make_node(network=network, **options)
        node.engine.serve()
        for key in track:
            node.online.track("room:1", key)
        return node

    return make


class Clock:
    """A time that goes on when it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stop the time by which nodes judge each other; their timers go on."""
    clock = Clock()
    monkeypatch.setattr("flask_phoenix.clock.monotonic", clock)
    return clock


def told(node: Node) -> list[str]:
    """Return the kinds of what a node has told the others."""
    said = [data for source, topic, data in node.adapter.network.published if source is node.adapter]
    return [json.loads(data[data.index(b"[") :])[1] for data in said if b"gossip" in data[:9]]


def beat(node: Node, times: int = 1) -> None:
    """Wait for heartbeats of a node."""
    enough = told(node).count("heartbeat") + times
    eventually(lambda: told(node).count("heartbeat") >= enough)


def agree(*nodes: Node) -> bool:
    """Tell whether nodes have the same keys."""
    return len({str(node.present()) for node in nodes}) == 1


# Together


def test_nodes_tell_each_other_and_each_its_own_clients(make: Callable[..., Node], network: Network) -> None:
    nodes = [make() for _ in range(3)]
    ada, *others = [node.enter() for node in nodes]
    first = ada.channel.track("ada", {"n": 1})
    eventually(lambda: all(node.present() == ["ada"] for node in nodes))
    second = ada.channel.update("ada", {"n": 2})
    there = {"ada": entry(second, n=2, phx_ref_prev=first)}
    eventually(lambda: all(node.online.list("room:1") == there for node in nodes))
    ada.leave()
    eventually(lambda: not any(node.present() for node in nodes))
    for member in others:
        assert [(refs(joins), refs(leaves)) for joins, leaves in member.diffs()] == [
            ({"ada": [first]}, {}),
            ({"ada": [second]}, {"ada": [first]}),
            ({}, {"ada": [second]}),
        ]
    assert not [data for _, _, data in network.published if b"presence_diff" in data], "each node tells its own clients"


def test_changes_are_gathered(make: Callable[..., Node]) -> None:
    one, two = make(), make()
    watcher = two.enter()
    one.online.track("room:1", "came and went")
    one.online.untrack("room:1", "came and went")
    for number in range(200):
        one.online.track("room:1", f"{number}")
        gevent.idle()
    eventually(lambda: agree(one, two))
    assert told(one).count("delta") < 100
    assert "came and went" not in str(watcher.changes())


def test_a_node_that_comes_late_is_told_all(make: Callable[..., Node], network: Network) -> None:
    one, two = make(*(f"{number:05}" for number in range(3000))), make("two")
    eventually(lambda: agree(one, two))
    late = make()
    bob = late.enter()
    eventually(lambda: agree(one, late))
    assert sorted(len(joins) for joins, _ in bob.diffs()) in ([], [1], [1, 3000])
    assert sorted(bob.people) == one.present()
    assert told(late) == ["ask"]
    states = [topic for source, topic, data in network.published if source is one.adapter and b'"state"' in data]
    assert states[-1] == f"{GOSSIP}:{late.engine.node.name}", "an answer is for the one who asked"


def test_a_node_that_is_asked_from_outside_waits_for_the_others_to_answer(
    make_node: MakeNode, make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "SETTLE_TIMEOUT", DEADLINE / 20)
    make("ada")
    looks: list[Callable[[Any], Any]] = [
        lambda online: list(online.list("room:1")) == ["ada"],
        lambda online: online.get_by_key("room:1", "ada"),
        lambda online: online.count("room:1") == 1,
    ]
    for look in looks:
        assert look(make().online)


def test_nobody_else_waits(make: Callable[..., Node], make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "SETTLE_TIMEOUT", 1000 * DEADLINE)
    node, alone = make(), make_node()
    alone.engine.serve()
    ada = node.enter(me={"ada": {}})
    assert ada.people == node.online.list(ada.channel) == in_thread(node.online.list, "room:1")
    assert node.online.count(ada.channel) == in_thread(node.online.count, "room:1") == 1
    assert alone.online.list("room:1") == {}
    monkeypatch.setattr(replica, "SETTLE_TIMEOUT", 0.0)
    assert node.present() == ["ada"], "it has started long ago"


def test_a_node_without_others_tells_nobody_and_keeps_nothing_for_them(node: Node) -> None:
    node.online.track("room:1", "ada")
    settle()
    assert not node.engine.pubsub.subscribed(GOSSIP)
    assert node.online.server().tracker.flush() is None
    node.engine.node.farewell()


# What is lost, doubled and late


def test_what_is_lost_is_asked_for(make: Callable[..., Node], network: Network) -> None:
    one, two = make(down_period=SHORT), make(down_period=SHORT)
    watcher = two.enter()
    network.copies = lambda parcel: int(b"delta" not in parcel.data)
    one.online.track("room:1", "ada")
    one.online.track("room:1", "bob")
    eventually(lambda: two.present() == ["ada", "bob"])
    one.online.untrack("room:1", "ada")
    eventually(lambda: two.present() == ["bob"])
    assert watcher.changes() == [("ada bob", ""), ("", "ada")]


JUNK = [
    *(b"null", b"7", b"{}", b"[]", b'[2,"heartbeat","x",1]', b'[1,"delta","x",1,{"room:1":{"k":[{"no":"ref"}]}},[]]'),
    *(b'[1,"state","x",1,{"room:1":{"k":[{"phx_ref":"mine"}]}}]', b'[1,"ask","x",1,7]'),
]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_is_ignored(make: Callable[..., Node], junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    one, two = make(), make("bob")
    eventually(lambda: agree(one, two))
    mine = refs(two.online.list("room:1"))["bob"][0].encode()
    for topic in (GOSSIP, f"{GOSSIP}:{two.engine.node.name}"):
        two.adapter.hear(topic, b"J\x00\x06gossip" + junk.replace(b"mine", mine))
    two.phoenix.local_broadcast(GOSSIP, "what the app says there", {})
    settle()
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(messages) == 3
    assert messages[0].startswith(f"gossip on '{GOSSIP}' is ignored: expected ")
    one.online.track("room:1", "ada")
    eventually(lambda: one.present() == two.present() == ["ada", "bob"])


# Silence


def test_a_silent_node_is_gone_until_it_is_heard(make: Callable[..., Node], network: Network) -> None:
    one, two, three = (make(key, down_period=SHORT) for key in ("ada", "bob", "eve"))
    eventually(lambda: one.present() == two.present() == three.present() == ["ada", "bob", "eve"])
    watcher = three.enter()
    network.part(one.adapter)
    eventually(lambda: two.present() == three.present() == ["bob", "eve"] and one.present() == ["ada"])
    two.online.track("room:1", "new")
    network.heal()
    eventually(lambda: agree(one, two, three) and len(one.present()) == 4)
    changes = watcher.changes()
    assert [change for change in changes if "ada" in str(change)] == [("", "ada"), ("ada", "")]
    assert watcher.follower.presences == three.online.list("room:1")


def test_a_silent_node_is_gone_within_the_down_period(
    make: Callable[..., Node], network: Network, clock: Clock
) -> None:
    one, two = make("ada", down_period=SHORT), make(down_period=SHORT)
    eventually(lambda: agree(one, two))
    network.part(one.adapter)
    settle()
    last = clock.now
    while two.online.server().tracker.count("room:1") and clock.now < last + 2 * SHORT:
        clock.now += SHORT / replica.HEARTBEATS
        beat(two)
    assert last + SHORT / 2 < clock.now <= last + SHORT * 1.001


def test_a_process_that_has_slept_finds_out_nothing_about_the_others(
    make: Callable[..., Node], network: Network, clock: Clock
) -> None:
    nodes = [make(key, down_period=SHORT) for key in ("ada", "bob")]
    eventually(lambda: agree(*nodes))
    watchers = [node.enter() for node in nodes]
    for slept in (SHORT, 1.5 * SHORT, 1000 * SHORT):
        clock.now += slept
        for node in nodes:
            beat(node, 4)
    assert [watcher.changes() for watcher in watchers] == [[], []]


def test_a_node_that_is_silent_for_very_long_is_forgotten(
    make: Callable[..., Node], network: Network, clock: Clock
) -> None:
    def known() -> int:
        return sum("much" in each.meta for each in gc.get_objects() if type(each) is Entry)

    one, two = make(down_period=SHORT / 4), make(down_period=SHORT / 4)
    one.online.track("room:1", "ada", {"much": "forgotten"})
    eventually(lambda: agree(one, two))
    network.part(one.adapter)
    settle()
    for quarter in range(4 * 42):
        assert quarter > 100 or known() == 2
        clock.now += SHORT / 4 / 4
        beat(two)
    assert known() == 1
    network.heal()
    eventually(lambda: agree(one, two))


def test_an_idle_node_tells_six_times_in_a_down_period_that_it_lives(make: Callable[..., Node]) -> None:
    one, quiet = make(down_period=SHORT), make()
    eventually(lambda: told(one).count("heartbeat") == 12)
    assert set(told(one)) == {"ask", "state", "heartbeat"}
    assert told(quiet) == ["ask"]


# Ends


def test_a_node_that_says_goodbye_is_gone_at_once(make: Callable[..., Node]) -> None:
    one, two = make("ada"), make("bob")
    eventually(lambda: agree(one, two))
    one.online.track("room:1", "not told yet")
    one.engine.node.farewell()
    assert told(one)[-2:] == ["delta", "goodbye"]
    eventually(lambda: two.present() == ["bob"])
    assert one.present() == ["ada", "bob", "not told yet"], "it can still be asked"
    one.online.track("room:1", "eve")
    eventually(lambda: told(one).count("goodbye") > 1)
    settle()
    assert two.present() == ["bob"]
    two.online.track("room:1", "new")
    eventually(lambda: "new" in one.present())


def test_a_node_that_stops_is_gone_at_once_and_comes_back_as_another(make: Callable[..., Node]) -> None:
    one, two = make("ada"), make("bob")
    eventually(lambda: agree(one, two))
    assert one.adapter.topics == {peers.TOPIC, GOSSIP, f"{GOSSIP}:{one.engine.node.name}"}
    one.engine.stop()
    assert one.adapter.topics == set()
    eventually(lambda: two.present() == ["bob"])
    one.engine.serve()
    eventually(lambda: one.present() == ["bob"])
    one.online.track("room:1", "ada")
    eventually(lambda: two.present() == ["ada", "bob"])


def test_a_node_that_has_stopped_runs_no_timers(make: Callable[..., Node], network: Network) -> None:
    node, other = make("ada", down_period=SHORT), make(down_period=SHORT)
    node.engine.stop()
    published = len(told(node))
    beat(other, 2)
    assert told(node)[published - 1 :] == ["goodbye"]


def test_the_adapter_for_tests_sees_ends(make_node: MakeNode) -> None:
    adapters: list[MemoryAdapter] = []
    one, two = (make_node(adapter=MemoryAdapter(adapters)) for _ in range(2))
    two.engine.serve()
    one.online.track("room:1", "ada")
    eventually(lambda: two.present() == ["ada"])
    one.engine.stop()
    eventually(lambda: two.present() == [])


# Starts that wait


class WaitingAdapter(NetworkAdapter):
    """Lets those who subscribe wait for the test."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.gate = Event()
        #: Begins the topics that are waited for.
        self.slow = ""

    def subscribe(self, topic: str) -> None:
        """Wait."""
        assert not topic.startswith(self.slow) or self.gate.wait(DEADLINE)
        super().subscribe(topic)


@pytest.fixture
def waiting(make_node: MakeNode, network: Network) -> Node:
    """Return a node that starts when it is let."""
    return make_node(adapter=WaitingAdapter(network))


def test_a_node_starts_once_however_many_ask(waiting: Node, make: Callable[..., Node]) -> None:
    other, typing = make("bob"), waiting.phoenix.presence(name="typing")
    calls: list[Any] = [
        gevent.spawn(waiting.engine.serve),
        gevent.spawn(waiting.online.track, "room:1", "ada"),
        gevent.spawn(typing.track, "room:1", "ada"),
        gevent.spawn(waiting.present),
    ]
    settle()
    late = waiting.phoenix.presence(name="late")
    waiting.adapter.gate.set()
    for call in calls:
        call.get(timeout=DEADLINE)
    eventually(lambda: waiting.present() == other.present() == ["ada", "bob"])
    assert told(waiting).count("ask") == 3, "each presence asks once"
    late.track("room:1", "eve")
    newcomer = make()
    assert list(newcomer.phoenix.presence(name="late").list("room:1")) == ["eve"]


def test_a_node_may_stop_and_start_again_while_it_starts(waiting: Node, make: Callable[..., Node]) -> None:
    waiting.app.secret_key = "a secret"
    waiting.app.register_blueprint(waiting.phoenix.dashboard(allow=lambda: True))
    other, starts = make("bob"), list[Any]([gevent.spawn(raised, waiting.engine.serve)])
    settle()
    waiting.engine.stop()
    starts.append(gevent.spawn(waiting.online.track, "room:1", "ada"))
    settle()
    waiting.adapter.gate.set()
    assert "stopped" in str(starts[0].get(timeout=DEADLINE))
    starts[1].get(timeout=DEADLINE)
    eventually(lambda: waiting.present() == other.present() == ["ada", "bob"])
    own = {GOSSIP, f"{GOSSIP}:{waiting.engine.node.name}"}
    assert waiting.adapter.topics == {peers.TOPIC, requests.TOPIC, names.WATCHING, *own}
    assert set(waiting.engine.pubsub.sizes().values()) == {1}, "each is heard once"
    waiting.engine.stop()
    eventually(lambda: other.present() == ["bob"])
    assert waiting.adapter.topics == set()


def test_a_presence_may_be_made_while_its_process_stops_and_starts_again(
    waiting: Node, make: Callable[..., Node]
) -> None:
    waiting.adapter.slow = "no topic"
    waiting.engine.serve()
    waiting.adapter.slow = f"phx:presence:late:{waiting.engine.node.name}"
    making = gevent.spawn(in_thread, lambda: waiting.phoenix.presence(name="late"))
    eventually(lambda: "phx:presence:late" in waiting.adapter.topics)
    waiting.engine.stop()
    waiting.engine.serve()
    waiting.adapter.gate.set()
    late = making.get(timeout=DEADLINE)
    make().phoenix.presence(name="late").track("room:1", "bob")
    eventually(lambda: list(late.list("room:1")) == ["bob"])


# Which process


def test_a_process_whose_event_loop_has_rested_asks_anew(make: Callable[..., Node], clock: Clock) -> None:
    shell, other = make(), make()
    assert shell.present() == []
    shell.adapter.network.copies = lambda parcel: 0
    other.online.track("room:1", "ada")
    eventually(lambda: "delta" in told(other))
    shell.adapter.network.copies = lambda parcel: 1
    assert shell.present() == []
    clock.now += LONG
    assert shell.present() == ["ada"]


def test_a_process_that_has_stopped_says_so(make: Callable[..., Node]) -> None:
    node = make("ada")
    member = node.enter(me={"eve": {}})
    drain(node.engine)
    assert node.present() == ["ada"], "it still answers while it drains"
    node.engine.stop()
    for call in (node.online.list, member.channel.track, member.channel.untrack):
        assert "has stopped serving" in str(raised(call, "room:1"))
    assert not node.adapter.on


FORKED = """
import os
from flask import Flask
from flask_phoenix import Phoenix
from flask_phoenix.testing import MemoryAdapter
app = Flask("app")
online = Phoenix(app, adapter=MemoryAdapter([])).presence()
online.track("room:1", "parent")
if os.fork():
    os.wait()
else:
    online.track("room:1", "child")
print(*online.list("room:1"), flush=True)
"""


def test_a_forked_process_has_entries_of_its_own() -> None:
    command = [sys.executable, "-c", FORKED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=6 * DEADLINE)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "child\nparent\n")


# What fails


def test_what_an_older_node_lets_in_costs_nothing(make: Callable[..., Node]) -> None:
    node = make()
    watcher = node.enter()
    topics = {"deep": {"eve": [{"phx_ref": "1", "meta": nested(490)}]}, "room:1": {"ada": [{"phx_ref": "2"}]}}
    node.adapter.hear(GOSSIP, b"J\x00\x06gossip" + json.dumps([1, "delta", "old", 1, topics, []]).encode())
    newcomer = node.enter("deep")
    assert list(newcomer.people) == ["eve"]
    node.adapter.gone("old")
    assert (watcher.changes(), newcomer.changes()) == ([("ada", ""), ("", "ada")], [("", "eve")])


@pytest.mark.parametrize("failure", [NotPublished("the link is down"), OSError("broken"), CancelledError()])
def test_gossip_that_cannot_be_published_is_made_good(
    make: Callable[..., Node], failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make(down_period=SHORT), make(down_period=SHORT)
    publish, lost = one.adapter.publish, list[bytes]()

    def fail(topic: str, data: bytes) -> None:
        lost.append(data)
        raise failure

    one.adapter.publish = fail
    one.online.track("room:1", "ada")
    eventually(lambda: {"delta", "heartbeat"} <= {kind for kind in ("delta", "heartbeat") if kind in str(lost)})
    one.adapter.publish = publish
    eventually(lambda: two.present() == ["ada"])
    assert f"gossip on '{GOSSIP}' is lost" in caplog.text


def test_a_heartbeat_that_fails_goes_on(
    make: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(tracker: Tracker, now: float) -> Any:
        raise failures.pop()

    node, failures = make(down_period=SHORT), [RecursionError("broken"), CancelledError()]
    monkeypatch.setattr(Tracker, "tick", fail)
    eventually(lambda: not failures)
    monkeypatch.undo()
    beat(node)
    assert caplog.text.count("failed; it goes on") == 2


# Who comes back within the grace


@pytest.mark.parametrize("ending", ["hang up", "crash", "end of its node", "kill of its node", "drain"])
def test_who_comes_back_in_time_never_was_away(make: Callable[..., Node], network: Network, ending: str) -> None:
    first, second, third = (make(grace=LONG) for _ in range(3))
    watcher, ada = third.enter(), first.enter(me={"ada": {"device": "phone"}})
    eventually(lambda: list(watcher.people) == ["ada"])
    draining = None
    match ending:
        case "hang up":
            ada.leave()
        case "crash":
            ada.do(lambda channel: 1 / 0)
        case "end of its node":
            ada.leave()
            first.engine.stop()
        case "kill of its node":
            network.part(first.adapter)
            for node in (second, third):
                node.adapter.gone(first.engine.node.name)
        case "drain":
            draining = gevent.spawn(drain, first.engine)
            eventually(lambda: ada.client.carrier.closed == (1012, "draining"))
    watcher.news()
    assert list(watcher.people) == ["ada"]
    back = second.enter(me={"ada": {"device": "phone"}})
    eventually(lambda: [len(each["metas"]) for each in back.people.values()] == [1])
    eventually(lambda: refs(watcher.people) == refs(second.online.list("room:1")))
    assert watcher.keys_that_left == back.keys_that_left == []
    if draining is not None:
        draining.get(timeout=DEADLINE)  # not for the grace: all that it had was taken over
        eventually(lambda: second.present() == third.present() == ["ada"])


def test_who_comes_back_to_the_same_node_is_one_diff(make: Callable[..., Node]) -> None:
    node = make(grace=LONG)
    watcher = node.enter()
    (former,) = refs(node.enter(me={"ada": {}}).people)["ada"]
    watcher.news()
    node.members[-1].leave()
    assert watcher.changes() == []
    node.enter(me={"ada": {}})
    assert watcher.changes() == [("ada", "ada")]
    assert node.present() == ["ada"]
    assert refs(node.online.list("room:1"))["ada"] != [former]


@pytest.mark.parametrize("ending", ["hang up", "kill of its node"])
def test_who_does_not_come_back_leaves_after_the_grace(
    phoenix_clock: VirtualClock, make: Callable[..., Node], network: Network, ending: str
) -> None:
    node, other = make(grace=10), make(grace=10)
    watcher, ada = other.enter(), node.enter(me={"ada": {}})
    phoenix_clock.advance(1)
    if ending == "hang up":
        ada.leave()
    else:
        network.part(node.adapter)
        other.adapter.gone(node.engine.node.name)
    phoenix_clock.advance(9.9)
    assert list(watcher.people) == ["ada"]
    phoenix_clock.advance(0.2)  # with the time in which changes are gathered
    assert watcher.people == {}


def test_a_drain_waits_for_the_grace_and_no_longer(phoenix_clock: VirtualClock, make: Callable[..., Node]) -> None:
    node, other = make(grace=5), make(grace=5)
    watcher, _ = other.enter(), node.enter(me={"ada": {}})
    phoenix_clock.advance(1)
    draining = gevent.spawn(drain, node.engine)
    phoenix_clock.advance(4.9)
    assert (list(watcher.people), draining.ready()) == (["ada"], False)
    phoenix_clock.advance(0.2)
    assert (watcher.people, draining.ready()) == ({}, True)


def test_a_drain_waits_for_nobody_where_nobody_can_take_over(make_node: MakeNode) -> None:
    node = make_node(grace=LONG)
    node.enter(me={"ada": {}})
    gevent.spawn(drain, node.engine).get(timeout=DEADLINE / 2)


def test_who_leaves_on_purpose_is_gone_at_once(make: Callable[..., Node]) -> None:
    node = make(grace=LONG)
    watcher = node.enter()
    node.enter(me={"ada": {}}).say("phx_leave")
    bob = node.enter(me={"bob": {}})
    bob.do(lambda channel: channel.untrack("bob"))
    settle()
    assert node.present() == []
    assert watcher.people == {}


def test_a_node_that_was_taken_for_gone_goes_on(make: Callable[..., Node]) -> None:
    node, other = make("ada", grace=LONG), make(grace=LONG)
    watcher = other.enter()
    eventually(lambda: list(watcher.people) == ["ada"])
    before = refs(watcher.people)
    other.adapter.gone(node.engine.node.name)
    node.online.track("room:1", "bob")  # the other one asks for all, since it has forgotten the clock
    eventually(lambda: sorted(watcher.people) == ["ada", "bob"])
    assert refs(watcher.people)["ada"] == before["ada"]
    assert watcher.keys_that_left == []


@pytest.mark.parametrize("grace", [-1, float("inf"), "5"])
def test_a_grace_is_a_number_of_seconds(make_node: MakeNode, grace: Any) -> None:
    with pytest.raises(InvalidOption, match="grace is a number of seconds"):
        make_node(grace=grace)
