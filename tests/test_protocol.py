"""The rules for one client: frames spelled out, in every situation that the protocol decides."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidMessage, InvalidPayload
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Frame, Message, Reply
from flask_phoenix.protocol.serializers import V1Serializer, V2Serializer
from flask_phoenix.protocol.state import (
    JOIN_CRASHED,
    OK,
    Answered,
    Event,
    Held,
    JoinReceived,
    LeaveReceived,
    Membership,
    MessageReceived,
    Protocol,
    Status,
)

V1, V2 = V1Serializer(Json()), V2Serializer(Json())

YES = {"status": "ok", "response": {}}
UNMATCHED = {"status": "error", "response": {"reason": "unmatched topic"}}
TOO_MANY = {"status": "error", "response": {"reason": "too many channels joined"}}


def route(topic: str) -> str | None:
    """Know rooms, and nothing else."""
    return "a room" if topic.startswith("room:") else None


@pytest.fixture
def protocol() -> Protocol:
    return Protocol(V2, route)


def say(protocol: Protocol, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any = None) -> Event | None:
    """Give a protocol a frame of vsn 2.0.0."""
    return protocol.receive(json.dumps([join_ref, ref, topic, event, payload]))


def ask(protocol: Protocol, topic: str = "room:1", join_ref: Any = "1", ref: Any = "1") -> JoinReceived:
    """Ask to join."""
    event = say(protocol, join_ref, ref, topic, "phx_join", {})
    assert isinstance(event, JoinReceived)
    return event


def join(protocol: Protocol, topic: str = "room:1", join_ref: Any = "1", ref: Any = "1") -> Membership:
    """Join, and be let in."""
    asked = ask(protocol, topic, join_ref, ref)
    protocol.accept(asked, OK)
    return asked.membership


def read(frame: Frame) -> Any:
    """Read a frame of text: the order of keys does not matter."""
    assert isinstance(frame, str)
    return json.loads(frame)


def answer(event: Event | None) -> Any:
    """Read what the protocol answers by itself."""
    assert isinstance(event, Answered)
    return read(event.frame)


def test_a_heartbeat_is_answered_while_its_topic_is_joined_and_joining() -> None:
    protocol = Protocol(V2, lambda topic: topic)
    asked = ask(protocol, "phoenix")
    assert answer(say(protocol, None, "2", "phoenix", "heartbeat"))[1] == "2"
    protocol.accept(asked, OK)
    assert answer(say(protocol, "1", "3", "phoenix", "heartbeat"))[1] == "3"
    assert isinstance(say(protocol, "1", "4", "phoenix", "other"), MessageReceived)


# Joins


def test_j6_one_join_too_many(protocol: Protocol) -> None:
    members = [join(protocol, f"room:{number}", str(number), str(number)) for number in range(99)]
    ask(protocol, "room:99")  # one that is not over counts
    event = say(protocol, "100", "101", "room:100", "phx_join", {})
    assert answer(event) == ["100", "101", "room:100", "phx_reply", TOO_MANY]
    assert isinstance(event, Answered)
    assert "'room:100'" in str(event.problem)
    assert "max_channels" in str(event.problem)
    assert answer(say(protocol, "2", "2", "nope", "phx_join", {}))[4] == UNMATCHED
    assert ask(protocol, "room:7", "102", "102").replaced is members[7]  # joined anew at the limit
    protocol.forget(members[8])
    assert ask(protocol, "room:100").replaced is None


def test_j7_a_duplicate_join_replaces_the_older_one(protocol: Protocol) -> None:
    old = join(protocol, join_ref="11", ref="1")
    asked = ask(protocol, join_ref="12", ref="2")
    assert asked.replaced is old
    assert read(protocol.accept(asked, OK)) == ["12", "2", "room:1", "phx_reply", YES]
    assert read(protocol.close(old)) == ["11", "11", "room:1", "phx_close", {}]
    protocol.forget(old)
    event = say(protocol, "12", "3", "room:1", "e", {})
    assert isinstance(event, MessageReceived)
    assert event.membership is asked.membership
    assert say(protocol, "11", "4", "room:1", "e", {}) is None
    assert say(protocol, "11", "5", "room:1", "phx_leave", {}) is None


def test_j7_the_older_one_is_gone_when_the_newer_is_refused(protocol: Protocol) -> None:
    old = join(protocol)
    asked = ask(protocol, join_ref="2", ref="2")
    protocol.refuse(asked, Reply("error", {}))
    protocol.forget(asked.membership)
    protocol.forget(old)
    assert answer(say(protocol, "1", "3", "room:1", "e", {})) == [None, "3", "room:1", "phx_reply", UNMATCHED]


def test_j8_a_join_after_a_leave(protocol: Protocol) -> None:
    old = join(protocol)
    assert isinstance(say(protocol, "1", "2", "room:1", "phx_leave", {}), LeaveReceived)
    again = ask(protocol, join_ref="3", ref="3")
    assert again.replaced is old
    protocol.forget(again.membership)
    assert ask(protocol, join_ref="4", ref="4").replaced is None


# While a join goes on


def test_what_comes_during_a_join_waits(protocol: Protocol) -> None:
    asked = ask(protocol)
    waiting = [("1", "e"), (None, "phx_leave"), ("4", "phx_join"), ("stale", "e")]
    for ref, (join_ref, event) in enumerate(waiting, 2):
        assert say(protocol, join_ref, str(ref), "room:1", event, {"n": 1}) == Held(asked.membership)
    assert isinstance(ask(protocol, "room:2"), JoinReceived)  # other topics do not wait
    protocol.accept(asked, OK)
    held = [message for message, _ in protocol.release(asked.membership)]
    assert [message.ref for message in held] == ["2", "3", "4", "5"]
    assert held[0] == Message("1", "2", "room:1", "e", {"n": 1})
    assert protocol.release(asked.membership) == []
    message, leave, again, stale = map(protocol.dispatch, held)
    assert isinstance(message, MessageReceived)
    assert isinstance(leave, LeaveReceived)
    assert isinstance(again, JoinReceived)
    assert again.replaced is asked.membership
    assert stale == Held(again.membership)


def test_what_waited_for_a_refused_join_finds_nobody(protocol: Protocol) -> None:
    asked = ask(protocol)
    for ref, (join_ref, event) in enumerate([("1", "e"), ("1", "phx_leave"), ("4", "phx_join")], 2):
        say(protocol, join_ref, str(ref), "room:1", event, {})
    protocol.refuse(asked, Reply("error", {}))
    protocol.forget(asked.membership)
    message, leave, again = (protocol.dispatch(held) for held, _ in protocol.release(asked.membership))
    assert answer(message) == [None, "2", "room:1", "phx_reply", UNMATCHED]
    assert answer(leave) == ["1", "3", "room:1", "phx_reply", YES]
    assert isinstance(again, JoinReceived)
    assert again.replaced is None


@pytest.mark.parametrize("verb", ["accept", "refuse"])
def test_a_reply_that_cannot_be_written_leaves_the_join_open(protocol: Protocol, verb: str) -> None:
    asked = ask(protocol)
    with pytest.raises(InvalidPayload):
        getattr(protocol, verb)(asked, Reply("ok", {"never": float("nan")}))
    assert asked.membership.status is Status.JOINING
    assert read(protocol.refuse(asked, JOIN_CRASHED))[4]["status"] == "error"


REFS = ["1", "", "01", 1, 1.0, True, 0, False, 2, [1], {"a": 1}]


@pytest.mark.parametrize("stored", REFS, ids=repr)
def test_m4_join_refs_are_compared_strictly(protocol: Protocol, stored: Any) -> None:
    member = join(protocol, join_ref=stored)
    for sent in REFS:
        same = json.dumps(stored) == json.dumps(sent)
        assert isinstance(say(protocol, sent, "2", "room:1", "e", {}), MessageReceived) is same, sent
        assert isinstance(say(protocol, sent, "3", "room:1", "phx_leave", {}), LeaveReceived) is same, sent
    assert read(protocol.push(member, "e", {}))[0] == stored
    assert read(protocol.close(member))[:2] == [stored, stored]


@pytest.mark.parametrize("topic", ["room:zzz", "nope", 7, None, [1]])
def test_h6_a_leave_of_what_is_not_joined(protocol: Protocol, topic: Any) -> None:
    event = say(protocol, "5", "6", topic, "phx_leave", {})
    assert answer(event) == ["5", "6", topic, "phx_reply", YES]
    assert isinstance(event, Answered)
    assert event.problem is None


def test_a_newer_join_is_not_forgotten_with_the_older(protocol: Protocol) -> None:
    old = join(protocol)
    new = join(protocol, join_ref="2", ref="2")
    protocol.forget(old)
    assert protocol.memberships == {"room:1": new}
    protocol.forget(new)
    protocol.forget(new)
    assert protocol.memberships == {}


# Joins without a join_ref


def test_a_join_without_a_join_ref_is_known_by_its_ref(protocol: Protocol) -> None:
    asked = ask(protocol, join_ref=None, ref="7")
    member = asked.membership
    assert read(protocol.accept(asked, OK)) == [None, "7", "room:1", "phx_reply", YES]
    assert read(protocol.push(member, "e", {})) == ["7", None, "room:1", "e", {}]
    assert read(protocol.reply(member, "8", OK)) == ["7", "8", "room:1", "phx_reply", YES]
    assert read(protocol.close(member)) == [None, None, "room:1", "phx_close", {}]
    assert read(protocol.crash(member)) == [None, None, "room:1", "phx_error", {"reason": "channel_crash"}]
    for event in ("e", "phx_leave"):
        assert say(protocol, "7", "8", "room:1", event, {}) is None
    assert isinstance(say(protocol, None, "10", "room:1", "e", {}), MessageReceived)
    assert isinstance(say(protocol, None, "11", "room:1", "phx_leave", {}), LeaveReceived)


@pytest.mark.parametrize("topic", [None, 0, 7, 1.5, True, False, [], ["room:1"], {}, {"room": 1}])
def test_x12_a_topic_that_is_no_string(protocol: Protocol, topic: Any) -> None:
    frame = answer(say(protocol, "1", "2", topic, "e", {}))
    assert json.dumps(frame) == json.dumps([None, "2", topic, "phx_reply", UNMATCHED])
    if isinstance(topic, list | dict):
        with pytest.raises(InvalidMessage, match="topic"):
            say(protocol, "1", "2", topic, "phx_join", {})
    else:
        assert answer(say(protocol, "1", "2", topic, "phx_join", {})) == frame


# Any conversation

SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "1", "2"])
TOPICS = st.sampled_from(["room:1", "room:2", "room:3", "nope", "phoenix", 1, None])
EVENTS = st.sampled_from(["phx_join", "phx_leave", "heartbeat", "e", None])
MESSAGES = st.builds(Message, SCALARS, SCALARS, TOPICS, EVENTS, SCALARS)


@given(st.lists(st.tuples(MESSAGES, st.sampled_from(["accept", "refuse", "wait"])), max_size=30))
def test_limits_hold_whatever_comes(conversation: list[tuple[Message, str]]) -> None:
    protocol = Protocol(V2, route, max_channels=2)
    for message, decision in conversation:
        event = protocol.dispatch(message)
        if isinstance(event, JoinReceived) and decision != "wait":
            getattr(protocol, decision)(event, OK)
            if decision == "refuse":
                protocol.forget(event.membership)
        assert len(protocol.memberships) <= 2
        for topic, member in protocol.memberships.items():
            assert member.topic == topic
            assert not member.held or member.status is Status.JOINING
