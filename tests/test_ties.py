"""What a channel holds on to: subscriptions and timers, and that all of it is let go."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.exceptions import NotPublished, PhoenixError
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.local import Delivery, PubSub, Subscriber
from flask_phoenix.runtime.ties import Ties
from tests.processes import DEADLINE
from tests.roads import turn
from tests.slow import SlowAdapter


def deliver(delivery: Delivery) -> None:
    """Do at once what the hub does."""
    for receive in delivery.receivers:
        receive(delivery.data)


class Desk:
    """A pubsub that delivers at once, and the ties of one channel."""

    def __init__(self) -> None:
        self.own: list[str] = []
        self.other: list[str] = []
        self.pubsub = PubSub(deliver, json.loads)
        own = Subscriber(lambda broadcast: self.own.append(broadcast.topic))
        other = Subscriber(lambda broadcast: self.other.append(broadcast.topic))
        self.ties = Ties(self.pubsub, "room:1", own, other)

    def say(self, *topics: str) -> None:
        """Broadcast on topics."""
        for topic in topics:
            self.pubsub.broadcast(Broadcast(topic, "e", {}))

    def subscribed(self) -> list[str]:
        """Return the topics that somebody hears."""
        return [topic for topic in ("room:1", "news", "more") if self.pubsub.subscribed(topic)]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def pass_by(seconds: float) -> None:
    """Let a time pass, by the clock that the timers go by."""
    rung = Event()
    Desk().ties.after(seconds, rung.set)
    assert rung.wait(DEADLINE)


def test_nothing_is_heard_before_the_join(desk: Desk) -> None:
    desk.say("room:1")
    assert desk.own == []
    desk.ties.join()
    desk.say("room:1", "news")
    assert (desk.own, desk.other) == (["room:1"], [])


def test_other_topics_are_heard_apart(desk: Desk) -> None:
    desk.ties.join()
    desk.ties.subscribe("news")
    desk.ties.subscribe("room:1")
    desk.say("news", "room:1")
    assert (desk.own, desk.other) == (["room:1"], ["news", "room:1"])
    desk.ties.unsubscribe("room:1")
    desk.say("news", "room:1")
    assert (desk.own, desk.other) == (["room:1", "room:1"], ["news", "room:1", "news"])


def test_two_subscriptions_are_heard_twice_and_end_at_once(desk: Desk) -> None:
    desk.ties.subscribe("news")
    desk.ties.subscribe("news")
    desk.say("news")
    assert desk.other == ["news", "news"]
    desk.ties.unsubscribe("news")
    desk.ties.unsubscribe("news")
    assert desk.subscribed() == []


def test_what_was_never_subscribed_may_be_unsubscribed(desk: Desk) -> None:
    desk.ties.unsubscribe("news")
    desk.ties.join()
    desk.ties.unsubscribe("room:1")
    assert desk.subscribed() == ["room:1"]


def test_a_timer_rings_once(desk: Desk) -> None:
    log: list[str] = []
    cancel = desk.ties.after(0, note(log, "rung"))
    pass_by(0.005)
    cancel()
    cancel()
    pass_by(0.001)
    assert log == ["rung"]


def test_a_cancelled_timer_does_not_ring(desk: Desk) -> None:
    log: list[str] = []
    cancels = [desk.ties.after(0.001, note(log, name)) for name in ("first", "second")]
    cancels[0]()
    cancels[0]()
    pass_by(0.01)
    assert log == ["second"]


def note(log: list[str], text: str) -> Callable[[], None]:
    """Return a function that notes something."""
    return lambda: log.append(text)


def test_closing_lets_go_of_everything(desk: Desk) -> None:
    log: list[str] = []
    desk.ties.join()
    desk.ties.subscribe("news")
    desk.ties.subscribe("more")
    cancels = [desk.ties.after(0, note(log, "rung")) for _ in range(2)]
    assert desk.subscribed() == ["room:1", "news", "more"]
    desk.ties.close()
    assert desk.subscribed() == []
    cancels[0]()
    pass_by(0.005)
    assert log == []


def test_closing_may_be_repeated_and_comes_first(desk: Desk) -> None:
    desk.ties.close()
    desk.ties.close()
    assert desk.subscribed() == []


def test_what_is_closed_holds_on_to_nothing(desk: Desk) -> None:
    log: list[str] = []
    desk.ties.close()
    desk.ties.subscribe("news")
    desk.ties.unsubscribe("news")
    desk.ties.after(0, note(log, "rung"))()
    desk.ties.after(0, note(log, "rung"))
    pass_by(0.005)
    assert (desk.subscribed(), log) == ([], [])


# Topics that take their time


@pytest.fixture
def slow(desk: Desk) -> SlowAdapter:
    """Return a way to other nodes that lets the desk wait for its topics."""
    adapter = SlowAdapter()
    desk.pubsub.join(adapter)
    return adapter


def test_a_topic_is_heard_when_it_is_had(desk: Desk, slow: SlowAdapter) -> None:
    coming = gevent.spawn(desk.ties.join)
    turn()
    desk.say("room:1")
    assert (slow.asked, desk.own, coming.ready()) == (["room:1"], [], False)
    slow.confirm()
    desk.say("room:1")
    assert (desk.own, coming.ready()) == (["room:1"], True)


@pytest.mark.parametrize("topic", ["room:1", "news"])
def test_what_is_closed_while_it_waits_for_a_topic_lets_go_of_it(desk: Desk, slow: SlowAdapter, topic: str) -> None:
    coming = gevent.spawn(desk.ties.join) if topic == "room:1" else gevent.spawn(desk.ties.subscribe, topic)
    turn()
    desk.ties.close()
    slow.confirm()
    desk.say(topic)
    assert (desk.subscribed(), slow.topics, desk.own, desk.other) == ([], [], [], [])
    assert coming.successful()


def test_what_is_closed_leaves_a_topic_to_others(desk: Desk, slow: SlowAdapter) -> None:
    told: list[Broadcast] = []
    coming = [gevent.spawn(desk.ties.join), gevent.spawn(desk.pubsub.subscribe, "room:1", Subscriber(told.append))]
    turn()
    desk.ties.close()
    for _ in coming:
        slow.confirm()
    desk.say("room:1")
    assert (desk.own, len(told), slow.topics) == ([], 1, ["room:1"])


@pytest.mark.parametrize("topic", ["room:1", "news"])
def test_a_topic_that_cannot_be_had(desk: Desk, slow: SlowAdapter, topic: str) -> None:
    log: list[PhoenixError] = []

    def enter() -> None:
        with pytest.raises(PhoenixError) as failure:
            desk.ties.join() if topic == "room:1" else desk.ties.subscribe(topic)
        log.append(failure.value)

    coming = gevent.spawn(enter)
    turn()
    slow.confirm(NotPublished("out of reach"))
    coming.get(timeout=DEADLINE)
    assert [str(failure) for failure in log] == ["out of reach"]
    desk.ties.close()
    assert (desk.subscribed(), slow.topics) == ([], [])


# Presences


def test_what_is_held_is_let_go_once_and_in_order(desk: Desk) -> None:
    log: list[str] = []
    desk.ties.join()
    assert desk.ties.hold(note(log, "first")) is True
    assert desk.ties.hold(lambda: log.append("second" if not desk.subscribed() else "still here")) is True
    assert log == []
    desk.ties.close()
    desk.ties.close()
    assert log == ["first", "second"]


def test_what_is_held_may_be_let_go_before_the_end(desk: Desk) -> None:
    log: list[str] = []
    desk.ties.join()
    desk.ties.hold(note(log, "first"))
    desk.ties.release()
    assert (log, desk.subscribed()) == (["first"], ["room:1"])
    assert desk.ties.hold(note(log, "second")) is True
    desk.ties.release()
    desk.ties.release()
    desk.ties.close()
    assert log == ["first", "second"]


def test_nothing_is_held_when_it_is_over(desk: Desk) -> None:
    log: list[str] = []
    desk.ties.close()
    assert desk.ties.hold(note(log, "released")) is False
    desk.ties.close()
    assert log == []


def test_what_is_let_go_may_ask_for_more(desk: Desk) -> None:
    log: list[Any] = []
    desk.ties.hold(lambda: log.append(desk.ties.hold(note(log, "released"))))
    desk.ties.close()
    assert log == [False]
