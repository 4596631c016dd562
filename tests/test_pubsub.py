"""Topics, subscribers and the hub: what a broadcast becomes for each receiver, when, and in which order."""

from __future__ import annotations

import gc
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Frame, JsonText
from flask_phoenix.protocol.serializers import Serializer, V1Serializer, V2Serializer
from flask_phoenix.pubsub import hub as hubs
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.hub import MOMENT, RECEIVERS_PER_TURN, Hub
from flask_phoenix.pubsub.local import Delivery, Lane, PubSub, Subscriber
from tests.support.loop import in_plain_thread, in_thread, turn
from tests.support.processes import DEADLINE, wait_until

V1, V2 = V1Serializer(Json()), V2Serializer(Json())
HELLO = Broadcast("room:1", "hello", JsonText('{"n":1}'))
#: The same, as a subscriber gets it that needs a value.
VALUE = HELLO._replace(payload={"n": 1})
SECRET = HELLO._replace(event="secret", payload=JsonText("{}"))
HELLO_V1 = b'{"topic":"room:1","event":"hello","ref":null,"payload":{"n":1}}'
HELLO_V2 = b'[null,null,"room:1","hello",{"n":1}]'


def to_bytes(frame: Frame) -> bytes:
    """Write a frame into a stream."""
    return frame.encode() if isinstance(frame, str) else frame


def lane(serializer: Serializer = V2, stream: bool = True) -> Lane:
    """Make a lane; equal for equal arguments."""
    return Lane(serializer, to_bytes, stream)


#: Reads a broadcast, as a receiver does in its turn.
read = PubSub(lambda delivery: None, Json().loads).read


class Receiver:
    """A subscriber, and what it gets: what is written to it, and what it is told."""

    def __init__(self, lane: Lane | None = None, *intercepts: str) -> None:
        self.told: list[Broadcast] = []
        self.written: list[Any] = []
        write = self.written.append if lane is not None else None
        self.missed: list[Broadcast] = []
        self.subscriber = Subscriber(
            lambda broadcast: self.told.append(read(broadcast)),
            lane,
            write,
            frozenset(intercepts),
            lambda broadcast, _: self.missed.append(broadcast),
        )


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a hub that runs."""
    hub = Hub()
    hub.start()
    yield hub
    hub.stop()


@pytest.fixture
def pubsub(hub: Hub) -> PubSub:
    return PubSub(hub.put, Json().loads)


def listen(pubsub: PubSub, *receivers: Receiver, topic: str = "room:1") -> None:
    """Subscribe all of them."""
    for receiver in receivers:
        pubsub.subscribe(topic, receiver.subscriber)


def say(pubsub: PubSub, *broadcasts: Broadcast, sender: Receiver | None = None) -> None:
    """Broadcast, and let the hub deliver."""
    for broadcast in broadcasts:
        pubsub.broadcast(broadcast, sender.subscriber if sender else None)
    turn()


# What each receiver gets


def test_a_broadcast_is_encoded_once_for_each_kind_of_client(pubsub: PubSub) -> None:
    class Counting(V2Serializer):
        written = 0

        def encode_broadcast(self, broadcast: Broadcast) -> Frame:
            self.written += 1
            return super().encode_broadcast(broadcast)

    one, other = Counting(Json()), Counting(Json())
    say(pubsub, HELLO)
    crowd = [Receiver(lane(serializer)) for serializer in (one, one, one, other)]
    listen(pubsub, *crowd)
    say(pubsub, HELLO, HELLO._replace(topic="room:10"))
    assert [receiver.written for receiver in crowd] == [[HELLO_V2]] * 4
    assert (one.written, other.written) == (1, 1)
    say(pubsub, HELLO, sender=crowd[3])
    assert (one.written, other.written) == (2, 1)


def test_each_kind_of_client_gets_its_own_format(pubsub: PubSub) -> None:
    old, new, listener = Receiver(lane(V1)), Receiver(lane()), Receiver()
    listen(pubsub, old, new, listener)
    say(pubsub, HELLO)
    assert (old.written, new.written, listener.told) == ([HELLO_V1], [HELLO_V2], [VALUE])


def test_a_client_that_cannot_be_sent_a_broadcast_goes_without(
    pubsub: PubSub, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(V2Serializer):
        def encode_broadcast(self, broadcast: Broadcast) -> Frame:
            raise RuntimeError("broken")

    old, sender, broken = Receiver(lane(V1)), Receiver(lane(V1)), Receiver(lane(Broken(Json())))
    new, picky, listener = Receiver(lane()), Receiver(lane(V1), "hello"), Receiver()
    listen(pubsub, old, sender, broken, new, picky, listener)
    blob = HELLO._replace(payload=b"\x01")
    say(pubsub, blob, sender=sender)
    assert new.written == [b"\x02\x06\x05room:1hello\x01"]
    assert picky.told == listener.told == old.missed == [blob]
    assert old.written + broken.written + sender.missed + picky.missed == []
    assert ["cannot encode" in record.getMessage() for record in caplog.records] == [True]


def test_whoever_needs_a_value_gets_one_of_its_own(pubsub: PubSub) -> None:
    seen: list[Any] = []

    def edit(broadcast: Broadcast) -> None:
        payload = read(broadcast).payload
        seen.append(dict(payload))
        payload["n"] = "edited"

    for intercepts, each in [((), None), ((), None), (("hello",), lane()), (("hello",), lane())]:
        pubsub.subscribe("room:1", Subscriber(edit, each, seen.append, frozenset(intercepts)))
    for _ in range(2):
        pubsub.tap(lambda broadcast: edit(broadcast))
    direct = Receiver(lane())
    listen(pubsub, direct)
    say(pubsub, HELLO)
    assert (seen, direct.written) == ([{"n": 1}] * 6, [HELLO_V2])


KINDS: dict[tuple[Serializer | None, ...], bool] = {
    (): False,
    (V1,): True,
    (V1, V2): False,
    (V2,): False,
    (None,): False,
}


@pytest.mark.parametrize(("kinds", "taken"), KINDS.items())
def test_it_tells_whether_all_clients_of_a_topic_take_a_broadcast(
    pubsub: PubSub, kinds: tuple[Serializer | None, ...], taken: bool
) -> None:
    listen(pubsub, *(Receiver(lane(kind) if kind else None) for kind in kinds))
    assert pubsub.takes(HELLO._replace(payload=JsonText("[1]"))) is taken


def test_an_intercepted_event_does_not_go_to_the_client(pubsub: PubSub) -> None:
    direct, picky = Receiver(lane()), Receiver(lane(), "secret")
    listen(pubsub, direct, picky)
    say(pubsub, SECRET, HELLO)
    assert (b"".join(direct.written), direct.told) == (b'[null,null,"room:1","secret",{}]' + HELLO_V2, [])
    assert (picky.written, picky.told) == ([HELLO_V2], [SECRET._replace(payload={})])


@pytest.mark.parametrize("event", ["hello", "secret"])
def test_the_sender_may_be_left_out(pubsub: PubSub, event: str) -> None:
    sender, other, listener, stranger = Receiver(lane(), "secret"), Receiver(lane(), "secret"), Receiver(), Receiver()
    listen(pubsub, sender, other, listener)
    say(pubsub, HELLO._replace(event=event), sender=sender)
    assert (sender.written, sender.told) == ([], [])
    assert (len(other.written + other.told), len(listener.told)) == (1, 1)
    say(pubsub, HELLO._replace(event=event), sender=listener)
    assert (len(other.written + other.told), len(listener.told)) == (2, 1)
    say(pubsub, HELLO._replace(event=event), sender=stranger)
    assert len(listener.told) == 2


def test_a_second_subscription_doubles_and_one_unsubscription_ends_both(pubsub: PubSub) -> None:
    twice, once = Receiver(), Receiver()
    listen(pubsub, twice, once, twice)
    say(pubsub, HELLO)
    assert (twice.told, once.told) == ([VALUE, VALUE], [VALUE])
    for _ in range(2):
        pubsub.unsubscribe("room:1", twice.subscriber)
    pubsub.unsubscribe("room:2", twice.subscriber)
    say(pubsub, HELLO)
    assert (len(twice.told), len(once.told)) == (2, 2)
    assert pubsub.subscribed("room:1")
    pubsub.unsubscribe("room:1", once.subscriber)
    assert not pubsub.subscribed("room:1")


def test_a_broadcast_is_for_those_who_are_subscribed_at_that_moment(pubsub: PubSub) -> None:
    early, leaving, late = Receiver(lane()), Receiver(lane()), Receiver(lane())
    listen(pubsub, early, leaving)
    pubsub.broadcast(HELLO)
    listen(pubsub, late)
    pubsub.unsubscribe("room:1", leaving.subscriber)
    turn()
    assert (early.written, leaving.written, late.written) == ([HELLO_V2], [HELLO_V2], [])


def test_a_tap_hears_everything_but_what_nodes_send_each_other(pubsub: PubSub) -> None:
    tapped: list[Broadcast] = []
    end, listener = pubsub.tap(lambda broadcast: tapped.append(read(broadcast))), Receiver()
    elsewhere, internal = HELLO._replace(topic="room:9"), HELLO._replace(topic="phx:presence:Online")
    listen(pubsub, listener, topic=internal.topic)
    say(pubsub, HELLO, internal, elsewhere)
    for _ in range(2):
        end()
    say(pubsub, HELLO)
    assert tapped == [VALUE, VALUE._replace(topic="room:9")]
    assert listener.told == [VALUE._replace(topic=internal.topic)]


def test_json_of_another_node_goes_out_as_it_is_and_is_read_for_those_who_need_values(pubsub: PubSub) -> None:
    class Keys(V2Serializer):
        def encode_broadcast(self, broadcast: Broadcast) -> Frame:
            return " ".join(broadcast.payload)

    tapped: list[Broadcast] = []
    pubsub.tap(lambda broadcast: tapped.append(read(broadcast)))
    old, new, keys = Receiver(lane(V1)), Receiver(lane()), Receiver(lane(Keys(Json())))
    picky, listener = Receiver(lane(), "hello"), Receiver()
    listen(pubsub, old, new, keys, picky, listener)
    say(pubsub, Broadcast("room:1", "hello", JsonText('{ "n" : 1 }')))
    assert old.written == [b'{"topic":"room:1","event":"hello","ref":null,"payload":{ "n" : 1 }}']
    assert (new.written, keys.written) == ([b'[null,null,"room:1","hello",{ "n" : 1 }]'], [b"n"])
    assert picky.told == listener.told == tapped == [VALUE]


# When: the hub


def test_a_hub_that_does_not_run_delivers_at_once_in_any_thread() -> None:
    hub, heard = Hub(), list[bytes]()
    hub.stop()
    hub.put(Delivery("t", b"a", [heard.append], True))
    in_thread(hub.put, Delivery("t", b"b", [heard.append], True))
    assert heard == [b"a", b"b"]
    assert not hub.elsewhere


def test_a_hub_can_be_stopped_and_started_again() -> None:
    hub, heard = Hub(), list[bytes]()
    for data in (b"1", b"2"):
        for _ in range(2):
            hub.start()
        hub.put(Delivery("t", data, [heard.append], True))
        turn()
        assert hub.running
        hub.stop()
        assert not hub.running
    assert heard == [b"1", b"2"]


def test_who_hands_on_what_others_publish_waits_until_there_is_room(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "WAITING_LIMIT", 2)
    heard = list[Any]()
    for data in (b"1", b"23", Broadcast("t", "e", '"45"')):
        hub.wait_for_room()
        hub.put(Delivery("t", data, [heard.append], type(data) is bytes))
        assert len(heard) < 3
    assert heard == [b"123"]
    hub.wait_for_room()
    assert heard[1:] == [Broadcast("t", "e", '"45"')]


def test_nobody_waits_for_room_in_a_hub_that_is_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "WAITING_LIMIT", 0)
    hub.put(Delivery("t", b"1", [bytes], True))
    waiting = gevent.spawn(hub.wait_for_room)
    gevent.get_hub().loop.run_callback(hub.forget)  # before anything is delivered
    waiting.get(timeout=DEADLINE)


def test_each_receiver_gets_its_share_of_a_burst_in_one_write(hub: Hub) -> None:
    ann, bob, cid, told = list[bytes](), list[bytes](), list[bytes](), list[Any]()
    for data, receivers in [(b"1", [ann, bob]), (b"2", [bob, cid]), (b"3", [ann]), (b"4", [cid, ann, bob])]:
        hub.put(Delivery("t", data, [receiver.append for receiver in receivers], True))
        hub.put(Delivery("t", {"no": "stream"}, [told.append], False))
    assert ann == []
    turn()
    assert (ann, bob, cid) == ([b"134"], [b"124"], [b"24"])
    assert told == [{"no": "stream"}] * 4


def test_topics_whose_clients_are_apart_are_delivered_as_they_came(hub: Hub) -> None:
    told: list[tuple[list[str], bytes]] = []
    for data, receivers in [(b"1", ["ann", "bob"]), (b"2", ["cid"])]:
        hub.put(Delivery(receivers[0], data, receivers, True, lambda *share: told.append(share)))
    turn()
    assert told == [(["ann", "bob"], b"1"), (["cid"], b"2")]


def test_a_burst_on_one_topic_is_joined(pubsub: PubSub) -> None:
    crowd = [Receiver(lane()) for _ in range(3)]
    listen(pubsub, *crowd)
    say(pubsub, HELLO, HELLO, HELLO)
    assert [receiver.written for receiver in crowd] == [[HELLO_V2 * 3]] * 3


def test_it_tells_for_whom_something_waits(hub: Hub) -> None:
    one, other = list[bytes](), list[bytes]()
    for key, data in [("room:1", b"1"), ("room:1", b"2"), (id(other), b"3")]:
        hub.put(Delivery(key, data, [one.append], True))
    assert hub.owes(None, ["room:0", "room:1"])
    assert hub.owes(id(other), [])
    assert not hub.owes(id(one), ["room:2"])
    turn()
    assert not hub.owes(id(other), ["room:1"])


def test_what_comes_during_a_large_fan_out_waits_for_its_end_and_others_run(hub: Hub) -> None:
    heard, seen = list[bytes](), list[int]()
    size = RECEIVERS_PER_TURN * 4
    owed: list[bool] = []

    def watch() -> None:
        while b"late" not in heard:
            seen.append(len(heard))
            gevent.sleep(MOMENT)  # sockets and timers are looked at, too

    watcher = gevent.spawn(watch)
    hub.put(Delivery("t", b"x", [*[heard.append] * size, lambda _: owed.append(hub.owes(None, ["t"]))], True))
    while not heard:
        turn(1)
    hub.put(Delivery("t", b"late", [heard.append], True))
    watcher.get(timeout=DEADLINE)
    turn()
    assert {RECEIVERS_PER_TURN * part for part in range(5)} <= set(seen)
    assert heard == [*[b"x"] * size, b"late"]
    assert owed == [True]
    assert not hub.owes(None, ["t"])


def test_before_a_large_fan_out_it_gathers_what_is_about_to_come(hub: Hub) -> None:
    writes: list[bytes] = []
    receivers = [writes.append] * (RECEIVERS_PER_TURN + 1)

    def chatter() -> None:
        for data in (b"2", b"3"):
            hub.put(Delivery("t", data, receivers, True))
            turn(1)

    hub.put(Delivery("t", b"1", receivers, True))
    gevent.spawn(chatter).join(DEADLINE)
    assert wait_until(lambda: len(writes) > RECEIVERS_PER_TURN, turn)
    assert writes == [b"123"] * (RECEIVERS_PER_TURN + 1)


@pytest.mark.parametrize("error", [RuntimeError, CancelledError])
def test_a_receiver_that_fails_is_logged_and_harms_nobody(
    hub: Hub, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def fail(*_: Any) -> None:
        raise error("on purpose")

    ann, bob = list[bytes](), list[bytes]()
    for data in (b"1", b"2"):
        hub.put(Delivery("t", data, [ann.append], False, fail))
        hub.put(Delivery("t", 7, [ann.append], True))  # what cannot be joined
        hub.put(Delivery("t", 7, [ann.append], True))
        turn()
        hub.put(Delivery("t", data, [ann.append, fail, bob.append], True))
        turn()
    assert (ann, bob) == ([b"1", b"2"], [b"1", b"2"])
    assert {record.name for record in caplog.records} == {"flask_phoenix.pubsub"}
    assert hub.running
    assert not hub.owes(None, ["t"])


def test_a_hub_whose_greenlet_is_killed_goes_on_with_another(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []
    turn()
    every = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet)]
    gevent.killall([each for each in every if "Hub._run" in repr(each)])
    turn()
    hub.put(Delivery("t", b"1", [heard.append], True))
    turn()
    assert (heard, "was killed" in caplog.text) == ([b"1"], True)


@pytest.mark.parametrize("run", [in_thread, partial(in_thread, in_plain_thread)], ids=["pool", "plain"])
def test_another_thread_may_ask_for_what_blocks(hub: Hub, run: Callable[..., Any]) -> None:
    def work(error: Exception | None) -> bool:
        gevent.sleep(0)
        if error:
            raise error
        return hub.elsewhere

    assert run(hub.run, work, None) is False
    with pytest.raises(KeyError, match="theirs"):
        run(hub.run, work, KeyError("theirs"))
    assert hub.run(work, None) is False


@pytest.mark.parametrize(
    "start", [in_thread, lambda talk: monkey.get_original("_thread", "start_new_thread")(talk, ())]
)
def test_another_thread_hands_over_in_order(hub: Hub, start: Callable[[Callable[[], None]], Any]) -> None:
    heard, done, where = list[bytes](), Event(), list[bool]()

    def end(_: Any) -> None:
        where.append(hub.elsewhere)
        done.set()

    def talk() -> None:
        where.append(hub.elsewhere and hub.owes(None, []))
        for number in range(100):
            hub.put(Delivery("t", b"%d," % number, [heard.append], True))
        hub.call(end, None)

    start(talk)
    assert done.wait(DEADLINE)
    turn()
    assert b"".join(heard) == b"".join(b"%d," % number for number in range(100))
    assert where == [True, False]
    assert not gevent.spawn(lambda: hub.elsewhere).get(timeout=DEADLINE)
    hub.call(where.append, True)
    assert len(where) == 3


def test_calls_at_the_end_of_a_turn_come_before_deliveries(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []

    def broken() -> None:
        raise RuntimeError("broken")

    for calls in ([lambda: log.append("first"), broken, lambda: log.append("last")], [broken]):
        for call in calls:
            hub.at_end_of_turn(call)
        hub.put(Delivery("t", "delivered", [log.append], False))
        turn()
    assert log == ["first", "last", "delivered", "delivered"]
    assert ["failed at the end of a turn" in record.getMessage() for record in caplog.records] == [True, True]


# Topics that an adapter is asked for


class Confirming(Adapter):
    """Remembers what it is asked for, and confirms a topic when the test says so."""

    def __init__(self, slow: bool = False) -> None:
        self.asked: list[str] = []
        self.slow = slow
        self.ready: list[Event] = []

    def subscribe(self, topic: str) -> None:
        self.asked.append(f"+{topic}")
        if self.slow:
            self.ready.append(Event())
            self.ready[-1].wait(DEADLINE)

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(f"-{topic}")


def test_an_adapter_is_asked_for_a_topic_while_it_has_a_subscriber(pubsub: PubSub) -> None:
    adapter, one, other = Confirming(), Receiver(lane()), Receiver()
    listen(pubsub, other, topic="early")
    for _ in range(2):
        pubsub.attach(adapter)
    listen(pubsub, one, other, one, topic="a")
    assert adapter.asked == ["+early", "+a"]
    for receiver in (one, one, other):
        assert "-a" not in adapter.asked
        pubsub.unsubscribe("a", receiver.subscriber)
    pubsub.unsubscribe("never", one.subscriber)
    listen(pubsub, one, topic="a")
    assert adapter.asked[2:] == ["-a", "+a"]


def test_a_topic_that_cannot_be_had_is_not_subscribed_to(pubsub: PubSub) -> None:
    class Broken(Confirming):
        def subscribe(self, topic: str) -> None:
            raise PhoenixError("out of reach")

    pubsub.attach(Broken())
    with pytest.raises(PhoenixError):
        listen(pubsub, Receiver(), topic="a")
    assert not pubsub.subscribed("a")


@pytest.mark.parametrize("killed", [True, False])
def test_a_topic_is_kept_while_a_subscription_is_under_way(pubsub: PubSub, killed: bool) -> None:
    adapter, one, other = Confirming(slow=True), Receiver(), Receiver()
    pubsub.attach(adapter)
    coming = [gevent.spawn(listen, pubsub, each, topic="a") for each in (one, other)]
    turn()
    if killed:
        coming[0].kill()
    else:
        adapter.ready[0].set()
        coming[0].join(DEADLINE)
        pubsub.unsubscribe("a", one.subscriber)
    assert adapter.asked == ["+a", "+a"]
    if killed:
        coming[1].kill()
    else:
        adapter.ready[1].set()
        coming[1].join(DEADLINE)
        assert pubsub.subscribed("a")
        pubsub.unsubscribe("a", other.subscriber)
    assert adapter.asked[2:] == ["-a"]
    assert not pubsub.subscribed("a")


def test_a_topic_that_is_left_while_an_adapter_is_attached_is_left_there_too(pubsub: PubSub) -> None:
    adapter, one = Confirming(slow=True), Receiver()
    for topic in ("a", "b"):
        listen(pubsub, one, topic=topic)
    attaching = gevent.spawn(pubsub.attach, adapter)
    turn()
    pubsub.unsubscribe("a", one.subscriber)
    for event in adapter.ready:
        event.set()
        turn()
    attaching.get(timeout=DEADLINE)
    assert adapter.asked == ["+a", "-a", "+b"]


def test_another_adapter_is_asked_for_everything_anew(pubsub: PubSub) -> None:
    former, latter, one, late = Confirming(), Confirming(), Receiver(), Receiver()
    pubsub.attach(former)
    listen(pubsub, one, topic="a")
    former.slow = True
    coming = gevent.spawn(listen, pubsub, late, topic="b")
    turn()
    pubsub.detach()
    listen(pubsub, one, topic="c")
    pubsub.attach(latter)
    former.ready[0].set()  # what the former one confirms does not count
    coming.get(timeout=DEADLINE)
    listen(pubsub, one, late, topic="a")
    assert (former.asked, latter.asked) == (["+a", "+b"], ["+a", "+c", "+b"])
