"""What is allowed: frames spelled out, in every situation that the protocol decides."""

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
    """Read a frame of text: the order of keys is nobody's business."""
    assert isinstance(frame, str)
    return json.loads(frame)


def answer(event: Event | None) -> Any:
    """Read what the protocol answers by itself."""
    assert isinstance(event, Answered)
    return read(event.frame)


# Heartbeats


def test_a_heartbeat_is_answered(protocol: Protocol) -> None:
    assert answer(say(protocol, None, "8", "phoenix", "heartbeat", {})) == [None, "8", "phoenix", "phx_reply", YES]


def test_a_heartbeat_is_answered_without_its_join_ref(protocol: Protocol) -> None:
    assert answer(say(protocol, "1", "8", "phoenix", "heartbeat", {})) == [None, "8", "phoenix", "phx_reply", YES]


def test_a_heartbeat_is_answered_while_its_topic_is_joined_and_joining() -> None:
    protocol = Protocol(V2, lambda topic: topic)
    asked = ask(protocol, "phoenix")
    assert answer(say(protocol, None, "2", "phoenix", "heartbeat", {}))[1] == "2"
    protocol.accept(asked, OK)
    assert answer(say(protocol, "1", "3", "phoenix", "heartbeat", {}))[1] == "3"
    assert isinstance(say(protocol, "1", "4", "phoenix", "other", {}), MessageReceived)


def test_other_events_on_its_topic_are_as_any(protocol: Protocol) -> None:
    assert answer(say(protocol, None, "1", "phoenix", "other", {})) == [None, "1", "phoenix", "phx_reply", UNMATCHED]
    assert answer(say(protocol, None, "2", "room:1", "heartbeat", {})) == [None, "2", "room:1", "phx_reply", UNMATCHED]


# Joins


def test_a_join_is_for_the_channel_to_decide(protocol: Protocol) -> None:
    asked = say(protocol, "3", "3", "room:1", "phx_join", {"a": 1})
    assert isinstance(asked, JoinReceived)
    assert asked.message == Message("3", "3", "room:1", "phx_join", {"a": 1})
    assert asked.route == "a room"
    assert asked.replaced is None
    assert asked.membership is protocol.memberships["room:1"]
    assert asked.membership.status is Status.JOINING


def test_j1_an_accepted_join(protocol: Protocol) -> None:
    asked = ask(protocol, join_ref="11", ref="1")
    assert read(protocol.accept(asked, OK)) == ["11", "1", "room:1", "phx_reply", YES]
    assert asked.membership.status is Status.JOINED


def test_j2_an_accepted_join_with_a_response(protocol: Protocol) -> None:
    frame = protocol.accept(ask(protocol), Reply("ok", {"motd": "hi"}))
    assert read(frame) == ["1", "1", "room:1", "phx_reply", {"status": "ok", "response": {"motd": "hi"}}]


def test_j2_an_accepted_join_with_bytes(protocol: Protocol) -> None:
    frame = protocol.accept(ask(protocol), Reply("ok", b"\x01\x02"))
    assert frame == b"\x01\x01\x01\x06\x02" + b"1" + b"1" + b"room:1" + b"ok" + b"\x01\x02"


def test_j3_a_refused_join(protocol: Protocol) -> None:
    asked = ask(protocol, join_ref="11", ref="1")
    frame = protocol.refuse(asked, Reply("error", {"reason": "unauthorized"}))
    no = {"status": "error", "response": {"reason": "unauthorized"}}
    assert read(frame) == ["11", "1", "room:1", "phx_reply", no]
    protocol.forget(asked.membership)
    assert answer(say(protocol, "11", "2", "room:1", "e")) == [None, "2", "room:1", "phx_reply", UNMATCHED]


def test_j4_a_join_that_crashed(protocol: Protocol) -> None:
    no = {"status": "error", "response": {"reason": "join crashed"}}
    assert read(protocol.refuse(ask(protocol), JOIN_CRASHED)) == ["1", "1", "room:1", "phx_reply", no]


def test_j5_a_topic_without_a_channel_is_answered_without_its_join_ref(protocol: Protocol) -> None:
    event = say(protocol, "11", "1", "nope", "phx_join", {})
    assert answer(event) == [None, "1", "nope", "phx_reply", UNMATCHED]
    assert isinstance(event, Answered)
    assert event.problem is not None
    assert "'nope'" in event.problem


def test_j6_one_join_too_many(protocol: Protocol) -> None:
    for number in range(100):
        join(protocol, f"room:{number}", str(number), str(number))
    event = say(protocol, "100", "101", "room:100", "phx_join", {})
    assert answer(event) == ["100", "101", "room:100", "phx_reply", TOO_MANY]
    assert isinstance(event, Answered)
    assert event.problem is not None
    assert "'room:100'" in event.problem
    assert "max_channels" in event.problem


def test_j6_joins_that_are_not_over_count() -> None:
    protocol = Protocol(V2, route, max_channels=1)
    ask(protocol, "room:1")
    assert answer(say(protocol, "2", "2", "room:2", "phx_join", {})) == ["2", "2", "room:2", "phx_reply", TOO_MANY]


def test_j6_the_unmatched_are_told_so_at_the_limit_too() -> None:
    protocol = Protocol(V2, route, max_channels=1)
    join(protocol)
    assert answer(say(protocol, "2", "2", "nope", "phx_join", {})) == [None, "2", "nope", "phx_reply", UNMATCHED]


def test_j6_a_topic_may_be_joined_anew_at_the_limit() -> None:
    protocol = Protocol(V2, route, max_channels=1)
    old = join(protocol)
    assert ask(protocol, join_ref="2", ref="2").replaced is old


@pytest.mark.parametrize("notice", ["close", "crash"])
def test_j6_whoever_goes_frees_a_place(notice: str) -> None:
    protocol = Protocol(V2, route, max_channels=1)
    member = join(protocol, "room:1")
    getattr(protocol, notice)(member)
    protocol.forget(member)
    assert ask(protocol, "room:2").replaced is None


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


def test_j7_the_older_one_is_gone_when_the_newer_is_refused(protocol: Protocol) -> None:
    old = join(protocol)
    asked = ask(protocol, join_ref="2", ref="2")
    protocol.refuse(asked, Reply("error", {}))
    protocol.forget(asked.membership)
    protocol.forget(old)
    assert answer(say(protocol, "1", "3", "room:1", "e", {})) == [None, "3", "room:1", "phx_reply", UNMATCHED]


def test_j7_messages_of_the_older_one_are_stale(protocol: Protocol) -> None:
    join(protocol, join_ref="1")
    join(protocol, join_ref="2", ref="2")
    assert say(protocol, "1", "3", "room:1", "e", {}) is None
    assert say(protocol, "1", "4", "room:1", "phx_leave", {}) is None


def test_j8_a_join_behind_a_leave_is_a_duplicate_join(protocol: Protocol) -> None:
    old = join(protocol)
    assert isinstance(say(protocol, "1", "2", "room:1", "phx_leave", {}), LeaveReceived)
    assert ask(protocol, join_ref="3", ref="3").replaced is old


def test_the_same_topic_can_be_joined_again_after_a_leave(protocol: Protocol) -> None:
    member = join(protocol)
    say(protocol, "1", "2", "room:1", "phx_leave", {})
    protocol.forget(member)
    assert ask(protocol, join_ref="3", ref="3").replaced is None


# While a join goes on


def test_what_comes_during_a_join_waits(protocol: Protocol) -> None:
    asked = ask(protocol)
    assert say(protocol, "1", "2", "room:1", "e", {"n": 1}) == Held(asked.membership)
    assert say(protocol, None, "3", "room:1", "phx_leave", {}) == Held(asked.membership)
    assert say(protocol, "4", "4", "room:1", "phx_join", {}) == Held(asked.membership)
    assert say(protocol, "stale", "5", "room:1", "e", {}) == Held(asked.membership)
    protocol.accept(asked, OK)
    held = protocol.release(asked.membership)
    assert [message.ref for message in held] == ["2", "3", "4", "5"]
    assert held[0] == Message("1", "2", "room:1", "e", {"n": 1})
    assert protocol.release(asked.membership) == []


def test_what_waited_for_a_yes_finds_the_channel(protocol: Protocol) -> None:
    asked = ask(protocol)
    say(protocol, "1", "2", "room:1", "e", {})
    say(protocol, "stale", "3", "room:1", "e", {})
    say(protocol, "1", "4", "room:1", "phx_leave", {})
    protocol.accept(asked, OK)
    message, stale, leave = map(protocol.dispatch, protocol.release(asked.membership))
    assert isinstance(message, MessageReceived)
    assert stale is None
    assert isinstance(leave, LeaveReceived)


def test_what_waited_for_a_no_finds_nobody(protocol: Protocol) -> None:
    asked = ask(protocol)
    say(protocol, "1", "2", "room:1", "e", {})
    say(protocol, "1", "3", "room:1", "phx_leave", {})
    say(protocol, "4", "4", "room:1", "phx_join", {})
    protocol.refuse(asked, Reply("error", {}))
    protocol.forget(asked.membership)
    message, leave, again = map(protocol.dispatch, protocol.release(asked.membership))
    assert answer(message) == [None, "2", "room:1", "phx_reply", UNMATCHED]
    assert answer(leave) == ["1", "3", "room:1", "phx_reply", YES]
    assert isinstance(again, JoinReceived)
    assert again.replaced is None


def test_a_join_that_waited_replaces_the_one_it_waited_for(protocol: Protocol) -> None:
    asked = ask(protocol)
    say(protocol, "2", "2", "room:1", "phx_join", {})
    protocol.accept(asked, OK)
    (waited,) = protocol.release(asked.membership)
    event = protocol.dispatch(waited)
    assert isinstance(event, JoinReceived)
    assert event.replaced is asked.membership
    assert protocol.dispatch(Message("2", "3", "room:1", "e", {})) == Held(event.membership)


def test_a_join_holds_up_no_other_topic(protocol: Protocol) -> None:
    join(protocol, "room:1")
    ask(protocol, "room:2", "2", "2")
    assert isinstance(say(protocol, "1", "3", "room:1", "e", {}), MessageReceived)
    assert isinstance(ask(protocol, "room:3", "4", "4"), JoinReceived)
    assert answer(say(protocol, None, "5", "room:4", "e", {}))[4] == UNMATCHED


def test_a_reply_that_cannot_be_written_leaves_the_join_open(protocol: Protocol) -> None:
    asked = ask(protocol)
    with pytest.raises(InvalidPayload):
        protocol.accept(asked, Reply("ok", {"never": float("nan")}))
    assert asked.membership.status is Status.JOINING
    assert read(protocol.refuse(asked, JOIN_CRASHED))[4]["status"] == "error"


def test_a_refusal_that_cannot_be_written_leaves_the_join_open(protocol: Protocol) -> None:
    asked = ask(protocol)
    with pytest.raises(InvalidPayload):
        protocol.refuse(asked, Reply("error", {"never": float("nan")}))
    assert asked.membership.status is Status.JOINING
    assert read(protocol.refuse(asked, JOIN_CRASHED))[4]["status"] == "error"


# Messages


def test_m1_a_message_and_its_reply(protocol: Protocol) -> None:
    member = join(protocol, join_ref="11", ref="1")
    event = say(protocol, "11", "2", "room:1", "new_msg", {"body": "hi"})
    assert event == MessageReceived(member, Message("11", "2", "room:1", "new_msg", {"body": "hi"}))
    reply = protocol.reply(member, "2", Reply("queued", [1, 2]))
    assert read(reply) == ["11", "2", "room:1", "phx_reply", {"status": "queued", "response": [1, 2]}]


def test_m3_a_message_to_a_topic_that_is_not_joined(protocol: Protocol) -> None:
    event = say(protocol, "11", "2", "room:1", "new_msg", {})
    assert answer(event) == [None, "2", "room:1", "phx_reply", UNMATCHED]
    assert isinstance(event, Answered)
    assert event.problem is not None


@pytest.mark.parametrize("notice", ["close", "crash"])
def test_m3_a_message_to_a_channel_that_is_gone(protocol: Protocol, notice: str) -> None:
    member = join(protocol)
    getattr(protocol, notice)(member)
    protocol.forget(member)
    assert answer(say(protocol, "1", "2", "room:1", "e", {})) == [None, "2", "room:1", "phx_reply", UNMATCHED]


REFS = ["1", "", "01", 1, 1.0, True, 0, False, 2, [1], {"a": 1}]


@pytest.mark.parametrize("stored", REFS, ids=repr)
def test_m4_join_refs_are_compared_strictly(protocol: Protocol, stored: Any) -> None:
    join(protocol, join_ref=stored)
    for sent in REFS:
        same = json.dumps(stored) == json.dumps(sent)
        assert isinstance(say(protocol, sent, "2", "room:1", "e", {}), MessageReceived) is same, sent
        assert isinstance(say(protocol, sent, "3", "room:1", "phx_leave", {}), LeaveReceived) is same, sent


def test_a_message_without_a_join_ref_is_taken(protocol: Protocol) -> None:
    member = join(protocol)
    assert isinstance(say(protocol, None, "2", "room:1", "e", {}), MessageReceived)
    assert read(protocol.reply(member, "2", OK)) == ["1", "2", "room:1", "phx_reply", YES]


def test_m7_a_message_without_a_ref(protocol: Protocol) -> None:
    member = join(protocol)
    event = say(protocol, "1", None, "room:1", "e", {})
    assert isinstance(event, MessageReceived)
    assert read(protocol.reply(member, event.message.ref, OK)) == ["1", None, "room:1", "phx_reply", YES]


@pytest.mark.parametrize("event", ["phx_reply", "phx_error", "phx_close", "phx_drain", "disconnect", "", 7, None, [1]])
def test_any_other_event_is_the_channels(protocol: Protocol, event: Any) -> None:
    join(protocol)
    received = say(protocol, "1", "2", "room:1", event, {})
    assert isinstance(received, MessageReceived)
    assert received.message.event == event


@pytest.mark.parametrize("payload", [None, 1, "text", [1, 2], {"a": {}}])
def test_x14_any_payload_is_the_channels(protocol: Protocol, payload: Any) -> None:
    join(protocol)
    received = say(protocol, "1", "2", "room:1", "e", payload)
    assert isinstance(received, MessageReceived)
    assert received.message.payload == payload


def test_binary_messages(protocol: Protocol) -> None:
    member = join(protocol, join_ref="11")
    event = protocol.receive(b"\x00\x02\x01\x06\x01" + b"11" + b"2" + b"room:1" + b"e" + b"\xff")
    assert event == MessageReceived(member, Message("11", "2", "room:1", "e", b"\xff"))
    assert protocol.push(member, "e", b"\xfe") == b"\x00\x02\x06\x01" + b"11" + b"room:1" + b"e" + b"\xfe"
    assert protocol.reply(member, "2", Reply("ok", b"")) == b"\x01\x02\x01\x06\x02" + b"11" + b"2" + b"room:1" + b"ok"


# The end of a channel


def test_h1_a_crash(protocol: Protocol) -> None:
    member = join(protocol, join_ref="11", ref="1")
    assert read(protocol.crash(member)) == ["11", "11", "room:1", "phx_error", {"reason": "channel_crash"}]


def test_h5_a_leave(protocol: Protocol) -> None:
    member = join(protocol, join_ref="11", ref="1")
    event = say(protocol, "11", "2", "room:1", "phx_leave", {})
    assert event == LeaveReceived(member, Message("11", "2", "room:1", "phx_leave", {}))
    assert member.status is Status.LEAVING
    assert read(protocol.reply(member, "2", OK)) == ["11", "2", "room:1", "phx_reply", YES]
    assert read(protocol.close(member)) == ["11", "11", "room:1", "phx_close", {}]


def test_h5_a_leave_without_a_join_ref(protocol: Protocol) -> None:
    join(protocol)
    assert isinstance(say(protocol, None, "2", "room:1", "phx_leave", {}), LeaveReceived)


@pytest.mark.parametrize("topic", ["room:zzz", "nope", 7, None, [1]])
def test_h6_a_leave_of_what_is_not_joined(protocol: Protocol, topic: Any) -> None:
    event = say(protocol, "5", "6", topic, "phx_leave", {})
    assert answer(event) == ["5", "6", topic, "phx_reply", YES]
    assert isinstance(event, Answered)
    assert event.problem is None
    assert answer(say(protocol, None, "7", topic, "phx_leave", {})) == [None, "7", topic, "phx_reply", YES]


def test_h7_a_stale_leave(protocol: Protocol) -> None:
    member = join(protocol)
    assert say(protocol, "stale", "stale", "room:1", "phx_leave", {}) is None
    assert member.status is Status.JOINED


def test_h8_while_it_leaves_a_channel_is_given_what_comes(protocol: Protocol) -> None:
    join(protocol)
    assert isinstance(say(protocol, "1", "2", "room:1", "phx_leave", {}), LeaveReceived)
    assert isinstance(say(protocol, "1", "3", "room:1", "e", {}), MessageReceived)
    assert isinstance(say(protocol, "1", "4", "room:1", "phx_leave", {}), LeaveReceived)


def test_a_newer_join_is_not_forgotten_with_the_older(protocol: Protocol) -> None:
    old = join(protocol)
    new = join(protocol, join_ref="2", ref="2")
    protocol.forget(old)
    assert protocol.memberships == {"room:1": new}
    protocol.forget(new)
    protocol.forget(new)
    assert protocol.memberships == {}


# Joins without a join_ref


def test_whoever_joins_without_a_join_ref_is_known_by_the_ref(protocol: Protocol) -> None:
    asked = ask(protocol, join_ref=None, ref="7")
    member = asked.membership
    assert read(protocol.accept(asked, OK)) == [None, "7", "room:1", "phx_reply", YES]
    assert read(protocol.push(member, "e", {})) == ["7", None, "room:1", "e", {}]
    assert read(protocol.reply(member, "8", OK)) == ["7", "8", "room:1", "phx_reply", YES]
    assert read(protocol.close(member)) == [None, None, "room:1", "phx_close", {}]
    assert read(protocol.crash(member)) == [None, None, "room:1", "phx_error", {"reason": "channel_crash"}]


def test_whoever_joins_without_a_join_ref_has_to_go_on_without(protocol: Protocol) -> None:
    join(protocol, join_ref=None, ref="7")
    assert say(protocol, "7", "8", "room:1", "e", {}) is None
    assert say(protocol, "7", "9", "room:1", "phx_leave", {}) is None
    assert isinstance(say(protocol, None, "10", "room:1", "e", {}), MessageReceived)
    assert isinstance(say(protocol, None, "11", "room:1", "phx_leave", {}), LeaveReceived)


def test_a_join_without_any_ref(protocol: Protocol) -> None:
    member = join(protocol, join_ref=None, ref=None)
    assert read(protocol.push(member, "e", {})) == [None, None, "room:1", "e", {}]


@pytest.mark.parametrize("join_ref", [0, False, ""])
def test_a_join_ref_that_looks_like_none_is_one(protocol: Protocol, join_ref: Any) -> None:
    member = join(protocol, join_ref=join_ref, ref="7")
    assert read(protocol.push(member, "e", {})) == [join_ref, None, "room:1", "e", {}]
    assert read(protocol.close(member))[:2] == [join_ref, join_ref]


# What the server says


def test_a_push(protocol: Protocol) -> None:
    member = join(protocol, join_ref="11", ref="1")
    assert read(protocol.push(member, "joined", {"id": 7})) == ["11", None, "room:1", "joined", {"id": 7}]


@pytest.mark.parametrize("payload", [None, "text", [1], 1, {"never": float("inf")}])
def test_a_push_that_cannot_be(protocol: Protocol, payload: Any) -> None:
    with pytest.raises(InvalidPayload):
        protocol.push(join(protocol), "e", payload)


def test_vsn_1() -> None:
    protocol = Protocol(V1, route)
    event = protocol.receive('{"topic":"room:1","event":"phx_join","payload":{"a":1},"ref":"1"}')
    assert isinstance(event, JoinReceived)
    reply = {"topic": "room:1", "event": "phx_reply", "ref": "1", "payload": YES}
    assert read(protocol.accept(event, OK)) == reply
    member = event.membership
    assert read(protocol.push(member, "e", [1])) == {"topic": "room:1", "event": "e", "ref": None, "payload": [1]}
    assert read(protocol.close(member)) == {"topic": "room:1", "event": "phx_close", "ref": None, "payload": {}}
    crash = {"topic": "room:1", "event": "phx_error", "ref": None, "payload": {"reason": "channel_crash"}}
    assert read(protocol.crash(member)) == crash
    with pytest.raises(InvalidPayload):
        protocol.push(member, "e", b"\x01")


def test_vsn_1_with_a_join_ref() -> None:
    protocol = Protocol(V1, route)
    event = protocol.receive('{"topic":"room:1","event":"phx_join","payload":{},"ref":"1","join_ref":"9"}')
    assert isinstance(event, JoinReceived)
    protocol.accept(event, OK)
    assert read(protocol.close(event.membership))["ref"] == "9"
    stale = '{"topic":"room:1","event":"e","payload":{},"ref":"2","join_ref":"8"}'
    assert protocol.receive(stale) is None


# What is no message


@pytest.mark.parametrize(
    "frame", ["", "nonsense", "{}", "[1,2,3,4]", "null", b"", b"\x01\x00\x00\x00\x00", b"\x00\x09"]
)
def test_x1_x3_a_frame_that_is_no_message(protocol: Protocol, frame: Frame) -> None:
    with pytest.raises(InvalidMessage):
        protocol.receive(frame)


@pytest.mark.parametrize("event", ["phx_join", "e"])
def test_x12_a_topic_that_is_no_string_is_echoed(protocol: Protocol, event: str) -> None:
    for topic in (None, 0, 7, 1.5, True, False):
        frame = answer(say(protocol, "1", "2", topic, event, {}))
        assert json.dumps(frame) == json.dumps([None, "2", topic, "phx_reply", UNMATCHED])


@pytest.mark.parametrize("topic", [[], ["room:1"], {}, {"room": 1}])
def test_x12_a_topic_that_is_a_list_or_an_object(protocol: Protocol, topic: Any) -> None:
    assert answer(say(protocol, "1", "2", topic, "e", {})) == [None, "2", topic, "phx_reply", UNMATCHED]
    with pytest.raises(InvalidMessage, match="topic"):
        say(protocol, "1", "2", topic, "phx_join", {})


# Whatever comes

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
