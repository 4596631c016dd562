"""Who is here: each rule with values, and whole networks that lose, double, delay and shuffle what nodes say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from flask_phoenix.exceptions import InvalidMessage, InvalidOption
from flask_phoenix.tracker.state import Diff, Diffs, Entry, Gossip, Letters, Meta, Metas, Tracker

from .values import VALUES

ODD_NAMES = ["", "__proto__", "constructor", "room: 1\n", "π", "\x00"]


def meta(ref: str, **facts: Any) -> Meta:
    """Make a meta."""
    return {"phx_ref": ref, **facts}


def entry(ref: str, key: str = "ada", topic: str = "t", **facts: Any) -> Entry:
    """Make a presence."""
    return Entry(topic, key, meta(ref, **facts))


def joined(ref: str, key: str = "ada", topic: str = "t") -> Diffs:
    """Make the diffs of one join."""
    return {topic: Diff({key: [meta(ref)]}, {})}


def left(ref: str, key: str = "ada", topic: str = "t") -> Diffs:
    """Make the diffs of one leave."""
    return {topic: Diff({}, {key: [meta(ref)]})}


def delta(clock: int, joins: dict[str, Metas] | None = None, *left: str) -> Gossip:
    """Make a delta of node b."""
    return [1, "delta", "b", clock, joins or {}, [*left]]


def state(clock: int, *refs: str) -> Gossip:
    """Make a state of node b: so many devices of ada."""
    return [1, "state", "b", clock, {"t": {"ada": [meta(ref) for ref in refs]}} if refs else {}]


def heartbeat(clock: int, node: str = "b") -> Gossip:
    """Make a heartbeat."""
    return [1, "heartbeat", node, clock]


def told(gossip: Any) -> Any:
    """Bring it to another node."""
    return json.loads(json.dumps(gossip))


def view(tracker: Tracker) -> dict[str, Metas]:
    """Return all that a tracker shows, seen from every side."""
    shown = {topic: tracker.list(topic) for topic in tracker.topics()}
    for topic, keys in shown.items():
        assert tracker.count(topic) == len(keys)
        assert tracker.count_metas(topic) == sum(map(len, keys.values()))
        assert {key: tracker.get(topic, key) for key in keys} == keys
    return shown


ASK_B: Letters = [("b", [1, "ask", "a", 0, "b"])]
ONE: dict[str, Metas] = {"t": {"ada": [meta("1")]}}
TWO: dict[str, Metas] = {"t": {"ada": [meta("2")]}}


@pytest.fixture
def tracker() -> Tracker:
    return Tracker("a", down_period=30, permdown_period=1200)


@pytest.fixture
def acquainted(tracker: Tracker) -> Tracker:
    """A tracker that knows b at clock 1, with ref 1, since the time 0."""
    assert tracker.receive(delta(1, ONE), 0) == (joined("1"), [])
    return tracker


@pytest.mark.parametrize("periods", [(30, 30), (30, 10), (0, 10), (-1, 10)])
def test_periods_that_cannot_be(periods: tuple[float, float]) -> None:
    with pytest.raises(InvalidOption, match="permdown_period"):
        Tracker("a", *periods)


# This node's own presences


def test_a_join(tracker: Tracker) -> None:
    assert tracker.join(entry("1", at=7)) == {"t": Diff({"ada": [meta("1", at=7)]}, {})}
    assert view(tracker) == {"t": {"ada": [meta("1", at=7)]}}


def test_a_leave(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    assert tracker.leave("1") == left("1")
    assert view(tracker) == {}


def test_an_update_is_a_leave_and_a_join(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    assert tracker.update("1", entry("2")) == {"t": Diff({"ada": [meta("2")]}, {"ada": [meta("1")]})}
    assert view(tracker) == TWO


def test_an_update_may_go_elsewhere(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    diffs = {"t": Diff({}, {"ada": [meta("1")]}), "u": Diff({"bob": [meta("2")]}, {})}
    assert tracker.update("1", entry("2", "bob", "u")) == diffs
    assert view(tracker) == {"u": {"bob": [meta("2")]}}


def test_what_is_not_here_leaves_nothing(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    assert tracker.leave("2") == {}
    assert tracker.update("2", entry("3", "bob")) == joined("3", "bob")
    tracker.leave("1")
    assert tracker.leave("1") == {}


@pytest.mark.parametrize("ref", ["1", "2"])
def test_a_ref_is_used_once(acquainted: Tracker, ref: str) -> None:
    acquainted.join(entry("2"))
    acquainted.flush()
    for change in (acquainted.join, lambda one: acquainted.update("2", one), lambda one: acquainted.update("3", one)):
        with pytest.raises(ValueError, match=f"got '{ref}', which is in use"):
            change(entry(ref, "bob"))
    assert view(acquainted) == {"t": {"ada": [meta("1"), meta("2")]}}
    assert acquainted.flush() is None


def test_nobody_is_here(tracker: Tracker) -> None:
    assert tracker.list("t") == {}
    assert tracker.get("t", "ada") == []
    assert (tracker.count("t"), tracker.count_metas("t"), tracker.topics()) == (0, 0, [])


def test_metas_stand_in_order_of_joining(acquainted: Tracker) -> None:
    for ref in "234":
        acquainted.join(entry(ref))
    acquainted.update("3", entry("5"))
    acquainted.receive(delta(2, {"t": {"ada": [meta("7"), meta("6")]}}), 0)
    acquainted.leave("2")
    assert [one["phx_ref"] for one in acquainted.get("t", "ada")] == ["1", "4", "5", "7", "6"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_will_do(tracker: Tracker, name: str) -> None:
    assert tracker.join(entry(name, name, name)) == joined(name, name, name)
    other = Tracker("b")
    assert other.receive(told(tracker.flush()), 0) == (joined(name, name, name), [])
    assert view(other) == {name: {name: [meta(name)]}}


def test_what_is_handed_out_is_a_copy(tracker: Tracker) -> None:
    diffs = tracker.join(entry("1"))
    for lists in (tracker.list("t"), diffs["t"].joins):
        lists["ada"].clear()
        lists.clear()
    assert view(tracker) == ONE


# What this node says


def test_a_delta(tracker: Tracker) -> None:
    for one in (entry("1"), entry("2"), entry("3", "bob"), entry("4", "ada", "u")):
        tracker.join(one)
    topics = {"t": {"ada": [meta("1"), meta("2")], "bob": [meta("3")]}, "u": {"ada": [meta("4")]}}
    assert tracker.flush() == [1, "delta", "a", 1, topics, []]
    tracker.update("1", entry("5"))
    tracker.leave("3")
    assert tracker.flush() == [1, "delta", "a", 2, {"t": {"ada": [meta("5")]}}, ["1", "3"]]


def test_nothing_to_tell(tracker: Tracker) -> None:
    assert tracker.flush() is None
    tracker.join(entry("1"))
    tracker.flush()
    assert tracker.flush() is None
    tracker.leave("1")
    assert tracker.flush() == [1, "delta", "a", 2, {}, ["1"]]
    assert tracker.flush() is None


def test_what_came_and_went_is_not_told(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    tracker.update("1", entry("2"))
    assert tracker.flush() == [1, "delta", "a", 1, TWO, []]
    tracker.join(entry("3"))
    tracker.leave("3")
    assert tracker.flush() is None
    assert tracker.heartbeat() == heartbeat(1, "a")


def test_a_heartbeat_is_small(tracker: Tracker) -> None:
    assert json.dumps(tracker.heartbeat()) == '[1, "heartbeat", "a", 0]'


def test_a_newcomer_asks_everybody(tracker: Tracker) -> None:
    assert tracker.hello() == [1, "ask", "a", 0, None]


@pytest.mark.parametrize("to", [None, "a"])
def test_one_who_asks_is_told_all(tracker: Tracker, to: str | None) -> None:
    tracker.join(entry("1"))
    tracker.flush()
    assert tracker.receive([1, "ask", "b", 0, to], 0) == ({}, [("b", [1, "state", "a", 1, ONE])])


def test_a_delta_comes_before_a_state(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    letters = [(None, [1, "delta", "a", 1, ONE, []]), ("b", [1, "state", "a", 1, ONE])]
    assert tracker.receive([1, "ask", "b", 0, "a"], 0) == ({}, letters)
    assert tracker.flush() is None


def test_an_empty_state(tracker: Tracker) -> None:
    assert tracker.receive([1, "ask", "b", 0, None], 0) == ({}, [("b", [1, "state", "a", 0, {}])])


def test_a_state_tells_own_presences_alone(acquainted: Tracker) -> None:
    assert acquainted.receive([1, "ask", "c", 0, None], 0) == ({}, [("c", [1, "state", "a", 0, {}])])


def test_a_question_for_another(tracker: Tracker) -> None:
    assert tracker.receive([1, "ask", "b", 0, "c"], 0) == ({}, [])


def test_one_who_asks_may_be_asked(tracker: Tracker) -> None:
    assert tracker.receive([1, "ask", "b", 3, "c"], 0) == ({}, ASK_B)
    assert tracker.receive([1, "ask", "b", 3, "a"], 9) == ({}, [*ASK_B, ("b", [1, "state", "a", 0, {}])])


def test_after_goodbye_nothing_else_is_said(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    goodbye = [1, "goodbye", "a", 0]
    assert tracker.goodbye() == tracker.heartbeat() == tracker.hello() == goodbye
    assert tracker.leave("1") == left("1")
    tracker.join(entry("2"))
    again = [1, "goodbye", "a", 1]
    assert tracker.receive([1, "ask", "b", 0, "a"], 0) == ({}, [(None, again), ("b", again)])


# What the others say


def test_deltas_in_order(acquainted: Tracker) -> None:
    both = {"t": Diff({"ada": [meta("2")]}, {"ada": [meta("1")]})}
    assert acquainted.receive(delta(2, TWO, "1"), 1) == (both, [])
    assert acquainted.receive(delta(3, None, "2"), 2) == (left("2"), [])
    assert view(acquainted) == {}


@pytest.mark.parametrize("late", [delta(1, ONE), state(1, "1"), delta(2, TWO, "1"), state(2, "2"), heartbeat(1)])
def test_what_is_late_or_double(acquainted: Tracker, late: Gossip) -> None:
    acquainted.receive(delta(2, TWO, "1"), 1)
    assert acquainted.receive(late, 2) == ({}, [])
    assert view(acquainted) == TWO


def test_a_gap_is_asked_for_once(acquainted: Tracker) -> None:
    assert acquainted.receive(delta(3, TWO), 1) == ({}, ASK_B)
    assert acquainted.receive(delta(4), 1.5) == ({}, [])
    assert acquainted.receive(heartbeat(4), 2) == ({}, [])
    assert view(acquainted) == ONE
    assert acquainted.receive(state(4, "1", "2"), 3) == (joined("2"), [])
    assert acquainted.receive(delta(5, None, "1"), 4) == (left("1"), [])
    assert acquainted.receive(delta(7), 4.5) == ({}, ASK_B)


@pytest.mark.parametrize("reminder", [heartbeat(4), delta(4), [1, "ask", "b", 4, "c"]])
def test_a_lost_answer_is_asked_for_again(acquainted: Tracker, reminder: Gossip) -> None:
    assert acquainted.receive(delta(3), 1) == ({}, ASK_B)
    assert acquainted.receive(reminder, 5.9) == ({}, [])
    assert acquainted.receive(reminder, 6) == ({}, ASK_B)
    assert acquainted.receive(reminder, 10.9) == ({}, [])


def test_a_late_delta_may_fill_the_gap(acquainted: Tracker) -> None:
    assert acquainted.receive(delta(3), 1) == ({}, ASK_B)
    assert acquainted.receive(delta(2, TWO), 1) == (joined("2"), [])
    assert acquainted.receive(state(3, "2"), 1) == (left("1"), [])


def test_a_state_that_is_behind_again(acquainted: Tracker) -> None:
    acquainted.receive(delta(4), 1)
    assert acquainted.receive(state(3, "1", "2"), 2) == (joined("2"), [])
    assert acquainted.receive(heartbeat(4), 2) == ({}, ASK_B)


@pytest.mark.parametrize("first", [heartbeat(1), delta(2, TWO), [1, "ask", "b", 1, "c"]])
def test_a_stranger_is_asked(tracker: Tracker, first: Gossip) -> None:
    assert tracker.receive(first, 0) == ({}, ASK_B)
    assert tracker.receive(state(2, "1"), 0) == (joined("1"), [])


def test_a_stranger_with_no_past_is_not_asked(tracker: Tracker) -> None:
    assert tracker.receive(heartbeat(0), 0) == ({}, [])
    assert tracker.receive(delta(1, ONE), 0) == (joined("1"), [])


def test_of_a_state_only_differences_are_told(acquainted: Tracker) -> None:
    acquainted.receive(delta(2, {"t": {"ada": [meta("2"), meta("3")]}}), 0)
    diffs = {"t": Diff({"ada": [meta("4")]}, {"ada": [meta("2")]})}
    assert acquainted.receive(state(9, "4", "3", "1"), 0) == (diffs, [])
    assert [one["phx_ref"] for one in acquainted.get("t", "ada")] == ["1", "3", "4"]
    assert acquainted.receive(state(10, "1", "3", "4"), 0) == ({}, [])
    everything = {"t": Diff({}, {"ada": [meta("1"), meta("3"), meta("4")]})}
    assert acquainted.receive(state(11), 0) == (everything, [])


def test_the_own_echo(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    for echo in (tracker.flush(), tracker.heartbeat(), tracker.hello(), heartbeat(9, "a"), tracker.goodbye()):
        assert tracker.receive(echo, 0) == ({}, [])
    assert tracker.tick(9999) == tracker.gone("a") == {}
    assert view(tracker) == ONE


# Silence, and ends


def test_a_silent_node_is_down(acquainted: Tracker) -> None:
    assert acquainted.tick(30) == {}
    assert acquainted.tick(30.1) == left("1")
    assert view(acquainted) == {}
    assert acquainted.tick(60) == {}


@pytest.mark.parametrize("sign", [heartbeat(1), delta(3), [1, "ask", "b", 1, None], delta(1, ONE)])
def test_a_sign_of_life(acquainted: Tracker, sign: Gossip) -> None:
    acquainted.receive(sign, 20)
    assert acquainted.tick(50) == {}
    assert acquainted.tick(50.1) == left("1")


@pytest.mark.parametrize("late", [heartbeat(1), delta(1, ONE), state(1, "1")])
def test_what_is_late_is_no_sign_of_life(acquainted: Tracker, late: Gossip) -> None:
    acquainted.receive(delta(2), 1)
    acquainted.receive(late, 20)
    assert acquainted.tick(31.1) == left("1")
    assert acquainted.receive(late, 32) == ({}, [])


def test_a_node_that_was_silent_is_back(acquainted: Tracker) -> None:
    for now in (100, 200):
        assert acquainted.tick(now) == left("1")
        assert acquainted.receive(heartbeat(1), now) == (joined("1"), [])
        assert acquainted.receive(heartbeat(1), now) == ({}, [])


def test_a_node_is_back_with_a_delta(acquainted: Tracker) -> None:
    acquainted.tick(100)
    assert acquainted.receive(delta(2, TWO, "1"), 100) == (joined("2"), [])


def test_a_node_that_has_moved_on_is_back_with_its_state(acquainted: Tracker) -> None:
    acquainted.tick(100)
    assert acquainted.receive(heartbeat(3), 100) == ({}, ASK_B)
    assert acquainted.tick(131) == {}
    assert acquainted.receive(state(3, "2"), 131) == (joined("2"), [])
    assert view(acquainted) == TWO


def test_a_node_is_forgotten_in_the_end(acquainted: Tracker) -> None:
    acquainted.tick(1200)
    assert acquainted.tick(1200.1) == {}
    assert acquainted.receive(heartbeat(1), 1201) == ({}, ASK_B)
    assert acquainted.receive(state(1, "1"), 1201) == (joined("1"), [])


def test_a_node_may_go_down_and_be_forgotten_at_once(acquainted: Tracker) -> None:
    assert acquainted.tick(9999) == left("1")
    assert acquainted.receive(heartbeat(1), 9999) == ({}, ASK_B)


def test_a_down_node_is_not_forgotten_before_its_time(acquainted: Tracker) -> None:
    assert acquainted.tick(1200) == left("1")
    assert acquainted.receive(heartbeat(1), 1201) == (joined("1"), [])


def test_a_goodbye(acquainted: Tracker) -> None:
    assert acquainted.receive([1, "goodbye", "b", 1], 1) == (left("1"), [])
    for late in (delta(1, ONE), delta(2, TWO), state(9, "1"), heartbeat(9), [1, "ask", "b", 9, None], delta(1, ONE)):
        assert acquainted.receive(late, 2) == ({}, [])
    assert acquainted.gone("b") == acquainted.tick(100) == {}
    assert acquainted.receive([1, "goodbye", "b", 1], 3) == ({}, [])


def test_a_goodbye_before_all_else(tracker: Tracker) -> None:
    assert tracker.receive([1, "goodbye", "b", 1], 0) == ({}, [])
    assert tracker.receive(delta(1, ONE), 1) == ({}, [])


def test_a_goodbye_is_forgotten_in_the_end(acquainted: Tracker) -> None:
    acquainted.receive([1, "goodbye", "b", 1], 1)
    acquainted.tick(1201)
    assert acquainted.receive(heartbeat(1), 1201) == ({}, [])
    acquainted.tick(1201.1)
    assert acquainted.receive(heartbeat(1), 1202) == ({}, ASK_B)


def test_a_goodbye_of_one_who_is_down(acquainted: Tracker) -> None:
    acquainted.tick(100)
    assert acquainted.receive([1, "goodbye", "b", 1], 100) == ({}, [])


def test_a_node_whose_link_has_ended(acquainted: Tracker) -> None:
    assert acquainted.gone("b") == left("1")
    assert acquainted.gone("b") == acquainted.gone("stranger") == {}
    assert acquainted.receive(heartbeat(1), 1) == ({}, ASK_B)
    assert acquainted.receive(state(1, "1"), 1) == (joined("1"), [])


def test_a_link_ends_while_the_node_is_down(acquainted: Tracker) -> None:
    acquainted.tick(100)
    assert acquainted.gone("b") == {}


# What nobody says

BAD_TOPICS: list[Any] = [
    None,
    [],
    "t",
    {"t": None},
    {"t": []},
    {"t": {"ada": None}},
    {"t": {"ada": 1}},
    {"t": {"ada": [None]}},
    {"t": {"ada": ["1"]}},
    {"t": {"ada": [[]]}},
    {"t": {"ada": [{}]}},
    {"t": {"ada": [{"phx_ref": 1}]}},
    {"t": {"ada": [{"phx_ref": None}]}},
    {"t": {"ada": [{"phx_ref": []}]}},
    {"t": {"ada": "1"}},
    {"t": {"ada": meta("1")}},
    {"t": {"ada": [meta("2"), meta("2")]}},
    {"t": {"ada": [meta("2")], "bob": [meta("2")]}},
    {"t": {"ada": [meta("2")]}, "u": {"ada": [meta("2")]}},
]
BAD: list[Any] = [
    *(None, True, 1, "", "heartbeat", {}, [], [1], [[]], [{}, {}, {}, {}], {"kind": "heartbeat"}),
    *([2, "heartbeat", "b", 2], ["1", "heartbeat", "b", 2], ["heartbeat", "b", 2], [None, "heartbeat", "b", 2]),
    *([1, "heartbeat", "b"], [1, "heartbeat", "b", 2, None], [1, "heartbeat", 5, 2], [1, "heartbeat", "b", "2"]),
    *([1, "heartbeat", "b", None], [1, "heartbeat", "b", 2.5], [1, "heartbeat", None, 2], [1, "heartbeat", ["b"], 2]),
    *([1, "Heartbeat", "b", 2], [1, None, "b", 2], [1, ["heartbeat"], "b", 2], [1, "hello", "b", 2, None]),
    *([1, "goodbye", "b"], [1, "goodbye", "b", None], [1, "goodbye", {}, 2]),
    *([1, "ask", "b", 2], [1, "ask", "b", 2, 1], [1, "ask", "b", 2, ["a"]], [1, "ask", "b", None, "a"]),
    *([1, "state", "b", 2], [1, "state", "b", 2, {}, []], [1, "state", "b", 2.5, {}], [1, "state", 5, 2, {}]),
    *([1, "delta", "b", 2, {}], [1, "delta", "b", 2, {}, None], [1, "delta", "b", 2, {}, "1"], [1, "delta", "b"]),
    *([1, "delta", "b", 2, {}, [1]], [1, "delta", "b", 2, {}, [["1"]]], [1, "delta", "b", 2, {}, {"1": 1}]),
    *([1, "delta", "b", 2, TWO, ["2"]], [1, "delta", "b", "2", TWO, []]),
    *([1, "state", "b", 2, topics] for topics in BAD_TOPICS),
    *([1, "delta", "b", 2, topics, []] for topics in BAD_TOPICS),
]


@pytest.mark.parametrize("message", BAD, ids=range(len(BAD)))
def test_what_no_node_says(acquainted: Tracker, message: Any) -> None:
    with pytest.raises(InvalidMessage, match="expected what a node says of its presences, in version 1, got "):
        acquainted.receive(message, 40)
    assert view(acquainted) == ONE
    assert acquainted.tick(31) == left("1")


def test_refs_of_others(acquainted: Tracker) -> None:
    acquainted.join(entry("own"))
    for ref in ("own", "1"):
        for claim in (
            [1, "delta", "c", 1, {"u": {"bob": [meta(ref)]}}, []],
            [1, "state", "c", 3, {"t": {"": [meta(ref)]}}],
        ):
            with pytest.raises(InvalidMessage, match="expected refs of 'c' alone"):
                acquainted.receive(claim, 0)
    assert acquainted.receive([1, "delta", "c", 1, {}, ["own", "1"]], 0) == ({}, [])
    assert view(acquainted) == {"t": {"ada": [meta("1"), meta("own")]}}


def test_refs_of_one_who_is_down(acquainted: Tracker) -> None:
    acquainted.tick(100)
    with pytest.raises(InvalidMessage, match="expected refs of 'c' alone"):
        acquainted.receive([1, "delta", "c", 1, ONE, []], 100)
    with pytest.raises(ValueError, match="in use"):
        acquainted.join(entry("1"))


def test_an_error_shows_the_begin_alone(tracker: Tracker) -> None:
    with pytest.raises(InvalidMessage) as mistake:
        tracker.receive([1, "state", "b", 1, {"t": {str(n): [None] for n in range(9999)}}], 0)
    assert len(str(mistake.value)) < 300


# Whole networks

PICK = st.integers(0, 999)
TOPICS = st.sampled_from(["t", "u"])
KEYS = st.sampled_from(["ada", "__proto__"])


class Audience:
    """One who hears the diffs of a tracker and nothing else, as a client does."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.present: dict[str, Entry] = {}

    def hear(self, diffs: Diffs) -> None:
        """Follow what is told: it must make sense by itself, and add up to what the tracker shows."""
        assert all(diff.joins or diff.leaves for diff in diffs.values())
        assert all(metas for diff in diffs.values() for keys in diff for metas in keys.values())
        leaves, joins = (
            [
                Entry(topic, key, one)
                for topic, diff in diffs.items()
                for key, metas in diff[side].items()
                for one in metas
            ]
            for side in (1, 0)
        )
        assert not {one.ref for one in leaves} & {one.ref for one in joins}
        for one in leaves:
            assert self.present.pop(one.ref) == one
        for one in joins:
            assert one.ref not in self.present
            self.present[one.ref] = one
        assert view(self.tracker) == by_topic(self.present)


def by_topic(entries: dict[str, Entry]) -> dict[str, Metas]:
    """Order presences as a tracker shows them."""
    topics: dict[str, Metas] = {}
    for topic, key, one in entries.values():
        topics.setdefault(topic, {}).setdefault(key, []).append(one)
    return topics


class Node(Audience):
    """A process with a tracker, and what is truly present there."""

    def __init__(self, name: str) -> None:
        super().__init__(Tracker(name, down_period=30, permdown_period=1200))
        self.own: dict[str, Entry] = {}
        #: What has been present there, at each value of its clock.
        self.history: list[set[str]] = [set()]
        #: How far it knows the history of others.
        self.known: dict[str, int] = {}
        #: Whose goodbye it has heard.
        self.ended: set[str] = set()
        self.over = False

    def hear(self, diffs: Diffs) -> None:
        """Follow what is told, and see that it knows its own presences."""
        super().hear(diffs)
        assert self.own.items() <= self.present.items()

    def recall(self, other: Node) -> None:
        """See that what is here of another is what once was there, at no earlier time than it was before."""
        seen = {ref for ref, one in self.present.items() if one.meta["at"] == other.tracker.node}
        assert not (seen and other.tracker.node in self.ended)
        since = self.known.get(other.tracker.node, 0)
        assert not seen or seen in other.history[since:]
        if seen:
            self.known[other.tracker.node] = other.history.index(seen, since)


class Networks(RuleBasedStateMachine):
    """Nodes come, go and talk; what they say gets lost, is doubled, delayed and shuffled, and links are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.names, self.refs = 0.0, 0, 0
        self.nodes: list[Node] = []
        self.ever: list[Node] = []
        self.mail: list[tuple[Node, str]] = []
        self.cuts: set[frozenset[Node]] = set()
        for _ in range(3):
            self.start()

    def post(self, sender: Node, *letters: tuple[str | None, Gossip | None]) -> None:
        """Put on the way what a node says."""
        for to, gossip in letters:
            if gossip is not None and gossip[1] == "delta":
                sender.history.append({*sender.own})
            for node in self.nodes:
                heard = node is not sender and to in (None, node.tracker.node)
                if gossip is not None and heard and frozenset([sender, node]) not in self.cuts:
                    self.mail.append((node, json.dumps(gossip)))

    def arrive(self, node: Node, text: str) -> None:
        """Let a node hear something, if it still runs."""
        if node in self.nodes:
            gossip = json.loads(text)
            diffs, letters = node.tracker.receive(gossip, self.now)
            node.hear(diffs)
            if gossip[1] == "goodbye":
                node.ended.add(gossip[2])
            self.post(node, *letters)
            for other in self.ever:
                if other is not node:
                    node.recall(other)

    @property
    def live(self) -> list[Node]:
        """The nodes that go on."""
        return [node for node in self.nodes if not node.over]

    def pick(self, pick: int) -> Node:
        """Pick a node."""
        return self.nodes[pick % len(self.nodes)]

    def new(self, node: Node, topic: str, key: str) -> Entry:
        """Make a presence."""
        self.refs += 1
        return entry(str(self.refs), key, topic, at=node.tracker.node)

    @precondition(lambda self: len(self.nodes) < 4)
    @rule()
    def start(self) -> None:
        self.names += 1
        node = Node(f"node {self.names}")
        self.nodes.append(node)
        self.ever.append(node)
        self.post(node, (None, node.tracker.hello()))

    @rule(pick=PICK, topic=TOPICS, key=KEYS)
    def join(self, pick: int, topic: str, key: str) -> None:
        node = self.pick(pick)
        one = self.new(node, topic, key)
        node.own[one.ref] = one
        node.hear(node.tracker.join(one))

    @rule(pick=PICK, which=PICK)
    def leave(self, pick: int, which: int) -> None:
        node = self.pick(pick)
        ref = [*node.own, "nobody"][which % (len(node.own) + 1)]
        node.own.pop(ref, None)
        node.hear(node.tracker.leave(ref))

    @rule(pick=PICK, which=PICK, topic=TOPICS, key=KEYS)
    def update(self, pick: int, which: int, topic: str, key: str) -> None:
        node = self.pick(pick)
        one = self.new(node, topic, key)
        ref = [*node.own, "nobody"][which % (len(node.own) + 1)]
        node.own.pop(ref, None)
        node.own[one.ref] = one
        node.hear(node.tracker.update(ref, one))

    @rule(pick=PICK)
    def flush(self, pick: int) -> None:
        self.post(self.pick(pick), (None, self.pick(pick).tracker.flush()))

    @rule(pick=PICK)
    def heartbeat(self, pick: int) -> None:
        self.post(self.pick(pick), (None, self.pick(pick).tracker.heartbeat()))

    @rule(pick=PICK)
    def hello(self, pick: int) -> None:
        self.post(self.pick(pick), (None, self.pick(pick).tracker.hello()))

    @rule(seconds=st.sampled_from([1.0, 6.0, 25.0, 31.0, 1201.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes:
            node.hear(node.tracker.tick(self.now))
            if seconds > 1200:
                # Others may be forgotten, and then even what is late is news.
                node.known.clear()
                node.ended.clear()

    @rule(most=st.integers(1, 20))
    def carry(self, most: int) -> None:
        for node, text in self.mail[:most]:
            self.arrive(node, text)
        del self.mail[:most]

    @precondition(lambda self: self.mail)
    @rule(which=PICK)
    def carry_out_of_order(self, which: int) -> None:
        self.arrive(*self.mail.pop(which % len(self.mail)))

    @precondition(lambda self: self.mail)
    @rule(which=PICK)
    def double(self, which: int) -> None:
        self.arrive(*self.mail[which % len(self.mail)])

    @precondition(lambda self: self.mail)
    @rule(which=PICK)
    def lose(self, which: int) -> None:
        del self.mail[which % len(self.mail)]

    @rule(one=PICK, other=PICK)
    def cut(self, one: int, other: int) -> None:
        self.cuts ^= {frozenset([self.pick(one), self.pick(other)])}

    @rule(pick=PICK, other=PICK)
    def lose_the_link(self, pick: int, other: int) -> None:
        node = self.pick(pick)
        node.hear(node.tracker.gone(self.pick(other).tracker.node))
        node.known.pop(self.pick(other).tracker.node, None)

    @precondition(lambda self: len(self.live) > 2)
    @rule(pick=PICK)
    def say_goodbye(self, pick: int) -> None:
        node = self.live[pick % len(self.live)]
        node.over = True
        self.post(node, (None, node.tracker.goodbye()))

    @precondition(lambda self: len(self.live) > 2)
    @rule(pick=PICK)
    def crash(self, pick: int) -> None:
        self.nodes.remove(self.live[pick % len(self.live)])

    @precondition(lambda self: len(self.nodes) > len(self.live))
    @rule()
    def end(self) -> None:
        self.nodes.remove(next(node for node in self.nodes if node.over))

    def teardown(self) -> None:
        """In the end all is quiet, and nothing is lost: every node must come to know who is present, and nobody else.

        The presences of others are there after one round, those of nodes that have ended gone after the down period.
        """
        self.cuts.clear()
        self.deliver()
        everybody = {ref: one for node in self.live for ref, one in node.own.items()}
        for _ in range(6):
            self.now += 6
            for node in self.nodes:
                self.post(node, (None, node.tracker.flush()), (None, node.tracker.heartbeat()))
            self.deliver()
            for node in self.nodes:
                node.hear(node.tracker.tick(self.now))
            assert all(node.present.items() >= everybody.items() for node in self.live)
        assert all(node.present == everybody for node in self.live)

    def deliver(self) -> None:
        """Bring everything to where it goes, and the answers too; it must come to an end."""
        for _ in range(9):
            self.carry(len(self.mail))
        assert not self.mail


Networks.TestCase.settings = settings(deadline=None, max_examples=200, stateful_step_count=50)
test_networks = Networks.TestCase


# Junk

NODES, REFS = st.sampled_from(["a", "b", "c"]), st.sampled_from(["own", "1", "2", "3", "4"])
SOME_METAS = st.lists(st.builds(meta, REFS) | VALUES, max_size=3)
SOME_TOPICS = st.dictionaries(TOPICS, st.dictionaries(KEYS, SOME_METAS, max_size=2), max_size=2)
PART = st.one_of(
    st.sampled_from([1, "delta", "state", "ask", "heartbeat", "goodbye"]),
    *(NODES, st.integers(0, 4), SOME_TOPICS, st.lists(REFS, max_size=3), st.none(), VALUES),
)
LIKELY = st.one_of(
    st.tuples(st.just(1), st.just("delta"), NODES, st.integers(0, 4), SOME_TOPICS, st.lists(REFS, max_size=3)),
    st.tuples(st.just(1), st.just("state"), NODES, st.integers(0, 4), SOME_TOPICS),
    st.tuples(st.just(1), st.just("ask"), NODES, st.integers(0, 4), st.none() | NODES),
    st.tuples(st.just(1), st.sampled_from(["heartbeat", "goodbye"]), NODES, st.integers(0, 4)),
).map(list)
JUNK = VALUES | st.lists(PART, max_size=6) | LIKELY


@settings(deadline=None, max_examples=300)
@given(st.lists(JUNK | st.tuples(st.floats(0, 2000)), max_size=12))
def test_junk(messages: list[Any]) -> None:
    """Lists are what is said, tuples the time that passes."""
    tracker = Tracker("a")
    audience = Audience(tracker)
    now = 0.0
    audience.hear(tracker.join(entry("own")))
    audience.hear(tracker.receive(delta(1, ONE), now)[0])
    for message in messages:
        if isinstance(message, tuple):
            now += message[0]
            audience.hear(tracker.tick(now))
            continue
        before = view(tracker)
        try:
            diffs, letters = tracker.receive(message, now)
        except InvalidMessage:
            assert view(tracker) == before
        else:
            audience.hear(diffs)
            assert told(letters) == [[*letter] for letter in letters]
    audience.hear(tracker.tick(now + 1201))
    assert view(tracker) == {"t": {"ada": [meta("own")]}}
    audience.hear(tracker.receive(state(1, "1", "2"), now + 1202)[0])
    assert [one["phx_ref"] for one in tracker.get("t", "ada")] == ["own", "1", "2"]
