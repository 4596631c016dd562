"""Who is here, as authors ask it: to track, where, for how long, from which thread; and that all nodes agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.channel import Channel
from flask_phoenix.exceptions import AlreadyTracked, InvalidPayload, NotJoined, NotTracked, Refused, Unsupported
from flask_phoenix.presence import Presence
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.server.drain import drain
from flask_phoenix.tracker.server import Presences
from flask_phoenix.tracker.state import Meta
from tests.network import SHORT, Letter, MakeNode, Member, Network, Node, Room, alike, entry, eventually, refs, settle
from tests.processes import DEADLINE
from tests.roads import in_thread

FAILURES = [RuntimeError, gevent.GreenletExit, SystemExit, gevent.Timeout]
#: What no other client could be told.
NO_METAS = [None, 7, "away", [1], b"away", {"n": float("nan")}, {"n": float("inf")}, {"b": b"\x00"}, {"o": object()}]
#: Names that are something else somewhere.
KEYS = ["", " ", "__proto__", "constructor", "hasOwnProperty", "metas", "phx_ref", "1", "ä\n\x00🙂", "a" * 300]

# To track


def test_who_tracks_is_there(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    ref = ada.channel.track("ada", {"device": "phone"})
    there = {"ada": entry(ref, device="phone")}
    assert node.online.list("room:1") == node.online.list(bob.channel) == bob.channel.presences() == there
    assert ada.diffs() == bob.diffs() == [(there, {})]
    assert ada.people == bob.people == there


def test_a_meta_need_not_be_given(node: Node) -> None:
    ada = node.enter()
    refs = [ada.channel.track("ada"), ada.channel.track("eve", {}), node.online.track("room:1", "bob")]
    assert node.online.list("room:1") == dict(zip(["ada", "eve", "bob"], map(entry, refs), strict=True))


def test_nobody_is_there_at_first(node: Node) -> None:
    assert node.online.list("room:1") == {}
    assert node.online.count("room:1") == 0
    assert node.online.get_by_key("room:1", "ada") is None


def test_an_update_is_one_diff(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    old = ada.channel.track("ada", {"device": "phone", "away": False})
    ada.news(), bob.news()
    new = ada.channel.update("ada", {"away": True})
    there = {"ada": entry(new, away=True, phx_ref_prev=old)}
    assert bob.diffs() == ada.diffs() == [(there, {"ada": entry(old, device="phone", away=False)})]
    assert node.online.list("room:1") == ada.people == bob.people == there


def test_an_update_by_a_function(node: Node) -> None:
    ada = node.enter()
    given: list[Any] = []

    def away(meta: dict[str, Any]) -> dict[str, Any]:
        given.append(dict(meta))
        meta["away"] = True
        return meta

    first = ada.channel.track("ada", {"n": 1})
    second = ada.channel.update("ada", away)
    third = node.online.update(ada.channel, "ada", away)
    assert given == [
        {"n": 1, "phx_ref": first},
        {"n": 1, "away": True, "phx_ref": second, "phx_ref_prev": first},
    ]
    assert node.online.list("room:1") == {"ada": entry(third, n=1, away=True, phx_ref_prev=second)}
    assert [refs(leaves) for _, leaves in ada.diffs()] == [{}, {"ada": [first]}, {"ada": [second]}]


def test_who_untracks_is_gone(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    ref = ada.channel.track("ada", {"n": 1})
    ada.channel.untrack("ada")
    ada.channel.untrack("ada")
    bob.channel.untrack("ada")
    node.online.untrack("room:1", "ada")
    assert node.online.list("room:1") == {}
    assert bob.diffs() == [({"ada": entry(ref, n=1)}, {}), ({}, {"ada": entry(ref, n=1)})]
    assert bob.people == {}
    again = ada.channel.track("ada")
    assert bob.people == {"ada": entry(again)}


def test_nobody_is_tracked_twice(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    ref = ada.channel.track("ada", {"n": 1})
    node.online.track("room:1", "eve")
    ada.news()
    for again in (ada.channel.track, lambda key, meta: node.online.track("room:1", "eve", meta)):
        with pytest.raises(AlreadyTracked, match=r"is tracked on 'room:1' already: change its meta with update\(\)"):
            again("ada", {"n": 2})
    assert ada.diffs() == []
    assert node.online.list("room:1")["ada"] == entry(ref, n=1)
    others = [
        bob.channel.track("ada"),
        ada.channel.track("bob"),
        node.online.track("room:1", "ada"),
        node.online.track(ada.channel, "ada", {}, "room:2"),
    ]
    assert refs(node.online.list("room:1"))["ada"] == [ref, others[0], others[2]]


def test_what_is_not_tracked_cannot_be_updated(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    ada.channel.track("ada")
    bob.news()
    ada.channel.track("gone")
    ada.channel.untrack("gone")
    attempts: list[Callable[[], Any]] = [
        lambda: ada.channel.update("eve", {}),
        lambda: ada.channel.update("gone", {}),
        lambda: bob.channel.update("ada", {}),
        lambda: node.online.update("room:1", "ada", {}),
        lambda: node.online.update(ada.channel, "ada", {}, "room:2"),
    ]
    for attempt in attempts:
        with pytest.raises(NotTracked, match=r"is not tracked on 'room:[12]': begin with track\(\)"):
            attempt()
    assert [refs(joins).keys() for joins, _ in bob.diffs()] == [{"gone"}, set()]


@pytest.mark.parametrize("meta", [*NO_METAS, {"s": "\ud800"}])
def test_a_meta_is_a_dict_of_json(node: Node, meta: Any) -> None:
    ada = node.enter(me={"ada": {"n": 1}})
    before = node.online.list("room:1")
    attempts: list[Callable[[], Any]] = [
        lambda: node.online.track(ada.channel, "eve", [] if meta is None else meta),
        lambda: node.online.track("room:1", "eve", [] if meta is None else meta),
        lambda: ada.channel.update("ada", meta),
        lambda: ada.channel.update("ada", lambda old: meta),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidPayload):
            attempt()
    assert node.online.list("room:1") == before
    assert ada.diffs() == []
    ada.channel.track("eve")
    ada.channel.update("ada", {})


def test_what_a_function_of_the_author_raises_changes_nothing(node: Node) -> None:
    ada = node.enter(me={"ada": {}})
    before = node.online.list("room:1")
    with pytest.raises(ZeroDivisionError):
        ada.channel.update("ada", lambda meta: {"n": 1 / 0})
    assert node.online.list("room:1") == before
    assert ada.diffs() == []


def test_metas_are_what_json_makes_of_them(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    node.online.track(ada.channel, "ada", {"at": (1, 2), 7: "seven", "phx_ref": "mine"})
    expected = entry(refs(node.online.list("room:1"))["ada"][0], at=[1, 2], **{"7": "seven"})
    assert node.online.list("room:1") == bob.people == {"ada": expected}
    assert expected["metas"][0]["phx_ref"] != "mine"


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_any_string(node: Node, key: str) -> None:
    ada, bob = node.enter(), node.enter()
    ada.channel.track(key, {"__proto__": {"a": 1}})
    ref = ada.channel.update(key, lambda meta: meta)
    assert list(bob.people) == list(node.online.list("room:1")) == [key]
    assert node.online.get_by_key("room:1", key)["metas"][0]["phx_ref"] == ref
    assert node.enter().people == bob.people
    ada.channel.untrack(key)
    assert bob.people == {}


def test_a_key_is_written_as_a_string(node: Node) -> None:
    ada: Any = node.enter().channel
    ada.track(7)
    ada.update("7", {})
    assert list(node.online.list("room:1")) == ["7"]
    assert node.online.get_by_key(ada, 7) == node.online.get_by_key(ada, "7") != None  # noqa: E711 - three in a row
    ada.untrack(7)
    assert node.online.count("room:1") == 0


@pytest.mark.parametrize(("topic", "key"), [("room:1", "\ud800"), ("\udfff", "ada")])
def test_what_cannot_be_written_is_no_key(node: Node, topic: str, key: str) -> None:
    with pytest.raises(InvalidPayload):
        node.online.track(topic, key)
    assert node.online.list(topic) == {}


@pytest.mark.parametrize("where", [None, 7, b"room:1", object()])
def test_where_is_a_channel_or_a_topic(node: Node, where: Any) -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: node.online.track(where, "ada"),
        lambda: node.online.update(where, "ada", {}),
        lambda: node.online.untrack(where, "ada"),
        lambda: node.online.list(where),
        lambda: node.online.get_by_key(where, "ada"),
        lambda: node.online.count(where),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidPayload, match="expected a channel or the name of a topic, got"):
            attempt()


def test_every_ref_is_another(node: Node) -> None:
    ada, bob = node.enter().channel, node.enter().channel
    given = [track(f"key{number}") for number in range(100) for track in (ada.track, bob.track)]
    given += [ada.update("key7", {}) for _ in range(100)]
    assert len(set(given)) == len(given)
    assert all(isinstance(ref, str) and len(ref) == 16 for ref in given)


def test_what_is_asked_of_one_key(node: Node) -> None:
    ada, bob = node.enter().channel, node.enter().channel
    given = [ada.track("ada", {"n": 1}), bob.track("ada", {"n": 2})]
    bob.track("bob")
    expected = {"metas": [{"n": 1, "phx_ref": given[0]}, {"n": 2, "phx_ref": given[1]}]}
    assert node.online.get_by_key("room:1", "ada") == node.online.get_by_key(ada, "ada") == expected
    assert node.online.list("room:1")["ada"] == expected
    assert (node.online.count("room:1"), node.online.count(ada), node.online.count("room:2")) == (2, 2, 0)


# Copies


def test_what_an_author_does_later_reaches_nobody(node: Node) -> None:
    ada = node.enter().channel
    meta: dict[str, Any] = {"n": 1, "device": {"os": "linux"}}
    ada.track("ada", meta)
    expected = node.enter().people
    meta["n"], meta["device"]["os"] = 2, "other"
    for answer in (node.online.list("room:1"), ada.presences(), {"ada": node.online.get_by_key("room:1", "ada")}):
        answer["ada"]["metas"][0]["device"]["os"] = "other"
        answer["ada"]["metas"][0]["phx_ref"] = "other"
        answer["ada"]["metas"].append({})
        answer["eve"] = {}
    assert node.online.list("room:1") == node.enter().people == expected


def test_what_an_author_makes_of_the_former_meta_reaches_nobody(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    old = ada.channel.track("ada", {"device": {"os": "linux"}})
    bob.news()

    def change(meta: dict[str, Any]) -> dict[str, Any]:
        meta["device"]["os"] = meta["phx_ref"] = "other"
        return meta

    ada.channel.update("ada", change)
    ((joins, leaves),) = bob.diffs()
    assert joins["ada"]["metas"][0]["device"] == {"os": "other"}
    assert leaves == {"ada": entry(old, device={"os": "linux"})}


def test_what_the_hooks_do_to_metas_reaches_nobody(make_node: MakeNode) -> None:
    kept: list[bool] = []

    class Clumsy(Presence):
        def fetch(self, topic: str, presences: Presences) -> Presences:
            for each in presences.values():
                scribble(each["metas"])
            return presences

        def handle_metas(self, topic: str, diff: dict[str, Presences], presences: Mapping[str, Sequence[Meta]]) -> None:
            unlocked: Any = presences
            with pytest.raises(TypeError):
                unlocked["eve"] = ()
            kept.append(all(isinstance(metas, tuple) for metas in presences.values()))
            for metas in presences.values():
                metas[0]["device"]["os"] = "spoiled"
            for side in diff.values():
                for each in side.values():
                    scribble(each["metas"])
            diff.clear()

    def scribble(metas: list[dict[str, Any]]) -> None:
        for meta in metas:
            meta["device"]["os"] = meta["phx_ref"] = "spoiled"
        metas.clear()

    node = make_node(Clumsy)
    ada = node.enter()
    ada.channel.track("ada", {"device": {"os": "linux"}})
    settle()
    node.online.track("room:1", "bob", {"device": {"os": "linux"}})
    settle()
    tracked = node.online.server().tracker.list("room:1")
    assert [meta["device"] for metas in tracked.values() for meta in metas] == [{"os": "linux"}] * 2
    ada.channel.untrack("ada")
    node.online.untrack("room:1", "bob")
    settle()
    assert node.online.list("room:1") == {}
    assert kept == [True] * 4


# Where


def test_a_channel_may_have_several_keys_and_several_channels_one(node: Node) -> None:
    phone, laptop, bob = node.enter(), node.enter(), node.enter()
    first, second = phone.channel.track("ada"), laptop.channel.track("ada")
    eve = phone.channel.track("eve")
    assert refs(bob.people) == {"ada": [first, second], "eve": [eve]}
    phone.channel.untrack("ada")
    assert refs(bob.people) == {"ada": [second], "eve": [eve]}
    phone.tab.leave()
    assert refs(bob.people) == refs(node.online.list("room:1")) == {"ada": [second]}


def test_a_channel_may_be_present_elsewhere(node: Node) -> None:
    ada, lobby = node.enter(), node.enter("lobby")
    here = ada.channel.track("ada")
    there = node.online.track(ada.channel, "ada", {"n": 1}, topic="lobby")
    assert node.online.list("lobby") == lobby.people == {"ada": entry(there, n=1)}
    there = node.online.update(ada.channel, "ada", {"n": 2}, topic="lobby")
    gone = node.online.track(ada.channel, "gone", topic="lobby")
    node.online.untrack(ada.channel, "gone", topic="lobby")
    assert [refs(joins) for joins, _ in lobby.diffs()] == [{"ada": [there]}, {"gone": [gone]}, {}]
    assert refs(ada.people) == {"ada": [here]}
    ada.tab.leave()
    assert node.online.list("lobby") == node.online.list("room:1") == lobby.people == {}


def test_what_is_tracked_by_the_name_of_a_topic_lasts(node: Node) -> None:
    ada = node.enter()
    node.online.track("room:1", "robot", {"n": 1})
    node.online.track("other", "robot")
    node.online.update("room:1", "robot", {"n": 2})
    ada.tab.leave()
    bob = node.enter()
    assert bob.people["robot"]["metas"][0]["n"] == 2
    node.online.untrack("room:1", "robot")
    assert bob.people == {}
    assert list(node.online.list("other")) == ["robot"]


def test_a_topic_may_be_called_anything(node: Node) -> None:
    ada = node.enter()
    for topic in ("", "__proto__", "a\nb", "\x00"):
        ref, own = node.online.track(topic, "robot"), node.online.track(ada.channel, "ada", topic=topic)
        there = {"robot": entry(ref), "ada": entry(own)}
        assert node.online.list(topic) == node.enter(topic).people == there
    assert node.online.list("room:1") == {}


def test_presences_of_an_app_are_apart(node: Node) -> None:
    typing = node.keep(Presence, "Typing")
    ada = node.enter()
    first, second = ada.channel.track("ada"), typing.track(ada.channel, "ada")
    assert (node.online.list("room:1"), typing.list("room:1")) == ({"ada": entry(first)}, {"ada": entry(second)})
    typing.untrack(ada.channel, "ada")
    third = typing.track("room:1", "bob")
    assert (node.online.count("room:1"), refs(typing.list("room:1"))) == (1, {"bob": [third]})
    typing.track(ada.channel, "ada")
    ada.tab.leave()
    assert (node.online.count("room:1"), refs(typing.list("room:1"))) == (0, {"bob": [third]})


# How it ends


def crash(channel: Channel) -> None:
    raise RuntimeError("broken")


ENDS: dict[str, Callable[[Node, Member], Any]] = {
    "leave": lambda node, member: member.say("phx_leave"),
    "closed": lambda node, member: member.tab.leave(),
    "closed from this side": lambda node, member: member.tab.connection.close(1013, "too slow"),
    "disconnected": lambda node, member: node.engine.broadcast(Broadcast("user:7", "disconnect", {})),
    "stop": lambda node, member: member.channel.stop(),
    "stop in a handler": lambda node, member: member.do(lambda channel: channel.stop("shutdown")),
    "stop for a bad reason": lambda node, member: member.channel.stop("broken"),
    "crash": lambda node, member: member.do(crash),
    "crash in handle_info": lambda node, member: member.channel.send(crash),
    "wrong return": lambda node, member: member.do(lambda channel: 7),
}


@pytest.mark.parametrize("end", ENDS)
def test_who_ends_is_gone(node: Node, end: str) -> None:
    bob = node.enter()
    ada = node.enter(me={"ada": {"n": 1}, "eve": {}}, name="user:7")
    node.online.track(ada.channel, "ada", topic="lobby")
    there = bob.people
    assert set(there) == {"ada", "eve"}
    gone = {key: dict(each) for key, each in there.items()}
    ENDS[end](node, ada)
    diffs = bob.diffs()
    assert [joins for joins, _ in diffs] == [{}, {}]
    assert {**diffs[0][1], **diffs[1][1]} == gone
    assert bob.people == node.online.list("room:1") == node.online.list("lobby") == {}


@pytest.mark.parametrize("end", ENDS)
def test_who_cleans_up_is_gone_already(node: Node, end: str) -> None:
    seen: list[Presences] = []

    class Last(Room):
        def terminate(self, reason: Any) -> None:
            seen.append(self.presences())
            self.untrack("ada")

    bob = node.enter()
    ada = node.enter(me={"ada": {}}, name="user:7", kind=Last)
    ENDS[end](node, ada)
    assert len(bob.diffs()) == 2
    assert seen == [{}]


def test_a_join_anew_takes_the_place_of_the_former(node: Node) -> None:
    ada, bob = node.enter(me={"ada": {}}), node.enter()
    former = refs(bob.people)["ada"]
    ada.rejoin()
    ((none, left), (joined, nothing)) = bob.diffs()
    assert (none, refs(left), nothing) == ({}, {"ada": former}, {})
    assert refs(bob.people) == refs(joined) == refs(ada.people) == refs(node.online.list("room:1")) != {"ada": former}


def test_a_drain_lets_everybody_go(node: Node) -> None:
    node.enter(me={"ada": {}})
    node.online.track("room:1", "robot")
    drain(node.engine)
    assert list(node.online.list("room:1")) == ["robot"]


@pytest.mark.parametrize("failure", FAILURES)
def test_who_crashes_behind_the_join_is_gone(node: Node, failure: type[BaseException]) -> None:
    class Hasty(Room):
        def after_join(self) -> None:
            self.track("ada")
            raise failure()

    bob = node.enter()
    node.enter(kind=Hasty)
    assert [(list(joins), list(leaves)) for joins, leaves in bob.diffs()] == [(["ada"], []), ([], ["ada"])]
    assert bob.people == node.online.list("room:1") == {}


@pytest.mark.parametrize("then", ["in", "crash", "refuse"])
def test_nobody_is_tracked_before_the_join_is_over(node: Node, then: str) -> None:
    raised: list[BaseException] = []

    class Hasty(Room):
        def join(self, payload: Any) -> Any:
            attempts: list[Callable[[], Any]] = [
                lambda: self.track("ada"),
                lambda: node.online.track(self, "ada", topic="lobby"),
                lambda: self.update("ada", {}),
            ]
            for attempt in attempts:
                with pytest.raises((NotJoined, NotTracked)) as caught:
                    attempt()
                raised.append(caught.value)
            self.untrack("ada")
            if then == "crash":
                raise RuntimeError("broken")
            if then == "refuse":
                raise Refused("no")
            return super().join(payload)

    bob = node.enter()
    node.enter(kind=Hasty)
    assert [type(error) for error in raised] == [NotJoined, NotJoined, NotTracked]
    assert "after_join(self)" in str(raised[0])
    assert bob.diffs() == []
    assert node.online.list("room:1") == node.online.list("lobby") == {}


@pytest.mark.parametrize("end", ["leave", "crash", "refuse"])
def test_who_tracks_while_it_cleans_up_is_gone(node: Node, end: str, caplog: pytest.LogCaptureFixture) -> None:
    done: list[Any] = []

    class Late(Room):
        def join(self, payload: Any) -> Any:
            super().join(payload)
            if end == "refuse":
                raise Refused("no")

        def terminate(self, reason: Any) -> None:
            done.append(self.track("late"))

    late = node.enter(kind=Late)
    if end == "leave":
        late.say("phx_leave")
    elif end == "crash":
        late.do(crash)
    settle()
    assert node.online.list("room:1") == {}
    assert len(done) == (0 if end == "refuse" else 1)
    assert ("NotJoined" in caplog.text) is (end == "refuse")


def test_who_tracks_when_it_has_ended_is_not_there(node: Node) -> None:
    ada, bob = node.enter(me={"ada": {}}), node.enter()
    gate, done = Event(), list[Any]()

    def act(channel: Channel) -> None:
        assert gate.wait(DEADLINE)
        channel.untrack("ada")
        done.append(channel.track("ada"))
        done.append(node.online.track(channel, "ada", topic="lobby"))
        with pytest.raises(NotTracked):
            channel.update("ada", {})

    ada.do(act)
    settle()
    ada.tab.leave()
    bob.news()
    gate.set()
    assert bob.diffs() == []
    assert [type(ref) for ref in done] == [str, str]
    assert bob.people == node.online.list("room:1") == node.online.list("lobby") == {}


def test_who_ends_within_an_update_is_gone(node: Node) -> None:
    ada, bob = node.enter(me={"ada": {}}), node.enter()
    gate, raised = Event(), list[type[BaseException]]()

    def wait(meta: dict[str, Any]) -> dict[str, Any]:
        assert gate.wait(DEADLINE)
        return {"n": 1}

    def act(channel: Channel) -> None:
        try:
            channel.update("ada", wait)
        except NotTracked as error:
            raised.append(type(error))

    ada.do(act)
    settle()
    ada.tab.leave()
    bob.news()
    gate.set()
    assert bob.diffs() == []
    assert bob.people == node.online.list("room:1") == {}
    assert raised == [NotTracked]


def test_of_two_updates_at_once_one_stays(node: Node) -> None:
    bob, gate = node.enter(), Event()
    node.online.track("room:1", "robot", {"n": 0})

    def wait(meta: dict[str, Any]) -> dict[str, Any]:
        assert gate.wait(DEADLINE)
        return {"n": 1}

    slow = gevent.spawn(node.online.update, "room:1", "robot", wait)
    settle()
    node.online.update("room:1", "robot", {"n": 2})
    gate.set()
    slow.get(timeout=DEADLINE)
    assert [meta["n"] for meta in node.online.list("room:1")["robot"]["metas"]] == [1]
    assert bob.people == node.online.list("room:1")
    node.online.untrack("room:1", "robot")
    assert bob.people == node.online.list("room:1") == {}


@pytest.mark.parametrize("then", ["untrack", "update", "track anew"])
def test_a_function_may_change_what_it_is_called_for(node: Node, then: str) -> None:
    ada = node.enter(me={"ada": {"n": 0}})

    def change(meta: dict[str, Any]) -> dict[str, Any]:
        if then == "update":
            ada.channel.update("ada", {"n": 1})
        else:
            ada.channel.untrack("ada")
        if then == "track anew":
            ada.channel.track("ada", {"n": 1})
        return {"n": 2}

    if then == "untrack":
        with pytest.raises(NotTracked):
            ada.channel.update("ada", change)
        assert node.online.list("room:1") == ada.people == {}
        return
    ada.channel.update("ada", change)
    assert [meta["n"] for meta in node.online.list("room:1")["ada"]["metas"]] == [2]
    assert ada.people == node.online.list("room:1")
    ada.channel.untrack("ada")
    assert ada.people == node.online.list("room:1") == {}


# Threads


def test_another_thread_changes_nothing(node: Node) -> None:
    ada = node.enter(me={"ada": {}})
    ada.news()
    before = node.online.list("room:1")
    attempts: list[Callable[[], Any]] = [
        lambda: node.online.track("room:1", "eve"),
        lambda: node.online.track(ada.channel, "eve"),
        lambda: ada.channel.track("eve"),
        lambda: ada.channel.update("ada", {"n": 1}),
        lambda: ada.channel.untrack("ada"),
        lambda: node.online.untrack("room:1", "ada"),
    ]
    for attempt in attempts:
        with pytest.raises(Unsupported, match=r"from another one, tell a channel to do it \(channel\.send\)"):
            in_thread(attempt)
    assert ada.news() == []
    assert node.online.list("room:1") == before
    ada.channel.track("eve")
    assert len(ada.diffs()) == 1


def test_another_thread_tells_a_channel(node: Node) -> None:
    ada = node.enter()
    in_thread(ada.channel.send, lambda channel: channel.track("ada"))
    assert len(ada.diffs()) == 1


# Several nodes


def test_people_of_a_node_that_vanishes_leave_and_are_back_with_it(make_node: MakeNode) -> None:
    network = Network()
    here, there = [make_node(Presence, network, SHORT) for _ in range(2)]
    bob = here.enter()
    ref = there.online.track("room:1", "ada")
    eventually(lambda: bool(here.online.count("room:1")))
    network.part(there.adapter)
    eventually(lambda: not here.online.count("room:1"))
    assert bob.people == {}
    assert list(there.online.list("room:1")) == ["ada"]
    network.heal()
    eventually(lambda: bool(here.online.count("room:1")))
    assert bob.people == there.online.list("room:1") == {"ada": entry(ref)}
    assert list(here.online.list("room:1")) == ["ada"]


class Story:
    """Three nodes and their clients, who come and go as chance will have it, over a network that loses much."""

    def __init__(self, seed: int, make_node: MakeNode) -> None:
        self.random, self.network = Random(seed), Network()
        self.nodes = [make_node(Presence, self.network, SHORT) for _ in range(3)]
        self.watchers = [node.enter() for node in self.nodes]
        self.members: list[Member] = []
        self.network.copies = self._copies

    def tell(self, steps: int) -> None:
        """Let things happen."""
        deeds = [
            self.come,
            self.come,
            self.go,
            self.change,
            self.change,
            self.robot,
            self.part,
            self.wait,
            self.shuffle,
        ]
        for _ in range(steps):
            self.random.choice(deeds)()

    def come(self) -> None:
        node, names = self.random.choice(self.nodes), self.random.sample("abcdef", 2)
        self.members.append(node.enter(me={name: {"n": self.random.random()} for name in names}))

    def go(self) -> None:
        if self.members:
            member = self.members.pop(self.random.randrange(len(self.members)))
            ENDS[self.random.choice(["leave", "closed", "stop", "crash"])](self.nodes[0], member)

    def change(self) -> None:
        if self.members:
            member = self.random.choice(self.members)
            key = self.random.choice("abcdef")
            try:
                member.channel.track(key)
            except AlreadyTracked:
                if self.random.random() < 0.5:
                    member.channel.untrack(key)
                else:
                    member.channel.update(key, lambda meta: {"n": self.random.random()})

    def robot(self) -> None:
        node = self.random.choice(self.nodes)
        try:
            node.online.track("room:1", "robot")
        except AlreadyTracked:
            node.online.untrack("room:1", "robot")

    def part(self) -> None:
        self.network.heal()
        if self.random.random() < 0.6:
            self.network.part(self.random.choice(self.nodes).adapter)

    def wait(self) -> None:
        gevent.wait(timeout=self.random.choice([0.0, SHORT / 10, SHORT / 2, SHORT * 1.5]))

    def shuffle(self) -> None:
        self.network.release(lambda letters: self.random.sample(letters, len(letters)))
        self.network.holding = self.random.random() < 0.3

    def end(self) -> None:
        """Let the network work again."""
        self.network.copies = lambda letter: 1
        self.network.heal()
        self.network.holding = False
        self.network.release()

    def agreed(self) -> bool:
        """Whether all nodes tell the same, and no less than there is."""
        lists = [node.online.list("room:1") for node in self.nodes]
        mine = {ref for node in self.nodes for ref in self.own(node)}
        return alike(*lists) and mine == {ref for each in refs(lists[0]).values() for ref in each}

    def own(self, node: Node) -> set[str]:
        """Return the refs that a node alone speaks for, by what it would tell a newcomer."""
        tracker = node.online.server().tracker
        ((_, state),) = [
            letter
            for letter in tracker.receive([1, "ask", "newcomer", 0, tracker.node], 0.0)[1]
            if letter[1][1] == "state"
        ]
        return {meta["phx_ref"] for keys in state[4].values() for metas in keys.values() for meta in metas}

    def _copies(self, letter: Letter) -> int:
        return self.random.choice([0, 0, 1, 1, 1, 2])


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_all_agree_in_the_end(seed: int, make_node: MakeNode) -> None:
    story = Story(seed, make_node)
    story.tell(40)
    for watcher in story.watchers:
        watcher.news()
    story.end()
    eventually(story.agreed)
    settle()
    people = [member.people for member in [*story.watchers, *story.members]]
    assert alike(*people, *(node.online.list("room:1") for node in story.nodes))
    for member in story.members:
        member.tab.leave()
    for node in story.nodes:
        if "robot" in node.online.list("room:1"):
            node.online.untrack("room:1", "robot")
    eventually(lambda: not any(node.online.list("room:1") for node in story.nodes))
    assert [watcher.people for watcher in story.watchers] == [{}] * 3
