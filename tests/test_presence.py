"""Presences in one process: to track, where, for how long, from which thread, and what clients are told when."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix import Channel, Refused, intercept
from flask_phoenix.exceptions import AlreadyTracked, InvalidPayload, NotJoined, NotTracked, PhoenixError, Unsupported
from flask_phoenix.server.drain import drain
from flask_phoenix.tracker import server
from flask_phoenix.tracker.server import MAX_META_DEPTH
from flask_phoenix.tracker.state import Entry
from tests.support.clients import Site
from tests.support.loop import in_thread
from tests.support.presence import Member, Node, Room, entry, nested, raised, refs, settle
from tests.support.processes import DEADLINE

#: What no other client could be told.
NO_METAS = [7, "away", [1], b"away", {"n": float("nan")}, {"b": b"\x00"}, {"o": object()}, {"s": "\ud800"}]
#: Names that are something else somewhere.
KEYS = ["", " ", "__proto__", "constructor", "metas", "phx_ref", 7, "ä\n\x00🙂", "a" * 300]


class Slow(dict[str, Any]):
    """A meta that takes its time to be read."""

    def items(self) -> Any:
        gevent.sleep(0)
        return super().items()


# To track


def test_clients_follow_who_is_present(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    old = ada.channel.track("ada", {"device": "phone"})
    there = {"ada": entry(old, device="phone")}
    assert ada.diffs() == bob.diffs() == [(there, {})]
    assert ada.people == bob.people == node.enter().people == node.online.list("room:1") == there
    new = ada.channel.update("ada", {"away": True})
    now = {"ada": entry(new, away=True, phx_ref_prev=old)}
    assert ada.diffs() == bob.diffs() == [(now, there)]
    assert bob.people == node.online.list(bob.channel) == bob.channel.presences() == now
    ada.channel.untrack("ada")
    assert ada.diffs() == bob.diffs() == [({}, now)]
    assert bob.people == node.online.list("room:1") == {}
    assert list(node.online.list("room:2")) == []


def test_a_function_may_make_the_meta_of_the_former_one(node: Node) -> None:
    ada = node.enter()
    given: list[Any] = []

    def away(meta: dict[str, Any]) -> dict[str, Any]:
        given.append(dict(meta))
        meta["device"]["away"] = meta["phx_ref"] = True
        return meta

    first = ada.channel.track("ada", {"device": {}})
    second = ada.channel.update("ada", away)
    third = node.online.update(ada.channel, "ada", lambda meta: meta)
    assert given == [{"device": {"away": True}, "phx_ref": first}]
    tracked, updated, again = ada.diffs()
    assert tracked == ({"ada": entry(first, device={})}, {})
    there = {"ada": entry(second, device={"away": True}, phx_ref_prev=first)}
    assert updated == (there, tracked[0]), "what the function changed is not what left"
    assert again == ({"ada": entry(third, device={"away": True}, phx_ref_prev=second)}, there)
    with pytest.raises(ZeroDivisionError):
        ada.channel.update("ada", lambda meta: {"n": 1 / 0})
    assert ada.diffs() == []
    assert node.online.list("room:1") == again[0]


def test_a_channel_is_present_once_under_each_key(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    given = [ada.channel.track("ada"), bob.channel.track("ada"), node.online.track("room:1", "ada")]
    attempts: list[Callable[[], Any]] = [
        lambda: ada.channel.track("ada", {"n": 2}),
        lambda: node.online.track("room:1", "ada", {"n": 2}),
    ]
    for attempt in attempts:
        with pytest.raises(AlreadyTracked, match=r"is tracked on 'room:1' already: change its meta with update\(\)"):
            attempt()
    eve = ada.channel.track("eve")
    assert refs(bob.people) == refs(node.online.list("room:1")) == {"ada": given, "eve": [eve]}
    assert refs({"ada": node.online.get_by_key(ada.channel, "ada")}) == {"ada": given}
    assert node.online.get_by_key("room:1", "nobody") is None
    assert (node.online.count("room:1"), node.online.count(ada.channel), node.online.count("room:2")) == (2, 2, 0)
    ada.channel.untrack("ada")
    ada.leave()
    assert refs(bob.people) == refs(node.online.list("room:1")) == {"ada": given[1:]}


def test_track_or_update(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    first = ada.channel.track_or_update("ada", {"n": 1})
    own = bob.channel.track_or_update("ada")
    second = ada.channel.track_or_update("ada", {"n": 2})
    meta = {"n": 2, "phx_ref": second, "phx_ref_prev": first}
    settle()
    assert sorted(refs(bob.people)["ada"]) == sorted([own, second])
    assert meta in node.online.list("room:1")["ada"]["metas"]
    with pytest.raises(InvalidPayload, match="a meta is a dict"):
        ada.channel.track_or_update("ada", 7)  # type: ignore[arg-type]
    ada.leave()
    settle()
    assert refs(node.online.list("room:1")) == {"ada": [own]}


def test_what_is_not_tracked_cannot_be_updated(node: Node) -> None:
    ada, bob = node.enter(me={"ada": {}, "gone": {}}), node.enter()
    ada.channel.untrack("gone")
    bob.news()
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
    for untrack in (ada.channel.untrack, bob.channel.untrack, lambda key: node.online.untrack("room:1", key)):
        untrack("gone")
    assert bob.diffs() == []


@pytest.mark.parametrize("meta", NO_METAS)
def test_a_meta_is_a_dict_of_json(node: Node, meta: Any) -> None:
    ada = node.enter(me={"ada": {"n": 1}})
    before = node.online.list("room:1")
    attempts: list[Callable[[], Any]] = [
        lambda: node.online.track(ada.channel, "eve", meta),
        lambda: node.online.track("room:1", "eve", meta),
        lambda: ada.channel.update("ada", meta),
        lambda: ada.channel.update("ada", lambda old: meta),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidPayload):
            attempt()
    assert node.online.list("room:1") == before
    assert ada.diffs() == []


@pytest.mark.parametrize("levels", [MAX_META_DEPTH + 1, 490, 499, 513, 5000])
def test_a_meta_is_no_deeper_than_everybody_can_be_told(node: Node, levels: int) -> None:
    ada, meta = node.enter(me={"ada": {}}).channel, nested(levels)
    for error in (raised(node.online.track, "room:1", "eve", meta), raised(ada.update, "ada", meta)):
        assert isinstance(error, InvalidPayload)
        assert f"a meta is JSON of at most {MAX_META_DEPTH} levels" in str(error)


def test_what_happens_while_a_meta_is_read_counts(node: Node) -> None:
    twice = [gevent.spawn(node.online.track, "room:1", "ada", Slow(n=n)) for n in (1, 2)]
    for each in twice:
        each.rawlink(lambda done: done.exception)
    gevent.joinall(twice, DEADLINE)
    assert [type(each.exception) for each in twice] == [type(None), AlreadyTracked]
    node.online.untrack("room:1", "ada")
    assert node.present() == []
    node.online.track("room:1", "ada")
    updating = gevent.spawn(raised, node.online.update, "room:1", "ada", Slow(n=3))
    gevent.sleep(0)
    node.online.untrack("room:1", "ada")
    assert isinstance(updating.get(timeout=DEADLINE), NotTracked)
    assert node.present() == []


def test_clients_of_each_transport_and_version_follow(site: Site) -> None:
    online = site.phoenix.presence()

    class Lobby(Channel):
        presence = online

        def join(self, payload: Any) -> None:
            pass

        def after_join(self) -> None:
            self.track(self.params["user"], nested(MAX_META_DEPTH))
            self.push("presence_state", self.presences())

    ada = site.enter(Lobby, user="ada")
    there = online.list("room:1")
    ada.hears(["1", None, "room:1", "presence_state", there])
    ada.hears([None, None, "room:1", "presence_diff", {"joins": there, "leaves": {}}])
    bob = site.connect(user="bob")
    bob.join()
    joined = {"bob": online.get_by_key("room:1", "bob")}
    bob.hears(["1", None, "room:1", "presence_state", {**there, **joined}])
    bob.hang_up()
    ada.hears([None, None, "room:1", "presence_diff", {"joins": joined, "leaves": {}}])
    ada.hears([None, None, "room:1", "presence_diff", {"joins": {}, "leaves": joined}])


def test_metas_are_what_json_makes_of_them(node: Node) -> None:
    ada, meta = node.enter(), {"at": (1, 2), 7: "seven", "phx_ref": "mine", "deep": {"n": 1}}
    ref = node.online.track(ada.channel, "ada", meta)
    meta["deep"] = meta["at"] = "changed later"
    assert len(ref) == 16
    assert node.online.list("room:1") == ada.people == {"ada": entry(ref, at=[1, 2], deep={"n": 1}, **{"7": "seven"})}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_any_string(node: Node, key: Any) -> None:
    ada, bob = node.enter(), node.enter()
    ada.channel.track(key, {"__proto__": {"a": 1}})
    ref = ada.channel.update(key, lambda meta: meta)
    assert list(bob.people) == list(node.enter().people) == list(node.online.list("room:1")) == [str(key)]
    assert node.online.get_by_key("room:1", key)["metas"][0]["phx_ref"] == ref
    ada.channel.untrack(key)
    assert bob.people == {}


@pytest.mark.parametrize(("topic", "key"), [("room:1", "\ud800"), ("\udfff", "ada")])
def test_what_cannot_be_written_is_no_name(node: Node, topic: str, key: str) -> None:
    with pytest.raises(InvalidPayload):
        node.online.track(topic, key)
    assert node.online.list(topic) == {}


@pytest.mark.parametrize("call", ["track", "update", "untrack", "list", "get_by_key", "count"])
def test_where_is_a_channel_or_a_topic(node: Node, call: str) -> None:
    assert isinstance(raised(node.online.track, "room:1", "ada", {}, 7), InvalidPayload)
    arguments = {"list": [], "count": [], "update": ["ada", {}]}.get(call, ["ada"])
    for where in (None, 7, b"room:1", object()):
        with pytest.raises(InvalidPayload, match="expected a channel or the name of a topic, got"):
            getattr(node.online, call)(where, *arguments)


def test_an_answer_is_the_callers_own(node: Node) -> None:
    ada = node.enter(me={"ada": {"device": {"os": [{"name": "linux"}]}}}).channel
    before = node.enter().people
    for answer in (node.online.list("room:1"), ada.presences(), {"ada": node.online.get_by_key("room:1", "ada")}):
        answer["ada"]["metas"][0]["device"]["os"][0]["name"] = answer["ada"]["metas"][0]["phx_ref"] = "other"
        answer["ada"]["metas"].append({})
        answer["eve"] = {}
    assert node.online.list("room:1") == node.enter().people == before


# Where


def test_a_channel_may_be_present_elsewhere_and_so_may_the_process(node: Node) -> None:
    ada, lobby = node.enter(me={"ada": {}}), node.enter("lobby")
    node.online.track("lobby", "robot", {"n": 1})
    robot = node.online.update("lobby", "robot", {"n": 2})
    node.online.track(ada.channel, "ada", {"n": 1}, topic="lobby")
    there = node.online.update(ada.channel, "ada", {"n": 2}, topic="lobby")
    node.online.track(ada.channel, "gone", topic="lobby")
    node.online.untrack(ada.channel, "gone", topic="lobby")
    assert refs(lobby.people) == refs(node.online.list("lobby")) == {"robot": [robot], "ada": [there]}
    assert list(ada.people) == ["ada"]
    ada.leave()
    assert refs(lobby.people) == {"robot": [robot]}
    assert (node.present("lobby"), node.present()) == (["robot"], [])
    node.online.untrack("lobby", "robot")
    assert lobby.people == {}


def test_presences_of_an_app_are_apart(node: Node) -> None:
    typing, ada = node.phoenix.presence(name="typing"), node.enter()
    ada.channel.track("ada")
    typing.track(ada.channel, "ada")
    node.online.untrack(ada.channel, "ada")
    typing.track("room:1", "bob")
    assert (node.present(), list(typing.list("room:1"))) == ([], ["ada", "bob"])
    node.online.track(ada.channel, "ada")
    ada.leave()
    assert (node.present(), list(typing.list("room:1"))) == ([], ["bob"])


# How long


def crash(channel: Channel) -> None:
    raise RuntimeError("broken")


ENDS: dict[str, Callable[[Node, Member], Any]] = {
    "leave": lambda node, member: member.say("phx_leave"),
    "closed": lambda node, member: member.leave(),
    "closed from this side": lambda node, member: member.client.connection.close(1013, "too slow"),
    "disconnected": lambda node, member: node.phoenix.disconnect("user:7"),
    "stop": lambda node, member: member.channel.stop(),
    "stop in a handler": lambda node, member: member.do(lambda channel: channel.stop("shutdown")),
    "stop for a bad reason": lambda node, member: member.channel.stop("broken"),
    "crash": lambda node, member: member.do(crash),
    "crash in handle_info": lambda node, member: member.channel.send(crash),
    "wrong return": lambda node, member: member.do(lambda channel: 7),
}


class Last(Room):
    """Tracks while it cleans up, and remembers who is present then."""

    def terminate(self, reason: Any) -> None:
        self.assigns["member"].last = self.presences()
        self.untrack("ada")
        self.track("late")


@pytest.mark.parametrize("end", ENDS)
def test_a_presence_ends_with_its_channel(node: Node, end: str) -> None:
    bob = node.enter()
    ada: Any = node.enter(me={"ada": {"n": 1}, "eve": {}}, name="user:7", kind=Last)
    node.online.track(ada.channel, "ada", topic="lobby")
    there = node.online.list("room:1")
    assert bob.people == there
    ENDS[end](node, ada)
    assert bob.diffs() == [({}, there)]  # both in one
    assert ada.last == {}, "it is gone when terminate runs"
    assert node.present() == node.present("lobby") == []


def test_a_drain_ends_the_presences_of_all_channels(node: Node) -> None:
    node.enter(me={"ada": {}})
    node.online.track("room:1", "robot")
    drain(node.engine)
    assert node.present() == ["robot"]


def test_a_join_anew_replaces_the_former_presence(node: Node) -> None:
    ada, bob = node.enter(me={"ada": {}}), node.enter()
    former = refs(bob.people)
    ada.join()
    ((_, left), (joined, _)) = bob.diffs()
    assert refs(left) == former
    assert refs(bob.people) == refs(joined) == refs(ada.people) == refs(node.online.list("room:1")) != former


@pytest.mark.parametrize("then", [None, RuntimeError("broken"), Refused("no")])
def test_nobody_is_present_before_the_join_is_over(node: Node, then: Exception | None) -> None:
    errors: list[PhoenixError] = []

    class Hasty(Room):
        def join(self, payload: Any) -> Any:
            errors.append(raised(self.track, "ada"))
            errors.append(raised(node.online.track, self, "ada", {}, "lobby"))
            errors.append(raised(self.update, "ada", {}))
            self.untrack("ada")
            if then is not None:
                raise then
            return super().join(payload)

        def terminate(self, reason: Any) -> None:
            if reason == "shutdown":  # after a refused join
                errors.append(raised(self.track, "ada"))

    bob = node.enter()
    node.enter(kind=Hasty)
    expected = [NotJoined, NotJoined, NotTracked, *([NotJoined] if isinstance(then, Refused) else [])]
    assert [type(error) for error in errors] == expected
    assert "after_join(self)" in str(errors[0])
    assert bob.diffs() == []
    assert node.present() == node.present("lobby") == []


def test_a_channel_that_has_ended_is_not_present(node: Node) -> None:
    ada, bob, gate, done = node.enter(me={"ada": {}}), node.enter(), Event(), list[Any]()

    def wait(meta: dict[str, Any]) -> dict[str, Any]:
        assert gate.wait(DEADLINE)
        return {"n": 1}

    def act(channel: Channel) -> None:
        done.append(raised(channel.update, "ada", wait))
        channel.untrack("ada")
        done.append(channel.track("ada"))
        done.append(node.online.track(channel, "ada", topic="lobby"))
        done.append(raised(channel.update, "ada", {}))

    ada.do(act)
    settle()
    ada.leave()
    bob.news()
    gate.set()
    assert bob.diffs() == []
    assert [type(ref) for ref in done] == [NotTracked, str, str, NotTracked]
    assert bob.people == node.online.list("room:1") == node.online.list("lobby") == {}


def test_nothing_is_kept_of_channels_that_have_ended(node: Node) -> None:
    gone = []
    for _ in range(3):
        member = node.enter(me={"ada": {"marked": True}})
        gone.append(weakref.ref(member.channel))
        member.channel.update("ada", lambda meta: meta)
        node.online.track("room:1", "robot", {"marked": True})
        node.online.untrack("room:1", "robot")
        member.leave()
        node.members.remove(member)
        del member
    settle()
    gc.collect()
    assert [each() for each in gone] == [None] * 3
    assert [each for each in gc.get_objects() if type(each) is Entry and "marked" in each.meta] == []


def test_a_process_that_serves_again_begins_with_nobody(node: Node) -> None:
    node.online.track("room:1", "robot")
    node.engine.stop()
    bob = node.enter()
    assert bob.people == node.online.list("room:1") == {}
    with pytest.raises(NotTracked):
        node.online.update("room:1", "robot", {})
    node.online.track("room:1", "robot")
    assert bob.changes() == [("robot", "")]


def test_a_large_state_is_copied_in_parts_and_true_in_the_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "COPIES_PER_TURN", 1)
    node.enter(me={"ada": {}, "bob": {}, "cid": {}})
    looking = gevent.spawn(node.online.list, "room:1")
    gevent.sleep(0)  # it has begun
    assert not looking.ready()
    node.online.track("room:1", "dee")
    node.online.track("room:1", "ada")
    before = node.online.get_by_key("room:1", "ada")
    state = looking.get(timeout=DEADLINE)
    assert list(state) == ["ada", "bob", "cid", "dee"]
    assert state["ada"] == before


# From which thread


def test_another_thread_may_look_and_changes_nothing(node: Node) -> None:
    ada = node.enter(me={"ada": {}})
    ada.news()
    before = node.online.list("room:1")
    attempts: list[Callable[[], Any]] = [
        lambda: node.online.track("room:1", "eve"),
        lambda: ada.channel.track("eve"),
        lambda: ada.channel.update("ada", {"n": 1}),
        lambda: ada.channel.untrack("ada"),
        lambda: node.online.untrack("room:1", "ada"),
    ]
    for attempt in attempts:
        with pytest.raises(Unsupported, match=r"from another one, tell a channel to do it \(channel\.send\)"):
            in_thread(attempt)
    assert ada.news() == []
    assert in_thread(node.online.list, "room:1") == node.online.list("room:1") == before
    assert in_thread(node.online.count, "room:1") == 1
    in_thread(ada.channel.send, lambda channel: channel.track("eve"))
    assert ada.changes() == [("eve", "")]


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_another_thread_sees_a_list_while_it_changes(node: Node, switching: None) -> None:
    for key in ("ada", *map(str, range(100))):
        node.online.track("room:1", key)
    looking = gevent.spawn(in_thread, lambda: [len(node.online.list("room:1")["ada"]["metas"]) for _ in range(1000)])
    while not looking.ready():
        node.online.update("room:1", "ada", {})
        node.online.track("room:1", "bob")
        node.online.untrack("room:1", "bob")
        gevent.sleep(0)
    assert set(looking.get()) <= {1, 2}, "in the middle of an update, both or one"


# In which order


@pytest.mark.parametrize("stream", [True, False])
def test_the_state_comes_before_the_own_diff(node: Node, stream: bool) -> None:
    member = Member(node, "room:1", {"ada": {}, "eve": {}}, stream=stream)
    node.members.append(member)
    reply, state, *diffs = member.news()
    assert reply[0] == "phx_reply"
    assert state == ["presence_state", node.online.list("room:1")]
    assert [list(diff[1]["joins"]) for diff in diffs] == [["ada", "eve"]]
    assert member.people == state[1]


def test_each_change_is_a_diff_and_they_keep_their_order(node: Node) -> None:
    ada, bob = node.enter(), node.enter()
    given = [ada.channel.track("ada", {"n": 0}), *(ada.channel.update("ada", {"n": n}) for n in range(1, 5))]
    ada.channel.untrack("ada")
    ada.channel.track("ada", {"n": 5})
    diffs = bob.diffs()
    assert [joins["ada"]["metas"][0]["n"] if joins else None for joins, _ in diffs] == [*range(5), None, 5]
    assert [leaves["ada"]["metas"][0]["phx_ref"] for _, leaves in diffs if leaves] == given


def test_a_diff_comes_after_what_was_said_before_and_before_what_is_said_later(node: Node) -> None:
    ada, bob = node.enter(), node.enter()

    def act(channel: Channel) -> Any:
        channel.broadcast("before", {})
        channel.track("ada")
        gevent.sleep(0)
        channel.broadcast("after", {})

    ada.do(act)
    assert [event for event, _ in bob.news()] == ["before", "presence_diff", "after"]


def test_each_receiver_of_a_diff_has_its_own(node: Node) -> None:
    def spoil(payload: Any) -> list[str]:
        return [key for key in list(payload["joins"]) if payload["joins"].pop(key)["metas"].clear() is None]

    class Shy(Room):
        @intercept("presence_diff")
        def count(self, payload: Any) -> None:
            self.push("people", {"joined": spoil(payload)})

    shy, shy_too, bob, stranger = *(node.enter(kind=Shy) for _ in range(2)), node.enter(), node.enter("room:2")
    heard = list[Any]()
    ends = [node.phoenix.tap(lambda broadcast: heard.append((broadcast.topic, spoil(broadcast.payload))))]
    ends += [node.phoenix.subscribe("room:1", lambda broadcast: heard.append(spoil(broadcast.payload)))]
    node.online.track("room:1", "ada")
    assert shy.news() == shy_too.news() == [["people", {"joined": ["ada"]}]]
    assert sorted(heard, key=str) == [("room:1", ["ada"]), ["ada"]]
    assert bob.people == node.online.list("room:1")
    assert stranger.news() == []
    for end in ends:
        end()
