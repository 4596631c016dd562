"""The presences of all nodes as a value: each rule, and whole networks that lose, double, delay and reorder gossip."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from flask_phoenix.exceptions import InvalidMessage
from flask_phoenix.tracker.state import Diff, Diffs, Entry, Gossip, Meta, Metas, Outgoing, Tracker

from .values import VALUES

ALL_TOPICS = ["t", "u"]


def meta(ref: str, **facts: Any) -> Meta:
    """Make a meta."""
    return {"phx_ref": ref, **facts}


def entry(ref: str, key: str = "ada", topic: str = "t", **facts: Any) -> Entry:
    """Make an entry."""
    return Entry(topic, key, meta(ref, **facts))


def metas(*refs: str) -> dict[str, Metas]:
    """Make the entries of one key on one topic."""
    return {"t": {"ada": [meta(ref) for ref in refs]}} if refs else {}


def diff(joins: str = "", leaves: str = "") -> Diffs:
    """Make the diff of one key on one topic; each ref is a letter."""
    return {"t": Diff(metas(*joins).get("t", {}), metas(*leaves).get("t", {}))} if joins or leaves else {}


def delta(clock: int, joins: str = "", left: str = "") -> Gossip:
    """Make a delta of node b; each ref is a letter."""
    return [1, "delta", "b", clock, metas(*joins), [*left]]


def state(clock: int, refs: str) -> Gossip:
    """Make a state of node b; each ref is a letter."""
    return [1, "state", "b", clock, metas(*refs)]


def heartbeat(clock: int, node: str = "b") -> Gossip:
    """Make a heartbeat."""
    return [1, "heartbeat", node, clock]


def told(gossip: Any) -> Any:
    """Bring it to another node."""
    return json.loads(json.dumps(gossip))


def view(tracker: Tracker) -> dict[str, Metas]:
    """Return all that a tracker shows, seen from every side."""
    shown = {topic: tracker.list(topic) for topic in ALL_TOPICS if tracker.count(topic)}
    for topic, keys in shown.items():
        assert tracker.count(topic) == len(keys)
        assert {key: tracker.get(topic, key) for key in keys} == keys
    return shown


ASK_B: Outgoing = [("b", [1, "ask", "a", 0, "b"])]


@pytest.fixture
def tracker() -> Tracker:
    return Tracker("a", down_period=30, permdown_period=1200)


@pytest.fixture
def acquainted(tracker: Tracker) -> Tracker:
    """A tracker that knows b at clock 1, with ref 1, since the time 0."""
    assert tracker.receive(delta(1, "1"), 0) == (diff("1"), [])
    return tracker


# The entries of this node


def test_each_change_returns_a_diff_for_each_topic(tracker: Tracker) -> None:
    assert tracker.join(entry("1", at=7)) == {"t": Diff({"ada": [meta("1", at=7)]}, {})}
    assert tracker.update("1", entry("2")) == {"t": Diff({"ada": [meta("2")]}, {"ada": [meta("1", at=7)]})}
    elsewhere = {"t": Diff({}, {"ada": [meta("2")]}), "u": Diff({"bob": [meta("3")]}, {})}
    assert tracker.update("2", entry("3", "bob", "u")) == elsewhere
    assert view(tracker) == {"u": {"bob": [meta("3")]}}
    assert tracker.leave("3") == {"u": Diff({}, {"bob": [meta("3")]})}
    assert tracker.leave("3") == {}
    assert view(tracker) == {}
    assert tracker.update("nobody", entry("4")) == diff("4")
    assert (tracker.get("t", "nobody"), tracker.list("nobody"), tracker.count("nobody")) == ([], {}, 0)


@pytest.mark.parametrize("ref", ["1", "2"])
def test_a_ref_is_used_once(acquainted: Tracker, ref: str) -> None:
    acquainted.join(entry("2"))
    acquainted.flush()
    for change in (acquainted.join, lambda one: acquainted.update("2", one), lambda one: acquainted.update("3", one)):
        with pytest.raises(ValueError, match=f"got '{ref}', which is in use"):
            change(entry(ref, "bob"))
    assert view(acquainted) == metas("1", "2")
    assert acquainted.flush() is None


def test_nothing_is_kept_of_what_left(tracker: Tracker) -> None:
    for round in range(2):
        for number in range(100):
            tracker.join(entry(f"{round} {number}", f"{number}", "t" * number))
        tracker.flush()
        for number in range(100):
            tracker.leave(f"{round} {number}")
        tracker.flush()
        size = len(pickle.dumps(tracker))
    assert size < len(pickle.dumps(Tracker("a"))) + 20


# What this node tells


def test_a_delta_has_the_changes_since_the_last(tracker: Tracker) -> None:
    for one in (entry("1"), entry("2"), entry("3", "bob"), entry("4", "ada", "u")):
        tracker.join(one)
    topics = {"t": {"ada": [meta("1"), meta("2")], "bob": [meta("3")]}, "u": {"ada": [meta("4")]}}
    assert tracker.flush() == [1, "delta", "a", 1, topics, []]
    assert tracker.flush() is None
    tracker.update("1", entry("5"))
    tracker.leave("3")
    assert tracker.flush() == [1, "delta", "a", 2, metas("5"), ["1", "3"]]


def test_what_joined_and_left_meanwhile_is_not_told(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    tracker.update("1", entry("2"))
    assert tracker.flush() == [1, "delta", "a", 1, metas("2"), []]
    tracker.join(entry("3"))
    tracker.leave("3")
    assert tracker.flush() is None
    assert tracker.heartbeat() == heartbeat(1, "a")


@pytest.mark.parametrize("to", [None, "a"])
def test_a_node_that_asks_is_told_the_own_entries(acquainted: Tracker, to: str | None) -> None:
    ask = [1, "ask", "c", 0, to]
    assert Tracker("c").hello() == [1, "ask", "c", 0, None]
    assert acquainted.receive(ask, 0) == ({}, [("c", [1, "state", "a", 0, {}])])
    acquainted.join(entry("2"))
    answer = ("c", [1, "state", "a", 1, metas("2")])
    # Changes that wait go to everybody before a state, so that no delta begins in the middle of one.
    assert acquainted.receive(ask, 0) == ({}, [(None, [1, "delta", "a", 1, metas("2"), []]), answer])
    assert acquainted.receive(ask, 0) == ({}, [answer])
    assert acquainted.receive([1, "ask", "c", 0, "d"], 0) == ({}, [])


def test_after_a_goodbye_nothing_else_is_told(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    goodbye = [1, "goodbye", "a", 0]
    assert tracker.goodbye() == tracker.heartbeat() == tracker.hello() == goodbye
    assert tracker.leave("1") == diff("", "1")
    tracker.join(entry("2"))
    again = [1, "goodbye", "a", 1]
    assert tracker.receive([1, "ask", "b", 0, "a"], 0) == ({}, [(None, again), ("b", again)])


# What other nodes tell


@pytest.mark.parametrize("late", [delta(1, "1"), state(1, "1"), delta(2, "2", "1"), state(2, "2"), heartbeat(1)])
def test_what_is_late_or_double_changes_nothing(acquainted: Tracker, late: Gossip) -> None:
    assert acquainted.receive(delta(2, "2", "1"), 1) == (diff("2", "1"), [])
    assert acquainted.receive(late, 2) == ({}, [])
    assert view(acquainted) == metas("2")


def test_a_missing_delta_is_asked_for_once(acquainted: Tracker) -> None:
    assert acquainted.receive(delta(3, "2"), 1) == ({}, ASK_B)
    assert acquainted.receive(delta(4), 1.5) == ({}, [])
    assert acquainted.receive(heartbeat(4), 2) == ({}, [])
    assert view(acquainted) == metas("1")
    assert acquainted.receive(state(4, "12"), 3) == (diff("2"), [])
    assert acquainted.receive(delta(5, "", "1"), 4) == (diff("", "1"), [])
    assert acquainted.receive(delta(7), 4.5) == ({}, ASK_B)


@pytest.mark.parametrize("reminder", [heartbeat(4), delta(4), [1, "ask", "b", 4, "c"]])
def test_a_lost_answer_is_asked_for_again(acquainted: Tracker, reminder: Gossip) -> None:
    assert acquainted.receive(delta(3), 1) == ({}, ASK_B)
    assert acquainted.receive(reminder, 5.9) == ({}, [])
    assert acquainted.receive(reminder, 6) == ({}, ASK_B)
    assert acquainted.receive(reminder, 10.9) == ({}, [])


@pytest.mark.parametrize("first", [heartbeat(1), delta(2, "2"), [1, "ask", "b", 1, "c"]])
def test_a_node_that_is_not_known_is_asked(tracker: Tracker, first: Gossip) -> None:
    assert tracker.receive(heartbeat(0), 0) == ({}, []), "it has nothing to tell yet"
    assert tracker.receive(first, 0) == ({}, ASK_B)
    assert tracker.receive(state(2, "1"), 0) == (diff("1"), [])


def test_of_a_state_only_differences_are_told(acquainted: Tracker) -> None:
    acquainted.receive(delta(2, "23"), 0)
    assert acquainted.receive(state(9, "431"), 0) == (diff("4", "2"), [])
    assert view(acquainted) == metas(*"134")
    assert acquainted.receive(state(10, "134"), 0) == ({}, [])
    assert acquainted.receive(state(11, ""), 0) == (diff("", "134"), [])


def test_the_own_echo_changes_nothing(tracker: Tracker) -> None:
    tracker.join(entry("1"))
    for echo in (tracker.flush(), tracker.heartbeat(), tracker.hello(), heartbeat(9, "a"), tracker.goodbye()):
        assert tracker.receive(echo, 0) == ({}, [])
    assert tracker.tick(9999) == tracker.gone("a", 0) == {}
    assert view(tracker) == metas("1")


# Silence, and ends


@pytest.mark.parametrize("sign", [heartbeat(1), delta(3), [1, "ask", "b", 1, None], delta(1, "1")])
def test_a_silent_node_is_down(acquainted: Tracker, sign: Gossip) -> None:
    acquainted.receive(sign, 20)
    assert acquainted.tick(50) == {}
    assert acquainted.tick(50.1) == diff("", "1")
    assert acquainted.tick(60) == {}


@pytest.mark.parametrize("late", [heartbeat(1), delta(1, "1"), state(1, "1")])
def test_what_is_late_is_no_sign_of_life(acquainted: Tracker, late: Gossip) -> None:
    acquainted.receive(delta(2), 1)
    acquainted.receive(late, 20)
    assert acquainted.tick(31.1) == diff("", "1")
    assert acquainted.receive(late, 32) == ({}, [])


def test_a_node_that_was_silent_is_back(acquainted: Tracker) -> None:
    for now in (100, 200):
        assert acquainted.tick(now) == diff("", "1")
        assert acquainted.receive(heartbeat(1), now) == (diff("1"), [])
        assert acquainted.receive(heartbeat(1), now) == ({}, [])
    acquainted.tick(300)
    assert acquainted.receive(delta(2, "2", "1"), 300) == (diff("2"), [])
    acquainted.tick(400)
    assert acquainted.receive(heartbeat(4), 400) == ({}, ASK_B)
    assert acquainted.tick(431) == {}
    assert acquainted.receive(state(4, "3"), 431) == (diff("3"), [])
    assert view(acquainted) == metas("3")


@pytest.mark.parametrize(("silent", "forgotten"), [(1200, False), (1200.1, True)])
def test_a_node_is_forgotten_in_the_end(acquainted: Tracker, silent: float, forgotten: bool) -> None:
    assert acquainted.tick(silent) == diff("", "1")
    assert acquainted.receive(heartbeat(1), 1201) == (({}, ASK_B) if forgotten else (diff("1"), []))
    acquainted.receive(state(1, "1"), 1201)
    assert view(acquainted) == metas("1")


def test_a_goodbye_is_the_last_that_is_heard(acquainted: Tracker) -> None:
    assert acquainted.receive([1, "goodbye", "b", 1], 1) == (diff("", "1"), [])
    for late in (delta(1, "1"), delta(2, "2"), state(9, "1"), heartbeat(9), [1, "ask", "b", 9, None]):
        assert acquainted.receive(late, 2) == ({}, [])
    assert acquainted.gone("b", 0) == acquainted.tick(1201) == {}
    assert acquainted.receive(heartbeat(1), 1201) == ({}, [])
    acquainted.tick(1201.1)
    assert acquainted.receive(heartbeat(1), 1202) == ({}, ASK_B), "it is forgotten in the end"


def test_a_node_whose_end_is_seen_is_forgotten(acquainted: Tracker) -> None:
    assert acquainted.gone("b", 0) == diff("", "1")
    assert acquainted.gone("b", 0) == acquainted.gone("stranger", 0) == {}
    assert acquainted.receive(heartbeat(1), 1) == ({}, ASK_B)
    assert acquainted.receive(state(1, "1"), 1) == (diff("1"), [])


# What no node tells

BAD_TOPICS: list[Any] = [
    *(None, [], {"t": None}, {"t": []}, {"t": {"ada": 1}}, {"t": {"ada": ["1"]}}, {"t": {"ada": [{}]}}),
    *({"t": {"ada": [{"phx_ref": 1}]}}, {"t": {"ada": [{"phx_ref": []}]}}, metas("2", "2")),
]
BAD: list[Any] = [
    *(None, "heartbeat", {}, [], [{}, {}, {}, {}], [2, "heartbeat", "b", 2], [1, "heartbeat", "b", 2, None]),
    *([1, "heartbeat", 5, 2], [1, "heartbeat", "b", "2"], [1, "hello", "b", 2, None], [1, "goodbye", "b", None]),
    *([1, "ask", "b", 2], [1, "ask", "b", 2, 1], [1, "delta", "b", 2, {}], [1, "delta", "b", 2, {}, [1]]),
    *([1, "delta", "b", 2, metas("2"), ["2"]], [1, "state", "b", 1, {"t": {str(n): [None] for n in range(9999)}}]),
    *([1, "state", "b", 2, topics] for topics in BAD_TOPICS),
    *([1, "delta", "b", 2, topics, []] for topics in BAD_TOPICS),
]


@pytest.mark.parametrize("gossip", BAD, ids=range(len(BAD)))
def test_what_no_node_tells_changes_nothing(acquainted: Tracker, gossip: Any) -> None:
    expected = "^expected what a node tells of its presences, in version 1, got .{,200}$"
    with pytest.raises(InvalidMessage, match=expected):
        acquainted.receive(gossip, 40)
    assert view(acquainted) == metas("1")
    assert acquainted.tick(31) == diff("", "1")


@pytest.mark.parametrize("down", [False, True])
def test_no_node_tells_refs_of_others(acquainted: Tracker, down: bool) -> None:
    acquainted.join(entry("own"))
    if down:
        acquainted.tick(100)
    before = view(acquainted)
    for ref in ("own", "1"):
        topics = {"u": {"bob": [meta(ref)]}}
        for claim in ([1, "delta", "c", 1, topics, []], [1, "state", "c", 3, topics]):
            with pytest.raises(InvalidMessage, match="expected refs of 'c' alone"):
                acquainted.receive(claim, 0)
    assert acquainted.receive([1, "delta", "c", 1, {}, ["own", "1"]], 0) == ({}, [])
    assert view(acquainted) == before
    with pytest.raises(ValueError, match="in use"):
        acquainted.join(entry("1"))


# Whole networks

PICK = st.integers(0, 999)
TOPICS = st.sampled_from(ALL_TOPICS)
KEYS = st.sampled_from(["ada", "__proto__"])


class Audience:
    """A listener that hears the diffs of a tracker and nothing else, as a client does."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.present: dict[str, Entry] = {}

    def hear(self, diffs: Diffs) -> None:
        """Follow what is told: it must make sense by itself, and add up to what the tracker shows."""
        assert all(metas for diff in diffs.values() for keys in diff for metas in keys.values())
        assert all(diff.joins or diff.leaves for diff in diffs.values())
        joins, leaves = (
            {
                one["phx_ref"]: Entry(topic, key, one)
                for topic in diffs
                for key in diffs[topic][side]
                for one in diffs[topic][side][key]
            }
            for side in (0, 1)
        )
        assert joins.keys().isdisjoint(leaves)
        assert all(self.present.pop(ref) == left for ref, left in leaves.items())
        assert self.present.keys().isdisjoint(joins)
        self.present |= joins
        shown: dict[str, Metas] = {}
        for topic, key, one in self.present.values():
            shown.setdefault(topic, {}).setdefault(key, []).append(one)
        assert view(self.tracker) == shown, "with the metas of a key in order of joining"


class Node(Audience):
    """A process with a tracker, and what is truly present there."""

    def __init__(self, name: str) -> None:
        super().__init__(Tracker(name, down_period=30, permdown_period=1200))
        self.own: dict[str, Entry] = {}
        self.over = False

    def hear(self, diffs: Diffs) -> None:
        """Follow what is told, and see that it knows its own entries."""
        super().hear(diffs)
        assert self.own.items() <= self.present.items()


class Networks(RuleBasedStateMachine):
    """Nodes come, go and talk; what they tell gets lost, is doubled, delayed and reordered, and links are cut."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.refs, self.names = 0.0, 0, 0
        self.nodes: list[Node] = []
        self.mail: list[tuple[Node, str]] = []
        self.cuts: set[frozenset[Node]] = set()
        for _ in range(3):
            self.start()

    def post(self, sender: Node, *answers: tuple[str | None, Gossip | None]) -> None:
        """Put on the way what a node tells."""
        for to, gossip in answers:
            for node in self.nodes if gossip is not None else ():
                reached = node is not sender and frozenset([sender, node]) not in self.cuts
                if reached and to in (None, node.tracker.node):
                    self.mail.append((node, json.dumps(gossip)))

    def arrive(self, node: Node, text: str) -> None:
        """Let a node hear something, if it still runs."""
        if node in self.nodes:
            diffs, answers = node.tracker.receive(json.loads(text), self.now)
            node.hear(diffs)
            self.post(node, *answers)

    @property
    def live(self) -> list[Node]:
        """The nodes that go on."""
        return [node for node in self.nodes if not node.over]

    def pick(self, pick: int) -> Node:
        """Pick a node."""
        return self.nodes[pick % len(self.nodes)]

    @precondition(lambda self: len(self.nodes) < 4)
    @rule()
    def start(self) -> None:
        self.names += 1
        node = Node(f"node {self.names}")
        self.nodes.append(node)
        self.post(node, (None, node.tracker.hello()))

    @rule(pick=PICK, which=PICK, topic=TOPICS, key=KEYS, how=st.sampled_from(["join", "join", "update", "leave"]))
    def change(self, pick: int, which: int, topic: str, key: str, how: str) -> None:
        node, self.refs = self.pick(pick), self.refs + 1
        ref = None if how == "join" else [*node.own, "nobody"][which % (len(node.own) + 1)]
        node.own.pop(ref or "", None)
        if how == "leave":
            node.hear(node.tracker.leave(str(ref)))
        else:
            one = node.own[str(self.refs)] = entry(str(self.refs), key, topic, at=node.tracker.node)
            node.hear(node.tracker.update(ref, one))

    @rule(pick=PICK, what=st.sampled_from(["flush", "flush", "heartbeat", "hello"]))
    def speak(self, pick: int, what: str) -> None:
        self.post(self.pick(pick), (None, getattr(self.pick(pick).tracker, what)()))

    @rule(seconds=st.sampled_from([1.0, 6.0, 25.0, 31.0, 1201.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes:
            node.hear(node.tracker.tick(self.now))

    @rule(most=st.integers(1, 20))
    def carry(self, most: int) -> None:
        arriving, self.mail[:most] = self.mail[:most], []
        for node, text in arriving:
            self.arrive(node, text)

    @precondition(lambda self: self.mail)
    @rule(which=PICK, what=st.sampled_from(["reorder", "double", "lose"]))
    def disturb(self, which: int, what: str) -> None:
        index = which % len(self.mail)
        node, text = self.mail[index] if what == "double" else self.mail.pop(index)
        if what != "lose":
            self.arrive(node, text)

    @rule(one=PICK, other=PICK)
    def cut(self, one: int, other: int) -> None:
        self.cuts ^= {frozenset([self.pick(one), self.pick(other)])}

    @rule(pick=PICK, other=PICK)
    def lose_the_link(self, pick: int, other: int) -> None:
        node = self.pick(pick)
        node.hear(node.tracker.gone(self.pick(other).tracker.node, 0))

    @precondition(lambda self: len(self.live) > 2)
    @rule(pick=PICK, politely=st.booleans())
    def end(self, pick: int, politely: bool) -> None:
        node = self.live[pick % len(self.live)]
        if politely:
            node.over = True
            self.post(node, (None, node.tracker.goodbye()))
        else:
            self.nodes.remove(node)

    @precondition(lambda self: len(self.nodes) > len(self.live))
    @rule()
    def stop(self) -> None:
        self.nodes.remove(next(node for node in self.nodes if node.over))

    def teardown(self) -> None:
        """In the end all is quiet, and nothing is lost: every node must come to know who is present, and nobody else.

        The entries of others are there after one round, those of nodes that have ended gone after the down period.
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


Networks.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=50)
test_networks = Networks.TestCase


# Junk

NODES, REFS = st.sampled_from(["a", "b", "c"]), st.sampled_from(["own", "1", "2", "3", "4"])
CLOCKS, LEFT = st.integers(0, 4), st.lists(REFS, max_size=3)
SOME_METAS = st.lists(st.builds(meta, REFS) | VALUES, max_size=3)
SOME_TOPICS = st.dictionaries(TOPICS, st.dictionaries(KEYS, SOME_METAS, max_size=2), max_size=2)
LIKELY = st.one_of(
    st.tuples(st.just(1), st.just("delta"), NODES, CLOCKS, SOME_TOPICS, LEFT),
    st.tuples(st.just(1), st.just("state"), NODES, CLOCKS, SOME_TOPICS),
    st.tuples(st.just(1), st.just("ask"), NODES, CLOCKS, st.none() | NODES),
    st.tuples(st.just(1), st.sampled_from(["heartbeat", "goodbye"]), NODES, CLOCKS),
).map(list)


@settings(deadline=None, max_examples=100)
@given(st.lists(LIKELY | VALUES | st.tuples(st.floats(0, 2000)), max_size=8))
def test_junk_changes_nothing_and_the_rest_makes_sense(messages: list[Any]) -> None:
    """Lists are what is told, tuples the time that passes."""
    tracker = Tracker("a")
    audience = Audience(tracker)
    now = 0.0
    audience.hear(tracker.join(entry("own")))
    audience.hear(tracker.receive(delta(1, "1"), now)[0])
    for message in messages:
        if isinstance(message, tuple):
            now += message[0]
            audience.hear(tracker.tick(now))
            continue
        before = view(tracker)
        try:
            diffs, answers = tracker.receive(message, now)
        except InvalidMessage:
            assert view(tracker) == before
        else:
            audience.hear(diffs)
            assert told(answers) == [[*answer] for answer in answers]
    audience.hear(tracker.tick(now + 1201))
    assert view(tracker) == metas("own")
    audience.hear(tracker.receive(state(1, "12"), now + 1202)[0])
    assert view(tracker) == metas("own", "1", "2")
