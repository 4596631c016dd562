"""The hooks of a presence: fetch, handle_metas and count_only, what they are given, and what their failures cost."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gevent
import pytest
from flask import Flask, appcontext_pushed, g, got_request_exception
from gevent.event import Event

from flask_phoenix import InvalidOption, Presence
from flask_phoenix.exceptions import InvalidPayload, InvalidReturn
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.tracker import server
from flask_phoenix.tracker.server import Presences
from flask_phoenix.tracker.state import Meta
from tests.support.presence import MakeNode, Node, entry, settle
from tests.support.processes import DEADLINE

FAILURES = [RuntimeError, gevent.GreenletExit, SystemExit, gevent.Timeout, CancelledError, RecursionError]

Diff = dict[str, Presences]
Now = Mapping[str, Sequence[Meta]]


class Observing(Presence):
    """Adds a name, and writes down what its hooks are given."""

    def __init__(self) -> None:
        self.fetched: list[tuple[str, list[str]]] = []
        self.seen: list[tuple[str, Diff, dict[str, list[Meta]]]] = []

    def fetch(self, topic: str, presences: Presences) -> Presences:
        self.fetched.append((topic, list(presences)))
        return {key: {**each, "name": key.upper()} for key, each in presences.items()}

    def handle_metas(self, topic: str, diff: Diff, presences: Now) -> None:
        self.seen.append((topic, diff, {key: list(metas) for key, metas in presences.items()}))


# fetch


def test_fetch_adds_to_what_is_told_once_for_each_list_and_each_side_of_a_diff(make_node: MakeNode) -> None:
    node = make_node(Observing)
    ada, bob = node.enter(), node.enter()
    assert (node.online.list("room:1"), node.online.get_by_key("room:1", "ada"), node.online.fetched) == ({}, None, [])
    ref = ada.channel.track("ada", {"n": 1})
    there = {"ada": {**entry(ref, n=1), "name": "ADA"}}
    assert bob.diffs() == [(there, {})]
    assert node.online.list("room:1") == bob.people == there
    assert node.online.get_by_key("room:1", "ada") == there["ada"]
    ada.channel.update("ada", {})
    ada.leave()
    settle()
    assert node.online.fetched == [("room:1", ["ada"])] * 6
    assert [{**joins, **leaves}["ada"]["name"] for joins, leaves in bob.diffs()] == ["ADA", "ADA"]
    assert node.online.count("room:1") == 0


def test_hooks_may_add_keys_and_share_an_app_context(make_node: MakeNode) -> None:
    order: list[str] = []

    class Generous(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            g.fetched = True
            gevent.sleep(0)
            return {**presences, "more": {"metas": []}}

        def handle_metas(self, topic: str, diff: Diff, presences: Now) -> None:
            order.append(f"handle_metas {g.fetched} {list(diff['joins'])} {list(presences)}")

    node = make_node(Generous)
    node.app.teardown_appcontext(lambda error: order.append("teardown"))
    node.online.track("room:1", "ada")
    settle()
    assert order == ["handle_metas True ['ada', 'more'] ['ada']", "teardown"]
    with node.app.app_context():
        assert list(node.online.list("room:1")) == ["ada", "more"]


def test_diffs_wait_for_a_slow_fetch_and_nobody_else_does(make_node: MakeNode) -> None:
    gate, running = Event(), list[str]()

    class Slow(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            assert running == []
            running.extend(presences)
            assert gate.wait(DEADLINE)
            running.clear()
            return presences

    node = make_node(Slow)
    one, two = node.enter("one"), node.enter("two")
    for topic, key in (("one", "first"), ("one", "second"), ("two", "third")):
        node.online.track(topic, key)
    node.online.update("one", "second", {})
    assert (one.changes(), two.changes(), running) == ([], [], ["first"])
    node.phoenix.broadcast("one", "meanwhile", {})
    assert one.news() == [["meanwhile", {}]]
    assert node.online.count("one") == 2
    gate.set()
    assert one.changes() == [("first", ""), ("second", ""), ("second", "second")]
    assert two.changes() == [("third", "")]


def test_what_waits_for_a_hook_ends_with_the_process_that_serves(make_node: MakeNode) -> None:
    gate = Event()

    class Slow(Observing):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            assert gate.wait(DEADLINE)
            return presences

    node = make_node(Slow)
    for key in ("running", "waiting"):
        node.online.track("room:1", key)
    settle()
    node.engine.stop()
    node.engine.serve()
    gate.set()
    node.online.track("room:1", "new")
    settle()
    assert list(node.online.seen[-1][2]) == ["new"]
    assert "waiting" not in str(node.online.seen)


SPOILS: dict[str, Callable[[Presences], Any]] = {
    "None": lambda presences: None,
    "nothing": lambda presences: {},
    "one missing": lambda presences: dict(list(presences.items())[1:]),
    "no metas": lambda presences: {key: {"name": "x"} for key in presences},
    "text for each": lambda presences: dict.fromkeys(presences, "metas"),
    "no metas in place": lambda presences: [each.pop("metas") for each in presences.values()] and presences,
    "half done": lambda presences: [each["metas"].clear() for each in presences.values()][1000],
    "not JSON": lambda presences: {key: {**each, "thing": object()} for key, each in presences.items()},
}


@pytest.mark.parametrize("how", SPOILS)
def test_a_fetch_that_returns_nonsense_costs_what_it_adds(
    make_node: MakeNode, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            spoiled: Presences = SPOILS[how](presences) if "good" not in presences else presences
            return spoiled

    node = make_node(Bad)
    bob = node.enter()
    good, bad = node.online.track("room:1", "good"), node.online.track("room:1", "bad", {"n": 1})
    assert bob.diffs() == [({"good": entry(good)}, {}), ({"bad": entry(bad, n=1)}, {})]
    if how not in ("half done", "not JSON"):
        with pytest.raises(InvalidReturn, match=r"Bad\.fetch returned .*; expected the presences that it was given"):
            node.online.get_by_key("room:1", "bad")
    node.online.untrack("room:1", "bad")
    assert bob.diffs() == [({}, {"bad": entry(bad, n=1)})]
    assert node.online.list("room:1") == bob.people == {"good": entry(good)}
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == ["fetch of Online failed at a diff on 'room:1'"] * 2


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("broken", ["fetch", "handle_metas", "count_only"])
def test_a_hook_that_crashes_costs_no_diff(
    make_node: MakeNode, broken: str, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Observing):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            self.crash("fetch")
            return presences

        def handle_metas(self, topic: str, diff: Diff, presences: Now) -> None:
            super().handle_metas(topic, diff, presences)
            self.crash("handle_metas")

        def count_only(self, topic: str) -> bool:
            self.crash("count_only")
            return False

        def crash(self, hook: str) -> None:
            if hook == broken:
                raise failure()

    node, stops, reports = make_node(Broken), list[str](), list[Any]()
    node.engine.stop_server = lambda: stops.append("in good order")

    def report(app: Flask, exception: BaseException) -> None:
        reports.append(exception)

    got_request_exception.connect(report, node.app)
    bob = node.enter()
    node.online.track("room:1", "ada")
    node.online.track("room:1", "eve")
    assert bob.changes() == [("ada", ""), ("eve", "")]
    seen = [(list(diff["joins"]), list(presences)) for _, diff, presences in node.online.seen]
    assert seen == [(["ada"], ["ada"]), (["eve"], ["ada", "eve"])]
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == [f"{broken} of Online failed at a diff on 'room:1'"] * 2
    ends = failure in (SystemExit, gevent.GreenletExit)
    assert [type(report) for report in reports] == [failure] * (0 if ends else 2), "as those of handlers"
    assert len(stops) == (2 if failure is SystemExit else 0)
    if broken == "fetch":
        for ask in (node.online.list, lambda topic: node.online.get_by_key(topic, "ada")):
            with pytest.raises(failure):
                ask("room:1")


# handle_metas


def test_handle_metas_sees_each_diff_and_who_is_present_after_it(make_node: MakeNode) -> None:
    node = make_node(Observing)
    ada = node.enter()
    given = [ada.channel.track("ada"), node.online.track("room:1", "ada"), ada.channel.update("ada", {"n": 1})]
    other = node.online.track("room:2", "bob")
    settle()
    ada.leave()
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


def test_handle_metas_comes_after_the_clients(make_node: MakeNode) -> None:
    nodes: list[Node] = []

    class Announcing(Presence):
        def handle_metas(self, topic: str, diff: Diff, presences: Now) -> None:
            nodes[0].phoenix.broadcast(topic, "seen", {"keys": list(presences)})

    nodes.append(make_node(Announcing))
    bob = nodes[0].enter()
    nodes[0].online.track("room:1", "ada")
    nodes[0].online.track("room:1", "eve")
    assert [event for event, _ in bob.news()] == ["presence_diff", "seen"] * 2


def test_what_hooks_do_to_metas_reaches_nobody(make_node: MakeNode) -> None:
    def scribble(metas: list[dict[str, Any]]) -> None:
        for meta in metas:
            meta["device"]["os"] = meta["phx_ref"] = "spoiled"
        metas.clear()

    class Clumsy(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            for each in presences.values():
                scribble(each["metas"])
            return presences

        def handle_metas(self, topic: str, diff: Diff, presences: Now) -> None:
            kept.append([meta["device"] for metas in presences.values() for meta in metas])
            assert ("bob" in presences) is (len(presences) > 1)
            for key in presences:
                scribble([*presences[key]])
            for side in diff.values():
                for each in side.values():
                    scribble(each["metas"])
            diff.clear()

    kept: list[list[Any]] = []
    node = make_node(Clumsy)
    ada, meta = node.enter(), {"device": {"os": "linux"}}
    ada.channel.track("ada", meta)
    settle()
    node.online.track("room:1", "bob", meta)
    settle()
    given = list[dict[str, Any]]()
    ada.channel.update("ada", lambda former: given.append(former) or meta)  # type: ignore[func-returns-value]
    assert given[0]["device"] == {"os": "linux"}
    ada.channel.untrack("ada")
    node.online.untrack("room:1", "bob")
    settle()
    assert node.online.list("room:1") == {}
    assert kept == [[{"os": "linux"}] * count for count in (1, 2, 2, 1, 0)]


# count_only


class Counted(Observing):
    """Counts big topics, and those alone."""

    def count_only(self, topic: str) -> bool:
        return topic.startswith("big")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count more often than people would like."""
    monkeypatch.setattr(server, "COUNT_PERIOD", DEADLINE / 50)


def test_clients_of_a_big_topic_are_told_how_many_are_present(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    big, small, other = node.enter("big"), node.enter("small"), node.enter("big:2")
    for topic in ("big", "small"):
        for number in range(5):
            node.online.track(topic, f"{number}")
    big.channel.track("0")
    other.channel.track("0")
    assert big.client.hear() == [None, None, "big", "presence_count", {"count": 5}]
    assert other.client.hear() == [None, None, "big:2", "presence_count", {"count": 1}]
    for number in range(3):
        node.online.untrack("big", f"{number}")
    assert big.client.hear() == [None, None, "big", "presence_count", {"count": 3}], "0 is present in another tab"
    assert len(small.diffs()) == 5
    assert big.news() == other.news() == []
    assert {topic for topic, _ in node.online.fetched} == {"small"}, "nothing is fetched for a count"
    assert [topic for topic, _, _ in node.online.seen].count("big") == 9
    assert node.online.list("big")["4"]["name"] == "4"


def test_a_count_ends_with_the_process_that_serves(make_node: MakeNode, often: None) -> None:
    node = make_node(Counted)
    node.online.track("big", "ada")
    settle()
    node.engine.stop()
    big, other = node.enter("big"), node.enter("big:2")
    node.online.track("big:2", "ada")
    assert other.client.hear()[4] == {"count": 1}
    assert big.news() == []
    node.online.track("big", "ada")
    node.online.untrack("big", "ada")
    assert big.client.hear()[4] == {"count": 0}, "it is that of the moment when it is told"
    assert [list(presences) for topic, _, presences in node.online.seen if topic == "big"] == [["ada"], ["ada"], []]


# What fails


@pytest.mark.parametrize("kind", [Presence, Observing, Counted])
@pytest.mark.parametrize("failure", [RecursionError, InvalidPayload, CancelledError])
def test_what_fails_for_one_topic_costs_no_other(
    make_node: MakeNode,
    kind: type[Presence],
    failure: type[BaseException],
    often: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, topics = make_node(kind), ["big:1", "big:2", "big:3"]
    members, tell = [node.enter(topic) for topic in topics], node.engine.broadcast

    def broadcast(broadcast: Broadcast, **options: Any) -> None:
        if broadcast.topic == "big:2":
            raise failure("broken")
        tell(broadcast, **options)

    monkeypatch.setattr(node.engine, "broadcast", broadcast)
    for change in (node.online.track, node.online.untrack):
        for topic in topics:
            change(topic, "ada")
        for member in (members[0], members[2]):
            event, payload = member.client.hear()[3:]
            assert payload == {"count": len(node.present("big:1"))} or event == "presence_diff"
        assert members[1].news() == []
    assert "big:2" in caplog.text
    monkeypatch.undo()
    node.online.track("big:2", "ada")
    assert members[1].client.hear()[2] == "big:2", "it goes on"


@pytest.mark.parametrize("when", ["pushed", "torn down"])
def test_an_app_context_that_fails_costs_no_diff(make_node: MakeNode, when: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        if failing:
            raise RuntimeError(when)

    node, failing = make_node(Observing), [when]
    bob = node.enter()
    if when == "pushed":
        appcontext_pushed.connect(fail, node.app)
    else:
        node.app.teardown_appcontext(fail)
    for number in range(6):
        node.online.track("room:1", f"{number}")
    assert bob.changes() == [(f"{number}", "") for number in range(6)]
    failing.clear()
    node.online.track("room:1", "6")
    settle()
    assert len(node.online.seen) == (1 if when == "pushed" else 7)
    assert len(node.online.seen[-1][2]) == 7, "it sees all who are present"


async def awaits(self: Any, topic: str, presences: Any) -> Any:
    return presences


@pytest.mark.parametrize(("hook", "mistake"), [(awaits, "is async"), (lambda self: {}, "does not take")])
def test_a_hook_that_cannot_be_called_is_refused(hook: Any, mistake: str) -> None:
    with pytest.raises(InvalidOption, match=mistake):
        type("Online", (Presence,), {"fetch": hook})
