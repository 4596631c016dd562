"""The engine: broadcasts, what runs beside the connections, the wait for quiet, and the place among the nodes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from threading import Thread
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.exceptions import InvalidOption, InvalidPayload, NotPublished
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.adapter import Adapter, Publisher
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.runtime.engine import Engine, Service
from tests.contract import Node
from tests.processes import DEADLINE, ROOT
from tests.roads import V1, V2, Road, in_thread, turn
from tests.slow import SlowAdapter


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


def heard(engine: Engine, topic: str) -> list[Broadcast]:
    """Listen to a topic."""
    told: list[Broadcast] = []
    engine.pubsub.subscribe(topic, Subscriber(told.append))
    return told


def in_greenlet(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function as a server calls a view."""
    gevent.spawn(function, *arguments).get(timeout=DEADLINE)


def in_plain_thread(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function in a thread that has no greenlets."""
    thread = Thread(target=function, args=arguments)
    thread.start()
    thread.join(DEADLINE)


def test_interfaces_are_for_others_to_write() -> None:
    service = Service()
    calls: list[Callable[[], Any]] = [service.start, service.greet, service.farewell, service.stop]
    calls += [lambda: service.gone("another"), lambda: Served().close(1001, "")]
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()


# Broadcasts


def test_a_broadcast_reaches_those_who_listen(engine: Engine) -> None:
    told, other = heard(engine, "t"), heard(engine, "u")
    engine.broadcast(Broadcast("t", "e", {}))
    assert (told, other) == ([Broadcast("t", "e", {})], [])


@pytest.mark.parametrize(("topic", "event"), [(7, "e"), (None, "e"), ("t", None), ("t", b"e")])
def test_topic_and_event_of_a_broadcast_are_strings(engine: Engine, topic: Any, event: Any) -> None:
    with pytest.raises(InvalidPayload, match="strings"):
        engine.broadcast(Broadcast(topic, event, {}))


def test_a_broadcast_from_another_thread_arrives(engine: Engine) -> None:
    engine.hub.start()
    done = Event()
    told: list[Any] = []
    threads: list[bool] = []

    def listen(broadcast: Broadcast) -> None:
        told.append(broadcast.payload["n"])
        threads.append(engine.hub.elsewhere)
        if broadcast.event == "last":
            done.set()

    def talk() -> None:
        for number in range(50):
            engine.broadcast(Broadcast("t", "last" if number == 49 else "e", {"n": number}))

    engine.pubsub.subscribe("t", Subscriber(listen))
    in_thread(talk)
    assert done.wait(DEADLINE)
    assert told == list(range(50))
    assert not any(threads)


def test_a_broadcast_from_another_thread_fails_there(engine: Engine) -> None:
    engine.serve()
    road = Road()
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, road.lane(V2), road.write))
    told = heard(engine, "t")
    with pytest.raises(InvalidPayload):
        in_thread(engine.broadcast, Broadcast("t", "e", [1]))
    turn()
    assert (road.writes, told) == ([], [])


def test_a_broadcast_is_what_it_was_when_it_was_made(engine: Engine) -> None:
    engine.serve()
    road = Road()
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, road.lane(V2), road.write))

    def talk() -> None:
        payload = {"n": 0}
        for number in range(3):
            payload["n"] = number
            engine.broadcast(Broadcast("t", "e", payload))

    talk()
    turn()
    here = road.rest()
    in_thread(talk)
    turn()
    assert here == [f'[null,null,"t","e",{{"n":{number}}}]' for number in range(3)]
    assert road.rest() == here


# Roads


def test_waiting_until_no_road_is_left(engine: Engine) -> None:
    engine.wait_until_quiet(DEADLINE)
    gate = Event()

    def carry() -> None:
        with engine.carrying():
            gate.wait(DEADLINE)

    roads = [gevent.spawn(carry) for _ in range(2)]
    turn()
    waiter = gevent.spawn(engine.wait_until_quiet, DEADLINE)
    turn()
    assert not waiter.dead
    gate.set()
    waiter.join(DEADLINE)
    assert waiter.successful()
    gevent.joinall(roads, DEADLINE)


def test_waiting_has_an_end(engine: Engine) -> None:
    with engine.carrying():
        engine.wait_until_quiet(0.001)


def test_waiting_for_the_authors_code(engine: Engine) -> None:
    gate = Event()

    def work(limit: Any) -> None:
        gate.wait(limit)

    engine.runners.take().spawn(work, DEADLINE)
    turn()
    waiter = gevent.spawn(engine.wait_until_quiet, DEADLINE)
    turn()
    assert not waiter.dead
    gate.set()
    waiter.get(timeout=DEADLINE)


# Other nodes

#: How ``Broadcast("room:1", "said", {})`` is published.
SAID = ("room:1", b"J\x00\x04said{}")


class Outside(Publisher):
    """Remembers what is published without a node."""

    def __init__(self, asked: list[Any]) -> None:
        self.asked = asked

    def publish(self, topic: str, data: bytes) -> None:
        self.asked.append(("from outside", topic, data))

    def close(self) -> None:
        self.asked.append("close")


class Recording(Adapter):
    """Remembers what it is asked for, and can be told what another node has published."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def publisher(self) -> Publisher:
        self.asked.append("publisher")
        return Outside(self.asked)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        self.asked.append(("start", node))
        self.receive = receive
        self.gone = gone

    def stop(self) -> None:
        self.asked.append("stop")

    def subscribe(self, topic: str) -> None:
        self.asked.append(("subscribe", topic))

    def unsubscribe(self, topic: str) -> None:
        self.asked.append(("unsubscribe", topic))

    def publish(self, topic: str, data: bytes) -> None:
        self.asked.append((topic, data))


@pytest.fixture
def adapter() -> Recording:
    return Recording()


@pytest.fixture
def joined(adapter: Recording) -> Iterator[Engine]:
    """Return an engine that has a way to other nodes."""
    engine = Engine(nullcontext, Json(), lambda: adapter)
    yield engine
    engine.stop()


def test_a_node_has_its_name_while_it_serves(engine: Engine) -> None:
    assert not engine.hub.running
    assert engine.node == ""
    engine.serve()
    name = engine.node
    engine.serve()
    assert engine.node == name != ""
    engine.stop()
    assert engine.node == ""
    engine.serve()
    assert engine.node not in ("", name)


def test_the_adapter_is_started_once(joined: Engine, adapter: Recording) -> None:
    assert adapter.asked == []
    joined.serve()
    joined.serve()
    assert adapter.asked == [("start", joined.node)]
    joined.stop()
    joined.stop()
    assert adapter.asked[1:] == ["stop"]


def test_a_broadcast_is_published(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    told = heard(joined, "room:1")
    joined.broadcast(Broadcast("room:1", "said", {"n": 1}))
    joined.broadcast(Broadcast("room:1", "said", b"\x01"), None)
    joined.broadcast(Broadcast("nobody", "said", {}))
    turn()
    assert told == [Broadcast("room:1", "said", {"n": 1}), Broadcast("room:1", "said", b"\x01")]
    assert adapter.asked[2:] == [
        ("room:1", b'J\x00\x04said{"n":1}'),
        ("room:1", b"B\x00\x04said\x01"),
        ("nobody", b"J\x00\x04said{}"),
    ]


def test_a_local_broadcast_is_not(joined: Engine, adapter: Recording) -> None:
    told = heard(joined, "room:1")
    joined.broadcast(Broadcast("room:1", "said", {"n": 1}), local=True)
    assert adapter.asked == []
    joined.serve()
    joined.broadcast(Broadcast("room:1", "said", {"n": 2}), local=True)
    turn()
    assert told == [Broadcast("room:1", "said", {"n": number}) for number in (1, 2)]
    assert adapter.asked == [("start", joined.node), ("subscribe", "room:1")]


def test_what_another_node_has_published_is_delivered_here_alone(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    told = heard(joined, "room:1")
    adapter.receive("room:1", b'J\x00\x04said{"n":1}')
    adapter.receive("room:2", b"J\x00\x04said{}")
    turn()
    assert told == [Broadcast("room:1", "said", {"n": 1})]
    assert len(adapter.asked) == 2


@pytest.mark.parametrize("serves", [True, False])
def test_a_broadcast_that_cannot_be_published_was_delivered_here(
    joined: Engine, monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    def publish(way: Any, topic: str, data: bytes) -> None:
        raise NotPublished("out of reach")

    for way in (Recording, Outside):
        monkeypatch.setattr(way, "publish", publish)
    told = heard(joined, "room:1")
    if serves:
        joined.serve()
    with pytest.raises(NotPublished, match="out of reach"):
        joined.broadcast(Broadcast("room:1", "said", {}))
    turn()
    assert told == [Broadcast("room:1", "said", {})]


def test_a_broadcast_from_another_thread_is_published(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    in_thread(joined.broadcast, Broadcast("room:1", "said", {}))
    assert adapter.asked[1:] == [("room:1", b"J\x00\x04said{}")]


@pytest.mark.parametrize("serves", [True, False])
def test_a_payload_that_cannot_be_published_is_delivered_to_nobody(
    joined: Engine, adapter: Recording, serves: bool
) -> None:
    told = heard(joined, "room:1")
    if serves:
        joined.serve()
    with pytest.raises(InvalidPayload, match="cannot be written as JSON"):
        joined.broadcast(Broadcast("room:1", "said", object()))
    joined.broadcast(Broadcast("room:1", "said", None), local=True)
    turn()
    assert told == [Broadcast("room:1", "said", None)]
    assert adapter.asked == ([("start", joined.node), ("subscribe", "room:1")] if serves else ["publisher"])


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"nonsense", "expected a broadcast of another node"), (b"B\x00\x04said\x01", "InvalidPayload")],
)
def test_what_cannot_be_delivered_here_is_lost_and_logged(
    joined: Engine, adapter: Recording, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    joined.serve()
    road = Road()
    joined.pubsub.subscribe("room:1", Subscriber(lambda broadcast: None, road.lane(V1), road.write))
    adapter.receive("room:1", data)
    adapter.receive("room:1", b"J\x00\x04said{}")
    turn()
    assert len(road.rest()) == 1
    assert [record.message for record in caplog.records] == ["a broadcast of another node on 'room:1' is lost"]
    assert why in caplog.text


# Services


class Noting(Service):
    """Writes down what it is told, and what it sees."""

    def __init__(self, engine: Engine, log: list[Any]) -> None:
        self.engine = engine
        self.log = log

    def start(self) -> None:
        assert self.engine.hub.running
        assert self.engine.node
        self.log.append("start")

    def greet(self) -> None:
        self.log.append("meet")

    def farewell(self) -> None:
        self.log.append("farewell")

    def stop(self) -> None:
        assert self.engine.node
        self.log.append("stop service")

    def gone(self, node: str) -> None:
        self.log.append(("gone", node))


@pytest.fixture
def service(joined: Engine, adapter: Recording) -> Noting:
    """Return a service of an engine, which writes to where its adapter writes."""
    service = Noting(joined, adapter.asked)
    joined.add(service)
    return service


def test_a_service_lives_as_long_as_the_engine_serves(joined: Engine, adapter: Recording, service: Noting) -> None:
    assert adapter.asked == []
    for _ in range(2):
        joined.serve()
        joined.serve()
        assert adapter.asked == [("start", joined.node), "start", "meet"]
        joined.farewell()
        joined.stop()
        joined.stop()
        assert adapter.asked[3:] == ["farewell", "stop service", "stop"]
        adapter.asked.clear()


def test_all_services_have_begun_before_any_turns_to_other_nodes(
    joined: Engine, adapter: Recording, service: Noting
) -> None:
    joined.add(Noting(joined, adapter.asked))
    joined.serve()
    assert adapter.asked[1:] == ["start", "start", "meet", "meet"]


def test_a_service_that_comes_late_begins_at_once(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    joined.add(Noting(joined, adapter.asked))
    assert adapter.asked[1:] == ["start", "meet"]


def test_a_stop_may_come_while_services_turn_to_other_nodes(
    joined: Engine, adapter: Recording, service: Noting
) -> None:
    gate = Event()

    class Slow(Noting):
        def greet(self) -> None:
            gate.wait(DEADLINE)
            super().greet()

    joined.services.insert(0, Slow(joined, adapter.asked))
    serving = gevent.spawn(joined.serve)
    turn()
    joined.stop()
    gate.set()
    serving.get(timeout=DEADLINE)
    assert adapter.asked[1:] == ["start", "start", "stop service", "stop service", "stop", "meet"]


def test_who_only_speaks_has_no_services(joined: Engine, adapter: Recording, service: Noting) -> None:
    joined.broadcast(Broadcast("room:1", "said", {}))
    joined.farewell()
    joined.stop()
    assert adapter.asked == ["publisher", ("from outside", *SAID), "close"]
    in_greenlet(joined.broadcast, Broadcast("room:1", "said", {}))
    adapter.gone("another")
    joined.farewell()
    joined.stop()
    assert [adapter.asked[3][0], *adapter.asked[4:]] == ["start", SAID, "stop"]


def test_a_service_hears_of_the_end_of_another_node(
    joined: Engine, adapter: Recording, service: Noting, caplog: pytest.LogCaptureFixture
) -> None:
    joined.serve()
    with caplog.at_level("INFO"):
        adapter.gone("another")
    assert adapter.asked[3:] == [("gone", "another")]
    assert "node another has ended" in caplog.text


# To the other nodes alone


def test_what_is_published_is_for_other_nodes_alone(joined: Engine, adapter: Recording) -> None:
    told = heard(joined, "room:1")
    joined.publish(Broadcast("room:1", "said", {"n": 1}))
    assert adapter.asked == []
    joined.serve()
    joined.publish(Broadcast("room:1", "said", {"n": 2}))
    turn()
    assert told == []
    assert adapter.asked[2:] == [("room:1", b'J\x00\x04said{"n":2}')]


def test_without_other_nodes_nothing_is_published(engine: Engine) -> None:
    told = heard(engine, "room:1")
    engine.publish(Broadcast("room:1", "said", {}))
    assert (told, engine.node) == ([], "")


def test_what_cannot_be_published_is_told(joined: Engine, adapter: Recording) -> None:
    def publish(topic: str, data: bytes) -> None:
        raise NotPublished("out of reach")

    joined.serve()
    with pytest.raises(InvalidPayload):
        joined.publish(Broadcast("room:1", "said", object()))
    adapter.publish = publish  # type: ignore[method-assign]
    with pytest.raises(NotPublished, match="out of reach"):
        joined.publish(Broadcast("room:1", "said", {}))


# How a node begins and ends


class Failing(Recording):
    """Cannot start for a while.

    :param failures: what is raised by one start after the other.
    """

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        if self.failures:
            raise self.failures.pop(0)
        super().start(node, receive, gone)


def engine_of(*adapters: Adapter | None) -> tuple[Engine, list[Adapter | None]]:
    """Make an engine that finds one adapter after the other, and return those that it has yet to find."""
    ways = list(adapters)
    return Engine(nullcontext, Json(), lambda: ways.pop(0)), ways


def test_the_adapter_is_looked_for_when_it_is_needed(adapter: Recording) -> None:
    engine, ways = engine_of(adapter)
    assert (len(ways), engine.adapter, engine.node) == (1, None, "")
    engine.serve()
    assert (len(ways), engine.adapter) == (0, adapter)
    engine.serve()
    engine.broadcast(Broadcast("t", "e", {}))
    engine.stop()
    assert engine.adapter is None
    engine.stop()


def test_each_time_it_serves_it_looks_for_the_adapter_anew(adapter: Recording) -> None:
    engine, _ = engine_of(adapter, None, Recording())
    told = heard(engine, "room:1")
    found = []
    for _ in range(3):
        engine.serve()
        found.append(engine.adapter)
        engine.broadcast(Broadcast("room:1", "said", {}))
        turn()
        engine.stop()
    assert found[:2] == [adapter, None]
    (start, *rest) = adapter.asked
    assert (start[0], rest) == ("start", [("subscribe", "room:1"), ("room:1", b"J\x00\x04said{}"), "stop"])
    assert isinstance(found[2], Recording)
    assert found[2].asked[1:] == rest
    assert len(told) == 3


def test_an_adapter_that_comes_again_is_asked_for_all_topics_again(adapter: Recording) -> None:
    engine, _ = engine_of(adapter, adapter)
    heard(engine, "room:1")
    for _ in range(2):
        engine.serve()
        assert [adapter.asked[0][0], *adapter.asked[1:]] == ["start", ("subscribe", "room:1")]
        engine.stop()
        assert adapter.asked[2:] == ["stop"]
        adapter.asked.clear()


def test_what_was_subscribed_while_nothing_was_served_is_asked_for_before_anybody_is_served() -> None:
    order: list[str] = []

    class Slow(Recording):
        def subscribe(self, topic: str) -> None:
            gevent.sleep(0)
            order.append(f"subscribe {topic}")

    engine, _ = engine_of(Slow())
    for topic in ("a", "b"):
        heard(engine, topic)
    engine.serve()
    order.append("serves")
    assert order == ["subscribe a", "subscribe b", "serves"]
    engine.stop()


def test_nobody_is_served_before_what_was_subscribed_earlier_is_had() -> None:
    slow = SlowAdapter("other")
    engine, _ = engine_of(slow)
    told = heard(engine, "room:1")
    order: list[str] = []

    def come(name: str) -> None:
        engine.serve()
        engine.pubsub.subscribe("room:1", Subscriber(told.append))
        order.append(name)

    clients = [gevent.spawn(come, name) for name in ("first", "second")]
    turn()
    assert order == []
    while slow.asked:
        slow.confirm()
    gevent.joinall(clients, DEADLINE, raise_error=True)
    assert sorted(order) == ["first", "second"]
    engine.stop()


def test_a_start_that_fails_is_tried_again_with_the_next_client() -> None:
    failing = Failing(NotPublished("out of reach"), InvalidOption("nowhere"))
    engine, _ = engine_of(*[failing] * 4)
    service = Noting(engine, failing.asked)
    engine.add(service)
    told = heard(engine, "room:1")
    for failure in (NotPublished, InvalidOption):
        with pytest.raises(failure):
            engine.serve()
        assert (engine.node, engine.adapter, failing.asked) == ("", None, [])
    engine.serve()
    assert failing.asked == [("start", engine.node), "start", ("subscribe", "room:1"), "meet"]
    engine.broadcast(Broadcast("room:1", "said", {}))
    turn()
    assert len(told) == 1
    engine.stop()
    assert failing.asked[5:] == ["stop service", "stop"]


def test_a_broadcast_that_finds_no_way_is_told_and_the_next_one_may() -> None:
    failing = Failing(NotPublished("out of reach"))
    engine, _ = engine_of(failing, failing)
    told = heard(engine, "room:1")
    with pytest.raises(NotPublished):
        in_greenlet(engine.broadcast, Broadcast("room:1", "said", {"n": 1}))
    in_greenlet(engine.broadcast, Broadcast("room:1", "said", {"n": 2}))
    assert told[-1] == Broadcast("room:1", "said", {"n": 2})
    assert failing.asked[1:] == [("subscribe", "room:1"), ("room:1", b'J\x00\x04said{"n":2}')]
    engine.stop()


def test_a_failure_to_find_a_way_leaves_nothing_that_runs() -> None:
    def find() -> Adapter:
        raise InvalidOption("nowhere")

    engine = Engine(nullcontext, Json(), find)
    for _ in range(2):
        with pytest.raises(InvalidOption):
            engine.serve()
    engine.farewell()
    engine.stop()
    assert not engine.hub.running


def test_services_have_begun_before_the_adapter_is_waited_for() -> None:
    slow = SlowAdapter()
    engine, _ = engine_of(slow)
    log: list[Any] = []
    engine.add(Noting(engine, log))
    heard(engine, "room:1")
    serving = gevent.spawn(engine.serve)
    turn()
    assert (log, slow.asked, engine.hub.running) == (["start"], ["room:1"], True)
    slow.confirm()
    serving.get(timeout=DEADLINE)
    assert log == ["start", "meet"]
    engine.stop()


def test_a_stop_may_come_while_the_adapter_is_waited_for() -> None:
    slow = SlowAdapter()
    engine, _ = engine_of(slow)
    log: list[Any] = []
    engine.add(Noting(engine, log))
    heard(engine, "room:1")
    serving = gevent.spawn(engine.serve)
    turn()
    engine.stop()
    slow.confirm()
    serving.get(timeout=DEADLINE)
    assert log == ["start", "stop service"]
    assert (engine.node, engine.adapter, engine.hub.running) == ("", None, False)


def test_an_adapter_is_published_to_behind_the_delivery_here(joined: Engine, adapter: Recording) -> None:
    order: list[Any] = []
    joined.pubsub.subscribe("room:1", Subscriber(lambda broadcast: order.append("here")))
    adapter.publish = lambda topic, data: order.append("there")  # type: ignore[method-assign]
    in_greenlet(joined.broadcast, Broadcast("room:1", "said", {}))
    assert order == ["here", "there"]


def test_what_is_lost_of_another_node_costs_nothing_that_follows(
    joined: Engine, adapter: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    joined.serve()
    road = Road()
    joined.pubsub.subscribe("room:1", Subscriber(lambda _: None, road.lane(V2), road.write))
    for data in (b"J\x00\x04said[1]", b'J\x00\x04said{"n" : 1}', b"", b"J\x00\x04said\xff"):
        adapter.receive("room:1", data)
    turn()
    assert road.rest() == ['[null,null,"room:1","said",{"n" : 1}]']
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3


# Who speaks and serves nobody


def test_a_greenlet_speaks_as_a_node(joined: Engine, adapter: Recording) -> None:
    told = heard(joined, "room:1")
    for _ in range(2):
        in_greenlet(joined.broadcast, Broadcast("room:1", "said", {}))
    assert adapter.asked == [("start", joined.node), ("subscribe", "room:1"), SAID, SAID]
    assert (len(told), joined.hub.running) == (2, False)
    joined.broadcast(Broadcast("room:1", "said", {}))  # it is a node by now, whoever speaks
    assert adapter.asked[4:] == [SAID]


@pytest.mark.parametrize("thread", [True, False])
def test_others_speak_from_outside(joined: Engine, adapter: Recording, thread: bool) -> None:
    told = heard(joined, "room:1")
    for _ in range(2):
        if thread:
            in_plain_thread(joined.broadcast, Broadcast("room:1", "said", {}))
        else:
            joined.broadcast(Broadcast("room:1", "said", {}))
    assert adapter.asked == ["publisher", ("from outside", *SAID), ("from outside", *SAID)]
    assert (len(told), joined.node, joined.adapter) == (2, "", None)


def test_who_serves_later_is_a_node_then(adapter: Recording) -> None:
    another = Recording()
    engine, _ = engine_of(adapter, another)
    engine.broadcast(Broadcast("room:1", "said", {}))
    engine.serve()
    assert adapter.asked == ["publisher", ("from outside", *SAID), "close"]
    engine.broadcast(Broadcast("room:1", "said", {}))
    in_plain_thread(engine.broadcast, Broadcast("room:1", "said", {}))
    turn()
    engine.stop()
    assert len(adapter.asked) == 3
    assert [another.asked[0][0], *another.asked[1:]] == ["start", SAID, SAID, "stop"]


def test_nothing_keeps_an_engine_that_has_stopped() -> None:
    engine, _ = engine_of(Recording(), Recording())
    engine.broadcast(Broadcast("room:1", "said", {}))
    engine.stop()
    engine.serve()
    engine.stop()
    kept = weakref.ref(engine)
    del engine
    gc.collect()
    assert kept() is None


def test_what_speaks_from_outside_is_closed_with_the_engine(adapter: Recording) -> None:
    engine, _ = engine_of(adapter, adapter)
    for _ in range(2):
        engine.broadcast(Broadcast("room:1", "said", {}))
        engine.stop()
        engine.stop()
        assert adapter.asked == ["publisher", ("from outside", *SAID), "close"]
        adapter.asked.clear()


def test_who_has_no_way_speaks_here_alone(engine: Engine) -> None:
    told = heard(engine, "room:1")
    engine.broadcast(Broadcast("room:1", "said", {}))
    in_greenlet(engine.broadcast, Broadcast("room:1", "said", {}))
    assert (len(told), engine.adapter) == (2, None)


# The end of a process

AT_EXIT = """
import os
import sys
from contextlib import nullcontext
import gevent
from flask_phoenix.pubsub.adapter import Adapter, Publisher
from flask_phoenix.protocol.json import Json
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.protocol.messages import Broadcast

class Telling(Adapter):
    def start(self, node, receive, gone):
        print("start", flush=True)

    def stop(self):
        print("stop", flush=True)

    def subscribe(self, topic):
        pass

    def publish(self, topic, data):
        print("publish", flush=True)

    def publisher(self):
        return Outside()

class Outside(Publisher):
    def publish(self, topic, data):
        print("outside", flush=True)

    def close(self):
        print("close", flush=True)

def speak():
    engine.broadcast(Broadcast("t", "e", {}))

engine = Engine(nullcontext, Json(), Telling)
"""

ENDS = {
    "start stop": "engine.serve()",
    "start publish stop": "gevent.spawn(speak).get()",
    "outside outside close": "speak(); speak()",
    "outside start publish stop": "speak(); engine.serve(); speak()",
    "start stop end": "engine.serve(); engine.stop(); print('end', flush=True)",
    "outside close end": "speak(); engine.stop(); print('end', flush=True)",
    "start stop start stop": "engine.serve(); engine.stop(); engine.serve()",
    "": "engine.stop()",
    "start child stop": "engine.serve()\nif os.fork(): os.wait()\nelse: print('child', flush=True)",
    "start outside close publish stop": "engine.serve()\nif os.fork(): os.wait()\nspeak()",
}


@pytest.mark.parametrize("expected", ENDS)
def test_an_adapter_ends_once_and_with_the_process_that_has_started_it(expected: str) -> None:
    command = [sys.executable, "-W", "error", "-c", AT_EXIT + ENDS[expected]]
    done = subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    words = done.stdout.split()
    if expected.startswith("outside start"):  # it is closed when it is needed no more, or in the end
        words.remove("close")
    assert words == expected.split()


LAST_WORDS = """
import sys
from contextlib import nullcontext
import gevent
from flask_phoenix.protocol.json import Json
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter

def speak():
    for number in range(300):
        engine.broadcast(Broadcast("t", "e", {"n": number, "filler": "x" * 10_000}))

engine = Engine(nullcontext, Json(), lambda: WorkersAdapter(sys.argv[1]))
if sys.argv[2] == "serving":
    engine.serve()
if sys.argv[2] == "in a greenlet":
    gevent.spawn(speak).get()
else:
    speak()
if sys.argv[2] == "exiting":
    sys.exit(7)
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Node]:
    """Return a worker that hears a topic."""
    listener = Node(WorkersAdapter(tmp_path / "workers"), "listener")
    listener.start()
    listener.adapter.subscribe("t")
    yield listener
    listener.adapter.stop()


@pytest.mark.parametrize("how", ["speaking", "in a greenlet", "serving", "exiting"])
def test_who_speaks_and_ends_at_once_is_heard_to_the_end(tmp_path: Path, listener: Node, how: str) -> None:
    command = [sys.executable, "-W", "error", "-c", LAST_WORDS, str(tmp_path / "workers"), how]
    done = in_thread(lambda: subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, text=True))
    assert (done.returncode, done.stderr) == (7 if how == "exiting" else 0, "")
    numbers = [json.loads(data[4:])["n"] for data in listener.hear_all(300)]
    assert numbers == list(range(300))


CHILD = """
from gevent import monkey
monkey.patch_all()
import os
import sys
from contextlib import nullcontext
import gevent
from flask_phoenix.protocol.json import Json
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from gevent.event import Event

def hear(broadcast):
    print("parent" if os.getpid() == parent else "child", broadcast.event, flush=True)
    heard.set()

parent, heard = os.getpid(), Event()
engine = Engine(nullcontext, Json(), lambda: WorkersAdapter(sys.argv[1]))
engine.serve()
engine.pubsub.subscribe("t", Subscriber(hear))
if os.fork():
    heard.wait(10)
    os.wait()
    engine.broadcast(Broadcast("t", "last", {}))
    gevent.sleep(0)
else:
    engine.broadcast(Broadcast("t", "first", {}))
    gevent.sleep(0)
    os._exit(0)
"""


def test_a_child_of_a_node_speaks_from_outside_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path / "workers")]
    done = subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["parent first", "parent last", ""]
