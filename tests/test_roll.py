"""Who is here in one process: what clients are told and in which order, the author's hooks, and what is kept."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.channel import Channel, ChannelRuntime, intercept
from flask_phoenix.exceptions import AlreadyTracked, InvalidPayload, InvalidReturn, NotTracked, Unsupported
from flask_phoenix.presence import Presence
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.tracker import replica as gossip
from flask_phoenix.tracker import server as roll
from flask_phoenix.tracker.server import Presences
from flask_phoenix.tracker.state import Entry, Meta
from tests.network import MakeNode, Member, Network, Node, Room, entry, eventually, refs, settle
from tests.processes import DEADLINE
from tests.roads import in_thread

FAILURES = [RuntimeError, gevent.GreenletExit, SystemExit, gevent.Timeout]

# Who owns what


def test_each_owner_has_its_own(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    roll = node.online.server()
    owners = [ada.channel.runtime, bob.channel.runtime, None]
    given = [roll.track(owner, "room:1", "ada", {}) for owner in owners]
    for owner in owners:
        with pytest.raises(AlreadyTracked):
            roll.track(owner, "room:1", "ada", {})
        with pytest.raises(NotTracked):
            roll.update(owner, "room:1", "bob", {})
        roll.untrack(owner, "room:1", "bob")
    assert refs(node.online.list("room:1")) == {"ada": given}
    ada.tab.leave()
    roll.untrack(None, "room:1", "ada")
    assert refs(node.online.list("room:1")) == {"ada": [given[1]]}


class Owner(ChannelRuntime):
    """Remembers what it holds."""

    def __init__(self) -> None:
        self.releases: list[Callable[[], None]] = []

    def hold(self, release: Callable[[], None]) -> bool:
        self.releases.append(release)
        return True


def test_an_owner_is_asked_once_to_hold_what_it_owns(node: Node) -> None:
    owner, roll = Owner(), node.online.server()
    for _ in range(2):
        for key in ("ada", "bob"):
            roll.track(owner, "room:1", key, {})
            roll.untrack(owner, "room:1", key)
    roll.track(owner, "room:1", "eve", {})
    (release,) = owner.releases
    release()
    assert node.online.list("room:1") == {}
    release()


def test_who_has_ended_owns_nothing(node: Node) -> None:
    ada, roll = node.enter(), node.online.server()
    ada.tab.leave()
    assert isinstance(roll.track(ada.channel.runtime, "room:1", "ada", {}), str)
    with pytest.raises(NotTracked):
        roll.update(ada.channel.runtime, "room:1", "ada", {})
    roll.untrack(ada.channel.runtime, "room:1", "ada")
    assert node.online.list("room:1") == {}


def test_what_cannot_be_owned(node: Node) -> None:
    roll = node.online.server()
    for topic, key, meta in (("room:1", "ada", None), ("room:1", "\ud800", {}), ("\ud800", "ada", {})):
        with pytest.raises(InvalidPayload):
            roll.track(None, topic, key, meta)
    roll.engine.serve()
    with pytest.raises(Unsupported):
        in_thread(roll.track, None, "room:1", "ada", {})
    assert node.online.list("room:1") == {}


# What clients are told


@pytest.mark.parametrize("stream", [True, False])
def test_the_state_comes_before_the_own_diff(node: Node, stream: bool) -> None:
    member = Member(node, "room:1", {"ada": {}, "eve": {}}, stream=stream)
    node.members.append(member)
    reply, state, *diffs = member.news()
    assert reply[0] == "phx_reply"
    assert state == ["presence_state", node.online.list("room:1")]
    assert [diff[1]["joins"].keys() for diff in diffs] == [{"ada"}, {"eve"}]
    assert member.people == state[1]


def test_each_change_is_a_diff_and_they_keep_their_order(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    given = [ada.channel.track("ada", {"n": 0})]
    for number in range(1, 5):
        given.append(ada.channel.update("ada", {"n": number}))
        node.online.track("room:2", f"{number}")
    ada.channel.untrack("ada")
    ada.channel.track("ada", {"n": 5})
    expected = [*range(5), None, 5]
    diffs = bob.diffs()
    assert [joins["ada"]["metas"][0]["n"] if joins else None for joins, _ in diffs] == expected
    assert [leaves["ada"]["metas"][0]["phx_ref"] for _, leaves in diffs if leaves] == given


def test_a_diff_comes_behind_what_was_said_before_and_before_what_is_said_later(node: Node) -> None:
    ada, bob = node.enter(), node.enter()

    def act(channel: Channel) -> Any:
        channel.broadcast("before", {})
        channel.track("ada")
        gevent.sleep(0)
        channel.broadcast("behind", {})
        return {}

    ada.do(act)
    assert [event for event, _ in bob.news()] == ["before", "presence_diff", "behind"]
    assert sorted(event for event, _ in ada.news()) == ["before", "behind", "phx_reply", "presence_diff"]


def test_only_those_who_joined_the_topic_are_told(node: Node) -> None:
    ada, stranger = node.enter(), node.enter("room:2")
    told: list[Broadcast] = []
    stop = node.engine.pubsub.tap(told.append)
    node.online.track("room:3", "nobody hears it")
    ada.channel.track("ada")
    ada.news()
    assert stranger.news() == []
    assert [broadcast.topic for broadcast in told] == ["room:1"]
    stop()


def test_a_diff_can_be_intercepted(node: Node) -> None:
    class Shy(Room):
        @intercept("presence_diff")
        def count(self, payload: Any) -> None:
            self.push("people", {"joined": list(payload["joins"])})

    shy = node.enter(kind=Shy)
    node.enter(me={"ada": {}})
    assert shy.news() == [["people", {"joined": ["ada"]}]]


# fetch


class Named(Presence):
    """Adds a name, and remembers when it was called for whom."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def fetch(self, topic: str, presences: Presences) -> Presences:
        self.calls.append((topic, list(presences)))
        return {key: {**each, "name": key.upper()} for key, each in presences.items()}


def test_fetch_adds_to_what_is_told(make_node: MakeNode) -> None:
    node = make_node(Named)
    ada, bob = node.enter(), node.enter()
    ref = ada.channel.track("ada", {"n": 1})
    there = {"ada": {**entry(ref, n=1), "name": "ADA"}}
    assert bob.diffs() == [(there, {})]
    assert node.online.list("room:1") == node.enter().people == bob.people == there
    assert node.online.get_by_key("room:1", "ada") == there["ada"]
    ada.tab.leave()
    assert bob.diffs() == [({}, there)]


def test_fetch_is_called_once_for_each_side(make_node: MakeNode) -> None:
    node = make_node(Named)
    calls = node.online.calls
    ada = node.enter()
    node.online.list("room:1")
    node.online.get_by_key("room:1", "ada")
    node.online.count("room:1")
    assert calls == []
    ada.channel.track("ada")
    ada.channel.update("ada", {})
    ada.channel.untrack("ada")
    node.online.track("nobody hears it", "bob")
    settle()
    assert calls == [("room:1", ["ada"])] * 4 + [("nobody hears it", ["bob"])]
    node.online.list("nobody hears it")
    node.online.get_by_key("nobody hears it", "bob")
    assert calls[5:] == [("nobody hears it", ["bob"])] * 2


def test_fetch_may_add_keys_and_block_in_a_context_of_its_own(make_node: MakeNode) -> None:
    log: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    class Generous(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            log.append("fetch")
            gevent.sleep(0)
            return {**presences, "more": {"metas": []}}

        def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
            log.append("handle_metas")

    node = make_node(Generous, context=context)
    node.online.track("room:1", "ada")
    settle()
    assert log == ["in", "fetch", "handle_metas", "out"]
    assert set(node.online.list("room:1")) == {"ada", "more"}


class Gated(Presence):
    """Fetches when it is let."""

    def __init__(self) -> None:
        self.gates: dict[str, Event] = {}
        self.running = self.most = 0

    def fetch(self, topic: str, presences: Presences) -> Presences:
        self.running += 1
        self.most = max(self.most, self.running)
        for key in presences:
            if key in self.gates:
                assert self.gates[key].wait(DEADLINE)
        self.running -= 1
        return presences


def test_diffs_wait_for_each_other(make_node: MakeNode) -> None:
    node = make_node(Gated)
    one, two = node.enter("one"), node.enter("two")
    gate = node.online.gates["slow"] = Event()
    node.online.track("one", "slow")
    node.online.track("one", "fast")
    node.online.update("one", "fast", {})
    node.online.track("two", "fast")
    assert (one.diffs(), two.diffs()) == ([], [])
    node.engine.broadcast(Broadcast("one", "meanwhile", {}))
    assert one.news() == [["meanwhile", {}]]
    assert node.online.count("one") == 2
    gate.set()
    assert [list(joins) for joins, _ in one.diffs()] == [["slow"], ["fast"], ["fast"]]
    assert [list(joins) for joins, _ in two.diffs()] == [["fast"]]
    assert node.online.most == 1
    assert one.people == node.online.list("one")


def spoil(presences: Presences, how: str) -> Any:
    """Do what a hook may not."""
    for each in presences.values():
        if how == "half done":
            each["name"] = "half"
            each["metas"].clear()
            raise RuntimeError("broken")
        if how == "no metas in place":
            del each["metas"]
    first = next(iter(presences.values()))
    return {
        "None": None,
        "list": list(presences),
        "nothing": {},
        "one missing": {**dict(list(presences.items())[1:])},
        "no metas": {key: {"name": "x"} for key in presences},
        "None for each": dict.fromkeys(presences),
        "text for each": dict.fromkeys(presences, "metas"),
        "not JSON": {key: {**each, "thing": object()} for key, each in presences.items()},
        "no number": {key: {**first, "n": float("nan")} for key in presences},
    }.get(how, presences)


WRONG = ["None", "list", "nothing", "one missing", "no metas", "None for each", "text for each", "no metas in place"]


@pytest.mark.parametrize("how", [*WRONG, "half done", "not JSON", "no number"])
def test_a_fetch_that_fails_costs_nothing(make_node: MakeNode, how: str, caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            spoiled: Presences = spoil(presences, how) if "good" not in presences else presences
            return spoiled

    node = make_node(Bad)
    bob = node.enter()
    good, bad = node.online.track("room:1", "good"), node.online.track("room:1", "bad", {"n": 1})
    assert [joins for joins, _ in bob.diffs()] == [{"good": entry(good)}, {"bad": entry(bad, n=1)}]
    node.online.untrack("room:1", "bad")
    assert bob.diffs() == [({}, {"bad": entry(bad, n=1)})]
    assert bob.people == {"good": entry(good)}
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert all("fetch" in record.getMessage() and "'room:1'" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_fetch_that_crashes_costs_nothing(
    make_node: MakeNode, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            raise failure()

    node = make_node(Broken)
    bob = node.enter()
    ref = node.online.track("room:1", "ada")
    assert bob.diffs() == [({"ada": entry(ref)}, {})]
    (record,) = caplog.records
    assert "Presence.fetch failed at a diff on 'room:1'" in record.getMessage()
    for ask in asks(node):
        with pytest.raises(failure):
            ask()


@pytest.mark.parametrize("how", WRONG)
def test_a_fetch_that_takes_something_away_is_told(make_node: MakeNode, how: str) -> None:
    class Bad(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            spoiled: Presences = spoil(presences, how)
            return spoiled

    node = make_node(Bad)
    node.online.track("room:1", "ada")
    node.online.track("room:1", "bob")
    for ask in asks(node):
        with pytest.raises(InvalidReturn, match=r"Bad\.fetch returned .*; expected the presences that it was given"):
            ask()
    assert node.online.count("room:1") == 2


def asks(node: Node) -> list[Callable[[], Any]]:
    """Return the questions whose answers pass through fetch."""
    return [lambda: node.online.list("room:1"), lambda: node.online.get_by_key("room:1", "ada")]


# handle_metas


class Observing(Named):
    """Writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Presences], dict[str, list[Meta]]]] = []

    def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
        self.seen.append((topic, diff, {key: list(metas) for key, metas in presences.items()}))


def test_handle_metas_sees_each_diff_and_who_is_there_behind_it(make_node: MakeNode) -> None:
    node = make_node(Observing)
    ada = node.enter()
    given = [ada.channel.track("ada"), node.online.track("room:1", "ada"), ada.channel.update("ada", {"n": 1})]
    other = node.online.track("room:2", "bob")
    settle()
    ada.tab.leave()
    node.online.untrack("room:1", "ada")
    node.online.untrack("room:2", "bob")
    settle()
    metas = [{"phx_ref": given[0]}, {"phx_ref": given[1]}, {"n": 1, "phx_ref": given[2], "phx_ref_prev": given[0]}]
    told = [{"ada": {"metas": [meta], "name": "ADA"}} for meta in metas]
    bob = {"bob": {**entry(other), "name": "BOB"}}
    assert node.online.seen == [
        ("room:1", {"joins": told[0], "leaves": {}}, {"ada": [metas[0]]}),
        ("room:1", {"joins": told[1], "leaves": {}}, {"ada": [metas[0], metas[1]]}),
        ("room:1", {"joins": told[2], "leaves": told[0]}, {"ada": [metas[1], metas[2]]}),
        ("room:2", {"joins": bob, "leaves": {}}, {"bob": [{"phx_ref": other}]}),
        ("room:1", {"joins": {}, "leaves": told[2]}, {"ada": [metas[1]]}),
        ("room:1", {"joins": {}, "leaves": told[1]}, {}),
        ("room:2", {"joins": {}, "leaves": bob}, {}),
    ]


def test_a_topic_is_forgotten_when_nobody_is_there(make_node: MakeNode) -> None:
    given: list[Mapping[str, Sequence[Meta]]] = []

    class Keeping(Presence):
        def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
            given.append(presences)

    node = make_node(Keeping)
    for _ in range(2):
        node.online.track("room:1", "ada")
        settle()
        node.online.untrack("room:1", "ada")
        settle()
    node.online.track("room:1", "ada")
    settle()
    assert [len(presences) for presences in given] == [0, 0, 0, 0, 1], "each time it began anew"


def test_handle_metas_comes_behind_the_clients(make_node: MakeNode) -> None:
    nodes: list[Node] = []

    class Announcing(Presence):
        def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
            nodes[0].engine.broadcast(Broadcast(topic, "seen", {"keys": list(presences)}))

    node = make_node(Announcing)
    nodes.append(node)
    bob = node.enter()
    node.online.track("room:1", "ada")
    node.online.track("room:1", "eve")
    events = [event for event, _ in bob.news()]
    assert events == ["presence_diff", "seen"] * 2


@pytest.mark.parametrize("failure", FAILURES)
def test_a_handle_metas_that_fails_costs_nothing(
    make_node: MakeNode, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observing):
        def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
            super().handle_metas(topic, diff, presences)
            raise failure()

    node = make_node(Broken)
    bob = node.enter()
    node.online.track("room:1", "ada")
    node.online.track("room:1", "eve")
    assert len(bob.diffs()) == 2
    assert [set(presences) for _, _, presences in node.online.seen] == [{"ada"}, {"ada", "eve"}]
    assert [record.getMessage() for record in caplog.records] == [
        "Presence.handle_metas failed at a diff on 'room:1'"
    ] * 2


def test_handle_metas_sees_a_diff_that_could_not_be_fetched(
    make_node: MakeNode, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observing):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            raise RuntimeError("broken")

    node = make_node(Broken)
    ref = node.online.track("room:1", "ada")
    settle()
    ((_, diff, presences),) = node.online.seen
    assert (diff, presences) == ({"joins": {"ada": entry(ref)}, "leaves": {}}, {"ada": [{"phx_ref": ref}]})


# count_only


class Counted(Observing):
    """Counts big topics, and those alone."""

    def count_only(self, topic: str) -> bool:
        return topic.startswith("big")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count more often than people would like."""
    monkeypatch.setattr(roll, "COUNT_PERIOD", DEADLINE / 50)


def test_clients_of_a_big_topic_are_told_how_many_are_there(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    big, small = node.enter("big"), node.enter("small")
    for topic in ("big", "small"):
        for number in range(5):
            node.online.track(topic, f"{number}")
    big.channel.track("0")
    assert big.tab.hear() == [None, None, "big", "presence_count", {"count": 5}]
    for number in range(3):
        node.online.untrack("big", f"{number}")
    assert big.tab.hear() == [None, None, "big", "presence_count", {"count": 3}]  # 0 is there in another tab
    assert [topic for topic, _, _ in node.online.seen] == ["big"] * 5 + ["small"] * 5 + ["big"] * 4
    assert len(small.diffs()) == 5
    assert big.news() == []


def test_nothing_is_fetched_for_a_count(make_node: MakeNode) -> None:
    node = make_node(Counted)
    ref = node.online.track("big", "ada")
    settle()
    assert node.online.calls == []
    assert node.online.seen == [("big", {"joins": {"ada": entry(ref)}, "leaves": {}}, {"ada": [{"phx_ref": ref}]})]
    assert node.online.list("big") == {"ada": {**entry(ref), "name": "ADA"}}


@pytest.mark.parametrize("alone", [True, False])
def test_count_only_may_ask_how_many_are_there(make_node: MakeNode, often: None, alone: bool) -> None:
    nodes: list[Node] = []

    class Crowded(Presence):
        def count_only(self, topic: str) -> bool:
            return bool(nodes[0].online.count(topic) > 2)

    node = make_node(Crowded, None if alone else Network())
    nodes.append(node)
    bob = node.enter()
    news: list[Any] = []
    for number in range(3):
        node.online.track("room:1", f"{number}")
        news += bob.news()
    eventually(lambda: news.extend(bob.news()) or len(news) == 3)  # type: ignore[func-returns-value]
    assert [event for event, _ in news] == ["presence_diff", "presence_diff", "presence_count"]
    assert news[2][1] == {"count": 3}


def test_a_count_says_how_many_are_there_when_it_is_told(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    big = node.enter("big")
    node.online.track("big", "ada")
    settle()
    node.online.untrack("big", "ada")
    assert big.tab.hear() == [None, None, "big", "presence_count", {"count": 0}]


def test_each_topic_is_counted_alone(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    members = {topic: node.enter(topic) for topic in ("big:1", "big:2")}
    node.online.track("big:1", "ada")
    node.online.track("big:2", "ada")
    node.online.track("big:2", "bob")
    assert members["big:1"].tab.hear()[4] == {"count": 1}
    assert members["big:2"].tab.hear()[4] == {"count": 2}


def test_nobody_is_counted_for_a_process_that_has_stopped(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    node.online.track("big", "ada")
    settle()
    node.engine.stop()
    big = node.enter("big")
    assert gevent.wait(timeout=DEADLINE)
    assert big.news() == []
    node.online.track("big", "ada")
    assert big.tab.hear()[4] == {"count": 1}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_count_only_that_fails_costs_the_others_nothing(
    make_node: MakeNode, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Presence):
        def count_only(self, topic: str) -> bool:
            if topic == "broken":
                raise failure()
            return False

    node = make_node(Broken)
    ada, bob = node.enter("broken"), node.enter()

    def act(channel: Channel) -> Any:
        channel.track("ada")
        node.online.track("room:1", "ada")
        return {}

    ada.do(act)
    assert "phx_reply" in [event for event, _ in ada.news()]
    assert len(bob.diffs()) == 1
    node.engine.broadcast(Broadcast("broken", "more", {}))
    assert ["more", {}] in ada.news()
    assert any("count_only failed" in record.getMessage() for record in caplog.records)


# What is kept, and for whom


def test_nothing_is_kept_of_those_who_are_gone(make_node: MakeNode) -> None:
    node = make_node(Observing)
    gone = []
    for _ in range(3):
        member = node.enter(me={"ada": {"marked": True}})
        gone.append(weakref.ref(member.channel))
        member.channel.update("ada", lambda meta: meta)
        member.channel.track("eve", {"marked": True})
        member.channel.untrack("eve")
        node.online.track("room:1", "robot", {"marked": True})
        node.online.update("room:1", "robot", lambda meta: meta)
        node.online.untrack("room:1", "robot")
        member.tab.leave()
        node.members.remove(member)
        del member
    settle()
    node.online.seen.clear()
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert [each for each in gc.get_objects() if type(each) is Entry and "marked" in each.meta] == []


def test_a_process_that_serves_again_begins_anew(make_node: MakeNode) -> None:
    node = make_node(Observing)
    node.online.track("room:1", "robot")
    settle()
    node.engine.stop()
    node.online.seen.clear()
    bob = node.enter()
    assert bob.people == node.online.list("room:1") == {}
    with pytest.raises(NotTracked):
        node.online.update("room:1", "robot", {})
    node.online.track("room:1", "robot")
    node.online.track("room:1", "other")
    assert len(bob.diffs()) == 2
    assert [set(presences) for _, _, presences in node.online.seen] == [{"robot"}, {"robot", "other"}]


# Several nodes


@pytest.fixture
def network() -> Network:
    return Network()


def test_nodes_tell_each_other_and_each_its_own_clients(make_node: MakeNode, network: Network) -> None:
    nodes = [make_node(Observing, network) for _ in range(3)]
    members = [each.enter() for each in nodes]
    topics = {topic for _, topic, _ in network.published}
    first = members[0].channel.track("ada", {"n": 1})
    eventually(lambda: all(node.online.count("room:1") for node in nodes))
    second = members[0].channel.update("ada", {"n": 2})
    there = {"ada": {**entry(second, n=2, phx_ref_prev=first), "name": "ADA"}}
    eventually(lambda: all(node.online.list("room:1") == there for node in nodes))
    members[0].tab.leave()
    eventually(lambda: not any(node.online.count("room:1") for node in nodes))
    for member in members[1:]:
        diffs = member.diffs()
        assert [(refs(joins), refs(leaves)) for joins, leaves in diffs] == [
            ({"ada": [first]}, {}),
            ({"ada": [second]}, {"ada": [first]}),
            ({}, {"ada": [second]}),
        ]
        assert member.people == {}
    for node in nodes:
        assert [(topic, list(metas)) for topic, _, metas in node.online.seen] == [
            ("room:1", ["ada"]),
            ("room:1", ["ada"]),
            ("room:1", []),
        ]
    assert {topic for _, topic, _ in network.published} == topics, "diffs are told here alone"


def test_who_asks_from_outside_first_hears_what_other_nodes_hold(
    make_node: MakeNode, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "SETTLE", DEADLINE / 20)
    node = make_node(Presence, network)
    ref = node.online.track("room:1", "ada")
    looks: list[Callable[[Node], Any]] = [
        lambda node: node.online.list("room:1"),
        lambda node: {"ada": node.online.get_by_key("room:1", "ada")},
        lambda node: {"ada": entry(ref)} if node.online.count("room:1") == 1 else {},
    ]
    assert [look(make_node(Presence, network)) for look in looks] == [{"ada": entry(ref)}] * 3


def test_who_asks_from_a_channel_or_another_thread_does_not_wait(
    make_node: MakeNode, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "SETTLE", 1000 * DEADLINE)
    make_node(Presence, network).engine.serve()
    node = make_node(Presence, network)
    ada = node.enter(me={"ada": {}})
    assert ada.people == node.online.list(ada.channel) == in_thread(node.online.list, "room:1")
    assert node.online.count(ada.channel) == in_thread(node.online.count, "room:1") == 1
    alone = make_node()
    assert alone.online.list("room:1") == {}
