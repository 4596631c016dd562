"""Who hears it: real subscribers, and a list in place of the hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.exceptions import InvalidMessage, InvalidPayload, PhoenixError
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Frame, JsonText
from flask_phoenix.protocol.serializers import Serializer, V1Serializer, V2Serializer
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.local import Delivery, Lane, PubSub, Subscriber
from tests.processes import DEADLINE

HELLO = Broadcast("room:1", "hello", {"n": 1})
HELLO_V2 = '[null,null,"room:1","hello",{"n":1}]'


class Counting(V2Serializer):
    """Counts what it writes."""

    written = 0

    def encode_broadcast(self, broadcast: Broadcast) -> Frame:
        self.written += 1
        return super().encode_broadcast(broadcast)


def unchanged(frame: Frame) -> Frame:
    """Frame nothing."""
    return frame


def lane(serializer: Serializer | None = None, frame: Callable[[Frame], Any] = unchanged, stream: bool = True) -> Lane:
    """Make a lane; without a serializer, of vsn 2.0.0."""
    return Lane(serializer or V2Serializer(Json()), frame, stream)


class Ear:
    """A subscriber, and what it hears."""

    def __init__(self, lane: Lane | None = None, *intercepts: str) -> None:
        self.told: list[Broadcast] = []
        self.written: list[Any] = []
        write = self.written.append if lane is not None else None
        self.subscriber = Subscriber(self.told.append, lane, write, frozenset(intercepts))


class Desk:
    """A pubsub, and the deliveries that it hands over."""

    def __init__(self) -> None:
        self.due: list[Delivery] = []
        self.pubsub = PubSub(self.due.append, json.loads)

    def listen(self, *ears: Ear, topic: str = "room:1") -> None:
        """Subscribe all of them."""
        for ear in ears:
            self.pubsub.subscribe(topic, ear.subscriber)

    def deliver(self) -> None:
        """Do what the hub does."""
        for delivery in self.due:
            for receive in delivery.receivers:
                receive(delivery.data)
        self.due.clear()


@pytest.fixture
def desk() -> Desk:
    return Desk()


# Encoding


def test_a_broadcast_is_encoded_once_for_all(desk: Desk) -> None:
    serializer = Counting(Json())
    ears = [Ear(lane(serializer)) for _ in range(3)]
    desk.listen(*ears)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert [ear.written for ear in ears] == [[HELLO_V2]] * 3
    assert serializer.written == 1


def test_a_broadcast_is_encoded_once_for_each_lane(desk: Desk) -> None:
    one, other = Counting(Json()), Counting(Json())
    desk.listen(*(Ear(lane(serializer)) for serializer in (one, one, other, other)))
    desk.pubsub.broadcast(HELLO)
    assert (one.written, other.written, len(desk.due)) == (1, 1, 2)


def test_each_lane_writes_in_its_own_way(desk: Desk) -> None:
    old, new, loud = Ear(lane(V1Serializer(Json()))), Ear(lane()), Ear(lane(frame=lambda frame: f"{frame!s}!"))
    desk.listen(old, new, loud)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert old.written == ['{"topic":"room:1","event":"hello","ref":null,"payload":{"n":1}}']
    assert new.written == [HELLO_V2]
    assert loud.written == [f"{HELLO_V2}!"]


def test_nothing_is_encoded_for_nobody(desk: Desk) -> None:
    serializer = Counting(Json())
    ear = Ear(lane(serializer))
    desk.pubsub.broadcast(HELLO)
    desk.listen(ear, topic="room:2")
    desk.pubsub.broadcast(HELLO)
    desk.listen(ear)
    desk.pubsub.broadcast(HELLO, ear.subscriber)
    assert (serializer.written, desk.due) == (0, [])


def test_a_delivery_tells_what_the_hub_must_know(desk: Desk) -> None:
    stream, pieces, listener = Ear(lane()), Ear(lane(stream=False)), Ear()
    desk.listen(stream, pieces, listener)
    desk.pubsub.broadcast(HELLO)
    assert [delivery.key for delivery in desk.due] == ["room:1"] * 3
    assert [delivery.stream for delivery in desk.due] == [True, False, False]


def test_broadcasts_to_the_same_receivers_can_be_told(desk: Desk) -> None:
    shared = lane()
    one, other = Ear(shared), Ear(shared)
    desk.listen(one)
    desk.pubsub.broadcast(HELLO)
    desk.pubsub.broadcast(HELLO)
    desk.listen(other)
    desk.pubsub.broadcast(HELLO)
    first, second, third = desk.due
    assert first.receivers is second.receivers
    assert first.receivers is not third.receivers


# What cannot be taken


@pytest.mark.parametrize(
    ("serializer", "payload"),
    [(V1Serializer(Json()), b"\x01"), (V2Serializer(Json()), [1]), (V2Serializer(Json()), "no")],
)
def test_what_somebody_cannot_take_is_given_to_nobody(desk: Desk, serializer: Serializer, payload: Any) -> None:
    desk.pubsub.tap(lambda broadcast: None)
    desk.listen(Ear(), Ear(lane(frame=lambda frame: frame)), Ear(lane(), "hello"), Ear(lane(serializer)))
    bad = HELLO._replace(payload=payload)
    with pytest.raises(InvalidPayload):
        desk.pubsub.broadcast(bad)
    assert desk.due == []
    with pytest.raises(InvalidPayload):
        desk.pubsub.check(bad)


def test_the_payload_is_checked_without_a_delivery(desk: Desk) -> None:
    desk.listen(Ear(lane()), Ear())
    desk.pubsub.check(HELLO)
    desk.pubsub.check(HELLO._replace(topic="room:2", payload=[1]))
    assert desk.due == []


# Who hears


def test_a_listener_is_told(desk: Desk) -> None:
    ear = Ear()
    desk.listen(ear)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert ear.told == [HELLO]


def test_an_intercepted_event_takes_no_lane(desk: Desk) -> None:
    serializer = Counting(Json())
    direct, picky = Ear(lane(serializer)), Ear(lane(serializer), "secret")
    desk.listen(direct, picky)
    secret = Broadcast("room:1", "secret", {})
    desk.pubsub.broadcast(secret)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert direct.written == ['[null,null,"room:1","secret",{}]', HELLO_V2]
    assert picky.written == [HELLO_V2]
    assert (direct.told, picky.told) == ([], [secret])


def test_an_intercepted_event_may_be_what_a_lane_cannot_take(desk: Desk) -> None:
    ear = Ear(lane(V1Serializer(Json())), "blob")
    desk.listen(ear)
    blob = Broadcast("room:1", "blob", b"\x01")
    desk.pubsub.broadcast(blob)
    desk.deliver()
    assert ear.told == [blob]


@pytest.mark.parametrize("event", ["hello", "secret"])
def test_the_sender_may_be_left_out(desk: Desk, event: str) -> None:
    shared = lane()
    sender, other, listener = Ear(shared, "secret"), Ear(shared, "secret"), Ear()
    desk.listen(sender, other, listener)
    desk.pubsub.broadcast(Broadcast("room:1", event, {}), sender.subscriber)
    desk.deliver()
    assert (sender.written, sender.told) == ([], [])
    assert len(other.written) + len(other.told) == 1
    assert len(listener.told) == 1


def test_a_listener_may_be_left_out(desk: Desk) -> None:
    sender, other = Ear(), Ear()
    desk.listen(sender, other)
    desk.pubsub.broadcast(HELLO, sender.subscriber)
    desk.deliver()
    assert (sender.told, other.told) == ([], [HELLO])


def test_a_sender_from_elsewhere_leaves_nobody_out(desk: Desk) -> None:
    ear, stranger = Ear(lane()), Ear(lane())
    desk.listen(ear)
    desk.pubsub.broadcast(HELLO, stranger.subscriber)
    desk.deliver()
    assert ear.written == [HELLO_V2]


def test_who_subscribes_twice_hears_twice(desk: Desk) -> None:
    ear, once = Ear(), Ear()
    desk.listen(ear, once, ear)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert (ear.told, once.told) == ([HELLO, HELLO], [HELLO])


def test_one_unsubscription_ends_them_all(desk: Desk) -> None:
    ear = Ear()
    desk.listen(ear, ear)
    desk.pubsub.unsubscribe("room:1", ear.subscriber)
    desk.pubsub.broadcast(HELLO)
    assert desk.due == []


# When


def test_a_broadcast_is_for_those_who_are_here_at_that_moment(desk: Desk) -> None:
    shared = lane()
    early, leaving, late = Ear(shared), Ear(shared), Ear(shared)
    listener, late_listener = Ear(), Ear()
    desk.listen(early, leaving, listener)
    desk.pubsub.broadcast(HELLO)
    desk.listen(late, late_listener)
    desk.pubsub.unsubscribe("room:1", leaving.subscriber)
    desk.deliver()
    assert (early.written, leaving.written, late.written) == ([HELLO_V2], [HELLO_V2], [])
    assert (listener.told, late_listener.told) == ([HELLO], [])


def test_topics_are_forgotten_with_their_last_subscriber(desk: Desk) -> None:
    shared = lane()
    one, other, listener = Ear(shared), Ear(shared), Ear()
    assert not desk.pubsub.subscribed("room:1")
    desk.listen(one, other, listener)
    for ear in (one, other, listener):
        assert desk.pubsub.subscribed("room:1")
        desk.pubsub.unsubscribe("room:1", ear.subscriber)
    assert not desk.pubsub.subscribed("room:1")


def test_whoever_did_not_subscribe_may_unsubscribe(desk: Desk) -> None:
    shared = lane()
    ear, stranger, listener = Ear(shared), Ear(shared), Ear()
    desk.pubsub.unsubscribe("room:1", ear.subscriber)
    desk.listen(ear)
    desk.pubsub.unsubscribe("room:1", stranger.subscriber)
    desk.pubsub.unsubscribe("room:1", listener.subscriber)
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert ear.written == [HELLO_V2]


def test_topics_are_apart(desk: Desk) -> None:
    ear, other = Ear(lane()), Ear(lane())
    desk.listen(ear)
    desk.listen(other, topic="room:10")
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert (ear.written, other.written) == ([HELLO_V2], [])


# Taps


def test_a_tap_hears_everything_until_it_ends(desk: Desk) -> None:
    tapped: list[Broadcast] = []
    end = desk.pubsub.tap(tapped.append)
    elsewhere = HELLO._replace(topic="room:9")
    desk.listen(Ear(lane()))
    desk.pubsub.broadcast(HELLO)
    desk.pubsub.broadcast(elsewhere)
    desk.deliver()
    end()
    desk.pubsub.broadcast(HELLO)
    desk.deliver()
    assert tapped == [HELLO, elsewhere]


def test_a_tap_does_not_hear_what_nodes_say_among_themselves(desk: Desk) -> None:
    tapped: list[Broadcast] = []
    ear = Ear()
    desk.pubsub.tap(tapped.append)
    internal = HELLO._replace(topic="phx:presence:Online")
    desk.pubsub.subscribe(internal.topic, ear.subscriber)
    desk.pubsub.broadcast(internal)
    desk.deliver()
    assert (tapped, ear.told) == ([], [internal])


def test_a_tap_can_be_ended_twice(desk: Desk) -> None:
    end = desk.pubsub.tap(lambda broadcast: None)
    end()
    end()


# The way to other nodes


class Recording(Adapter):
    """Remembers what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def subscribe(self, topic: str) -> None:
        self.asked.append(f"subscribe {topic}")

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(f"unsubscribe {topic}")


def joined(adapter: Adapter) -> PubSub:
    """Make a pubsub that hears other nodes, and delivers to nobody."""
    pubsub = PubSub(lambda delivery: None, json.loads)
    pubsub.attach(adapter)
    return pubsub


def test_the_adapter_is_asked_for_a_topic_while_somebody_here_hears_it() -> None:
    adapter = Recording()
    pubsub = joined(adapter)
    one, other = Ear(lane()).subscriber, Ear().subscriber
    pubsub.subscribe("a", one)
    pubsub.subscribe("a", other)
    pubsub.subscribe("a", one)
    pubsub.subscribe("b", one)
    assert adapter.asked == ["subscribe a", "subscribe b"]
    pubsub.unsubscribe("a", one)
    pubsub.unsubscribe("a", one)
    pubsub.unsubscribe("nobody hears it", one)
    assert adapter.asked == ["subscribe a", "subscribe b"]
    pubsub.unsubscribe("a", other)
    pubsub.unsubscribe("b", one)
    assert adapter.asked[2:] == ["unsubscribe a", "unsubscribe b"]
    pubsub.subscribe("a", one)
    assert adapter.asked[4:] == ["subscribe a"]


def test_an_adapter_that_joins_later_is_asked_for_what_is_heard_already() -> None:
    adapter, pubsub = Recording(), PubSub(lambda delivery: None, json.loads)
    pubsub.subscribe("a", Ear().subscriber)
    for _ in range(2):
        pubsub.attach(adapter)
    pubsub.subscribe("b", Ear().subscriber)
    assert adapter.asked == ["subscribe a", "subscribe b"]


def test_text_of_another_node_is_read_for_those_alone_who_take_no_text() -> None:
    read: list[str] = []

    def loads(text: str) -> Any:
        read.append(text)
        return Json().loads(text)

    due: list[Delivery] = []
    pubsub, text = PubSub(due.append, loads), JsonText('{"n":1}')
    pubsub.subscribe("room:1", Ear(lane()).subscriber)
    pubsub.broadcast(Broadcast("room:1", "said", text))
    assert (read, len(due)) == ([], 1)
    pubsub.subscribe("room:1", Ear().subscriber)
    pubsub.broadcast(Broadcast("room:1", "said", text))
    assert read == ['{"n":1}']
    assert due[2].data == Broadcast("room:1", "said", {"n": 1})
    with pytest.raises(InvalidMessage):
        pubsub.broadcast(Broadcast("room:1", "said", JsonText("{")))
    assert len(due) == 3


TEXT = Broadcast("room:1", "said", JsonText('{ "n" : 1 }'))


def test_text_of_another_node_is_written_as_it_is_for_each_kind_of_client(desk: Desk) -> None:
    old, new = Ear(lane(V1Serializer(Json()))), Ear(lane())
    desk.listen(old, new)
    desk.pubsub.broadcast(TEXT)
    desk.deliver()
    assert old.written == ['{"topic":"room:1","event":"said","ref":null,"payload":{ "n" : 1 }}']
    assert new.written == ['[null,null,"room:1","said",{ "n" : 1 }]']


def test_text_of_another_node_is_read_where_it_is_intercepted_or_tapped(desk: Desk) -> None:
    tapped: list[Broadcast] = []
    direct, picky, listener = Ear(lane()), Ear(lane(), "said"), Ear()
    desk.pubsub.tap(tapped.append)
    desk.listen(direct, picky, listener)
    desk.pubsub.broadcast(TEXT)
    desk.deliver()
    assert direct.written == ['[null,null,"room:1","said",{ "n" : 1 }]']
    assert picky.written == direct.told == []
    assert picky.told == listener.told == tapped == [Broadcast("room:1", "said", {"n": 1})]


def test_text_of_another_node_is_read_for_a_serializer_that_takes_values(desk: Desk) -> None:
    class Keys(V2Serializer):
        def encode_broadcast(self, broadcast: Broadcast) -> Frame:
            return " ".join(broadcast.payload)

    values, text = Ear(lane(Keys(Json()))), Ear(lane())
    desk.listen(values, text)
    desk.pubsub.broadcast(TEXT)
    desk.deliver()
    assert (values.written, text.written) == (["n"], ['[null,null,"room:1","said",{ "n" : 1 }]'])


@pytest.mark.parametrize("text", ["[1]", '"{}"', "null"])
def test_text_of_another_node_that_somebody_cannot_take_is_given_to_nobody(desk: Desk, text: str) -> None:
    desk.listen(Ear(), Ear(lane(V1Serializer(Json()))), Ear(lane()))
    with pytest.raises(InvalidPayload):
        desk.pubsub.broadcast(TEXT._replace(payload=JsonText(text)))
    assert desk.due == []


def test_a_topic_that_cannot_be_had_is_not_heard() -> None:
    class Broken(Recording):
        def subscribe(self, topic: str) -> None:
            raise PhoenixError("out of reach")

    pubsub = joined(Broken())
    with pytest.raises(PhoenixError):
        pubsub.subscribe("a", Ear().subscriber)
    assert not pubsub.subscribed("a")


class Slow(Recording):
    """Takes its time to get a topic."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: list[Event] = []

    def subscribe(self, topic: str) -> None:
        super().subscribe(topic)
        self.ready.append(Event())
        self.ready[-1].wait()


def test_a_topic_is_kept_for_those_who_still_wait_for_it() -> None:
    adapter = Slow()
    pubsub = joined(adapter)
    one, other = Ear().subscriber, Ear().subscriber
    coming = [gevent.spawn(pubsub.subscribe, "a", each) for each in (one, other)]
    gevent.sleep(0)
    adapter.ready[0].set()
    coming[0].join()
    pubsub.unsubscribe("a", one)
    assert adapter.asked == ["subscribe a", "subscribe a"]
    adapter.ready[1].set()
    coming[1].join()
    assert pubsub.subscribed("a")
    pubsub.unsubscribe("a", other)
    assert adapter.asked[2:] == ["unsubscribe a"]


def test_nobody_is_left_who_waits_for_a_topic() -> None:
    adapter = Slow()
    pubsub = joined(adapter)
    coming = [gevent.spawn(pubsub.subscribe, "a", Ear().subscriber) for _ in range(2)]
    gevent.sleep(0)
    coming[0].kill()
    assert adapter.asked == ["subscribe a", "subscribe a"]
    coming[1].kill()
    assert adapter.asked[2:] == ["unsubscribe a"]
    assert not pubsub.subscribed("a")


def test_a_topic_that_is_left_while_an_adapter_joins_is_left_there_too() -> None:
    adapter, pubsub = Slow(), PubSub(lambda delivery: None, json.loads)
    subscribers = {topic: Ear().subscriber for topic in ("a", "b")}
    for topic, subscriber in subscribers.items():
        pubsub.subscribe(topic, subscriber)
    joining = gevent.spawn(pubsub.attach, adapter)
    gevent.sleep(0)
    pubsub.unsubscribe("a", subscribers["a"])
    assert adapter.asked == ["subscribe a"]
    adapter.ready[0].set()
    gevent.sleep(0)
    adapter.ready[1].set()
    joining.get(timeout=DEADLINE)
    assert adapter.asked == ["subscribe a", "unsubscribe a", "subscribe b"]


def test_who_parts_asks_the_next_adapter_for_everything() -> None:
    former, latter = Recording(), Recording()
    pubsub = joined(former)
    staying, leaving = Ear().subscriber, Ear().subscriber
    pubsub.subscribe("a", staying)
    pubsub.subscribe("b", leaving)
    pubsub.detach()
    pubsub.unsubscribe("b", leaving)
    pubsub.subscribe("c", staying)
    assert former.asked == ["subscribe a", "subscribe b"]
    pubsub.attach(latter)
    pubsub.subscribe("b", leaving)
    pubsub.subscribe("a", leaving)
    assert latter.asked == ["subscribe a", "subscribe c", "subscribe b"]


def test_what_a_former_adapter_confirms_is_nothing_to_the_next() -> None:
    former, latter = Slow(), Recording()
    pubsub = joined(former)
    coming = gevent.spawn(pubsub.subscribe, "a", Ear().subscriber)
    gevent.sleep(0)
    pubsub.detach()
    pubsub.attach(latter)
    former.ready[0].set()
    coming.get(timeout=DEADLINE)
    pubsub.subscribe("a", Ear().subscriber)
    assert latter.asked == ["subscribe a"]
