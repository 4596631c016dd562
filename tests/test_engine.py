"""The engine: broadcasts, what runs beside the connections, the wait for quiet, and the place among the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.codec import Json
from flask_phoenix.engine import Engine, Served, Service
from flask_phoenix.exceptions import InvalidPayload, NotPublished, PhoenixError
from flask_phoenix.message import Broadcast
from flask_phoenix.pubsub import Adapter, Subscriber
from tests.processes import DEADLINE
from tests.roads import V1, V2, Road, in_thread, turn


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


def test_interfaces_are_for_others_to_write() -> None:
    service = Service()
    calls: list[Callable[[], Any]] = [service.start, service.meet, service.farewell, service.stop]
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

    engine.workers.take().spawn(work, DEADLINE)
    turn()
    waiter = gevent.spawn(engine.wait_until_quiet, DEADLINE)
    turn()
    assert not waiter.dead
    gate.set()
    waiter.get(timeout=DEADLINE)


# Other nodes


class Recording(Adapter):
    """Remembers what it is asked for, and can be told what another node has published."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

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
    engine = Engine(nullcontext, Json(), adapter)
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
    joined.broadcast(Broadcast("room:1", "said", {}), local=True)
    assert told == [Broadcast("room:1", "said", {})]
    assert adapter.asked == [("subscribe", "room:1")]


def test_who_only_speaks_joins_the_network_too(joined: Engine, adapter: Recording) -> None:
    joined.broadcast(Broadcast("room:1", "said", {}))
    assert adapter.asked == [("start", joined.node), ("room:1", b"J\x00\x04said{}")]
    assert not joined.hub.running


def test_what_another_node_has_published_is_delivered_here_alone(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    told = heard(joined, "room:1")
    adapter.receive("room:1", b'J\x00\x04said{"n":1}')
    adapter.receive("room:2", b"J\x00\x04said{}")
    turn()
    assert told == [Broadcast("room:1", "said", {"n": 1})]
    assert len(adapter.asked) == 2


def test_a_broadcast_that_cannot_be_published_was_delivered_here(joined: Engine, adapter: Recording) -> None:
    def publish(topic: str, data: bytes) -> None:
        raise PhoenixError("out of reach")

    adapter.publish = publish  # type: ignore[method-assign]
    told = heard(joined, "room:1")
    with pytest.raises(PhoenixError, match="out of reach"):
        joined.broadcast(Broadcast("room:1", "said", {}))
    assert told == [Broadcast("room:1", "said", {})]


def test_a_broadcast_from_another_thread_is_published(joined: Engine, adapter: Recording) -> None:
    joined.serve()
    in_thread(joined.broadcast, Broadcast("room:1", "said", {}))
    assert adapter.asked[1:] == [("room:1", b"J\x00\x04said{}")]


def test_a_payload_that_cannot_be_published_is_delivered_to_nobody(joined: Engine, adapter: Recording) -> None:
    told = heard(joined, "room:1")
    with pytest.raises(InvalidPayload, match="cannot be written as JSON"):
        joined.broadcast(Broadcast("room:1", "said", object()))
    joined.broadcast(Broadcast("room:1", "said", None), local=True)
    assert told == [Broadcast("room:1", "said", None)]
    assert adapter.asked == [("subscribe", "room:1")]


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

    def meet(self) -> None:
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
        def meet(self) -> None:
            gate.wait(DEADLINE)
            super().meet()

    joined.services.insert(0, Slow(joined, adapter.asked))
    serving = gevent.spawn(joined.serve)
    turn()
    joined.stop()
    gate.set()
    serving.get(timeout=DEADLINE)
    assert adapter.asked[1:] == ["start", "start", "stop service", "stop service", "stop", "meet"]


def test_who_only_speaks_has_no_services(joined: Engine, adapter: Recording, service: Noting) -> None:
    joined.broadcast(Broadcast("room:1", "said", {}))
    adapter.gone("another")
    joined.farewell()
    joined.stop()
    assert [adapter.asked[0][0], *adapter.asked[2:]] == ["start", "stop"]


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
    turn()
    assert told == []
    assert adapter.asked[1:] == [("start", joined.node), ("room:1", b'J\x00\x04said{"n":1}')]


def test_without_other_nodes_nothing_is_published(engine: Engine) -> None:
    told = heard(engine, "room:1")
    engine.publish(Broadcast("room:1", "said", {}))
    assert (told, engine.node) == ([], "")


def test_what_cannot_be_published_is_told(joined: Engine, adapter: Recording) -> None:
    def publish(topic: str, data: bytes) -> None:
        raise NotPublished("out of reach")

    with pytest.raises(InvalidPayload):
        joined.publish(Broadcast("room:1", "said", object()))
    adapter.publish = publish  # type: ignore[method-assign]
    with pytest.raises(NotPublished, match="out of reach"):
        joined.publish(Broadcast("room:1", "said", {}))
