"""The engine: what connections share, their begin and end, and clients without channels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.codec import Json
from flask_phoenix.connection import Carrier, Connection, Engine, RawConnection
from flask_phoenix.exceptions import InvalidPayload, PhoenixError
from flask_phoenix.inbox import LIMIT
from flask_phoenix.message import Broadcast, Frame
from flask_phoenix.pubsub import Adapter, Subscriber
from flask_phoenix.socket import RawSocket, Socket
from tests.processes import DEADLINE
from tests.roads import V1, V2, Road, in_thread, turn


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(nullcontext, Json())
    yield engine
    engine.stop()


class Line(Connection):
    """A connection that takes no frames, and remembers its end."""

    def __init__(self, engine: Engine, name: str | None = None, stream: bool = True) -> None:
        self.road = Road(stream)
        super().__init__(engine, Socket({}, "websocket"), name, self.road)
        self.ends: list[str] = []
        self.opened()

    def _end(self, reason: str) -> None:
        self.ends.append(reason)


class Raw:
    """A client of a raw socket."""

    def __init__(self, engine: Engine, kind: type[RawSocket], name: str | None = None) -> None:
        self.road = Road()
        self.socket = kind({}, "websocket")
        self.connection = RawConnection(engine, self.socket, name, self.road)
        self.connection.opened()


def heard(engine: Engine, topic: str) -> list[Broadcast]:
    """Listen to a topic."""
    told: list[Broadcast] = []
    engine.pubsub.subscribe(topic, Subscriber(told.append))
    return told


# Carriers


def test_a_carrier_has_a_lane_for_each_serializer() -> None:
    one, other, pieces = Road(), Road(), Road(stream=False)
    assert one.lane(V2) == other.lane(V2)
    assert hash(one.lane(V2)) == hash(other.lane(V2))
    assert one.lane(V1) != one.lane(V2)
    assert one.lane(V2) != pieces.lane(V2)


def test_interfaces_are_for_others_to_write(engine: Engine) -> None:
    with pytest.raises(NotImplementedError):
        Carrier().close(1001, "")
    with pytest.raises(NotImplementedError):
        Connection(engine, Socket({}, "websocket"), None, Road()).receive("")


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
    line = Line(engine)
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, line.road.lane(V2), line.road.write))
    told = heard(engine, "t")
    with pytest.raises(InvalidPayload):
        in_thread(engine.broadcast, Broadcast("t", "e", [1]))
    turn()
    assert (line.road.writes, told) == ([], [])


def test_a_broadcast_is_what_it_was_when_it_was_made(engine: Engine) -> None:
    line = Line(engine)
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, line.road.lane(V2), line.road.write))

    def talk() -> None:
        payload = {"n": 0}
        for number in range(3):
            payload["n"] = number
            engine.broadcast(Broadcast("t", "e", payload))

    talk()
    turn()
    here = line.road.rest()
    in_thread(talk)
    turn()
    assert here == [f'[null,null,"t","e",{{"n":{number}}}]' for number in range(3)]
    assert line.road.rest() == here


# A connection's life


def test_a_connection_counts_while_it_is_open(engine: Engine) -> None:
    line = Line(engine)
    assert engine.connections == {line}
    line.closed("closed")
    line.closed("again")
    assert not line.open
    assert engine.connections == set()
    assert line.ends == ["closed"]
    assert line.road.closed is None


def test_the_first_connection_starts_the_hub(engine: Engine) -> None:
    told = heard(engine, "t")
    Line(engine)
    engine.broadcast(Broadcast("t", "e", {}))
    assert told == []
    turn()
    assert len(told) == 1


def test_a_connection_can_be_closed_from_this_side(engine: Engine) -> None:
    line = Line(engine)
    line.close(1012, "draining")
    line.close(1001, "again")
    assert line.road.closed == (1012, "draining")
    assert line.ends == ["draining"]


def test_frames_leave_in_the_turn_in_which_they_are_sent(engine: Engine) -> None:
    line, pieces = Line(engine), Line(engine, stream=False)
    for each in (line, pieces):
        each.send("a")
        each.send(b"\x01")
    turn(1)
    assert line.road.rest() == pieces.road.rest() == ["a", b"\x01"]


def test_many_frames_of_a_turn_keep_their_order(engine: Engine) -> None:
    line = Line(engine)
    frames = [*(f"{number}" for number in range(100)), "large" * 10_000, "last"]
    for frame in frames:
        line.send(frame)
    line.close(1001, "")
    assert [frame for frames in line.road.writes for frame in frames] == frames


def test_a_frame_queues_behind_what_the_connection_is_owed(engine: Engine) -> None:
    line, other = Line(engine), Line(engine)
    line.topics = ["t"]
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, line.road.lane(V2), line.road.write))
    engine.broadcast(Broadcast("t", "e", {}))
    line.send("behind")
    line.send("further behind")
    other.send("at once")
    assert line.road.writes == []
    turn()
    assert line.road.writes == [['[null,null,"t","e",{}]', "behind", "further behind"]]
    assert other.road.writes == [["at once"]]


def test_a_broadcast_comes_behind_what_was_sent_before_it(engine: Engine) -> None:
    line = Line(engine)
    line.topics = ["t"]
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, line.road.lane(V2), line.road.write))
    line.send("before")
    engine.broadcast(Broadcast("t", "e", {}))
    line.send("behind")
    turn()
    assert line.road.rest() == ["before", '[null,null,"t","e",{}]', "behind"]


def test_frames_that_are_no_stream_keep_their_order_too(engine: Engine) -> None:
    line = Line(engine, stream=False)
    line.topics = ["t"]
    engine.pubsub.subscribe("t", Subscriber(lambda _: None, line.road.lane(V2), line.road.write))
    engine.broadcast(Broadcast("t", "e", {}))
    line.send("behind")
    turn()
    assert line.road.writes == [['[null,null,"t","e",{}]'], ["behind"]]


def test_a_frame_from_another_thread_arrives(engine: Engine) -> None:
    line = Line(engine)

    def talk() -> None:
        for number in range(50):
            line.send(f"{number}")

    in_thread(talk)
    assert [line.road.read() for _ in range(50)] == [f"{number}" for number in range(50)]


# Disconnecting by id


def test_disconnecting_closes_all_that_have_the_id(engine: Engine) -> None:
    mine, too, other, nameless = Line(engine, "user:1"), Line(engine, "user:1"), Line(engine, "user:2"), Line(engine)
    engine.broadcast(Broadcast("user:1", "something else", {}))
    engine.broadcast(Broadcast("user:1", "disconnect", {}))
    turn()
    assert [line.road.closed for line in (mine, too)] == [(1001, "disconnected")] * 2
    assert [line.ends for line in (mine, too)] == [["disconnected"]] * 2
    assert [line.open for line in (mine, too, other, nameless)] == [False, False, True, True]
    assert all(line.road.writes == [] for line in (mine, too, other, nameless))


def test_an_id_is_forgotten_with_its_connections(engine: Engine) -> None:
    one, other = Line(engine, "user:1"), Line(engine, "user:1")
    one.closed("closed")
    assert engine.pubsub.subscribed("user:1")
    other.close(1001, "disconnected")
    assert not engine.pubsub.subscribed("user:1")


def test_disconnecting_from_another_thread(engine: Engine) -> None:
    line = Line(engine, "user:1")
    in_thread(engine.broadcast, Broadcast("user:1", "disconnect", {}))
    turn()
    assert line.road.closed == (1001, "disconnected")


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


# Raw sockets


class Echo(RawSocket):
    """Says hello, and everything twice."""

    def __init__(self, params: dict[str, Any], transport: str) -> None:
        super().__init__(params, transport)
        self.log: list[Any] = []

    def open(self) -> None:
        self.send("hello")

    def handle_frame(self, frame: Frame) -> None:
        self.log.append(frame)
        self.send(frame)
        self.send(frame)

    def terminate(self, reason: Any) -> None:
        self.log.append(reason)


class Slow(RawSocket):
    """Handles a frame when it is let."""

    def __init__(self, params: dict[str, Any], transport: str) -> None:
        super().__init__(params, transport)
        self.gate, self.last = Event(), Event()
        self.log: list[Any] = []

    def handle_frame(self, frame: Frame) -> None:
        assert self.gate.wait(DEADLINE)
        self.log.append(frame)
        if frame == "last":
            self.last.set()

    def terminate(self, reason: Any) -> None:
        self.log.append(reason)


def test_a_raw_socket_speaks_first_and_answers(engine: Engine) -> None:
    client = Raw(engine, Echo)
    client.connection.receive("a")
    client.connection.receive(b"\x01")
    assert [client.road.read() for _ in range(5)] == ["hello", "a", "a", b"\x01", b"\x01"]


def test_a_raw_socket_hears_of_its_end(engine: Engine) -> None:
    client = Raw(engine, Echo)
    turn()
    client.connection.closed("closed")
    turn()
    assert client.socket.log == ["closed"]  # type: ignore[attr-defined]
    assert engine.connections == set()


def test_frames_are_handled_one_at_a_time_and_the_end_comes_behind_the_one_that_runs(engine: Engine) -> None:
    client = Raw(engine, Slow)
    turn()
    client.connection.receive("a")
    client.connection.receive("b")
    client.connection.close(1001, "disconnected")
    turn()
    slow: Any = client.socket
    assert slow.log == []
    slow.gate.set()
    turn()
    assert slow.log == ["a", "disconnected"]


def test_a_raw_socket_can_be_disconnected_and_can_close_itself(engine: Engine) -> None:
    class Leaver(Echo):
        def handle_frame(self, frame: Frame) -> None:
            self.close(4000, "enough")

    client, other = Raw(engine, Leaver), Raw(engine, Echo, "user:1")
    client.connection.receive("bye")
    engine.broadcast(Broadcast("user:1", "disconnect", {}))
    turn()
    assert client.road.closed == (4000, "enough")
    assert other.road.closed == (1001, "disconnected")
    assert [each.socket.log for each in (client, other)] == [["enough"], ["disconnected"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("failure", [RuntimeError, gevent.GreenletExit, SystemExit, gevent.Timeout])
@pytest.mark.parametrize("where", ["open", "handle_frame", "terminate"])
def test_a_raw_socket_that_fails_is_closed(
    engine: Engine, caplog: pytest.LogCaptureFixture, failure: type[BaseException], where: str
) -> None:
    class Failing(Echo):
        pass

    def fail(*arguments: Any) -> None:
        raise failure()

    setattr(Failing, where, fail)
    client = Raw(engine, Failing)
    turn()
    if client.connection.open:
        client.connection.receive("a")
        turn()
    if where == "terminate":
        client.connection.closed("closed")
        turn()
    expected = None if where == "terminate" else (1011, "crashed")
    assert client.road.closed == expected
    assert not client.connection.open
    assert [record.getMessage() for record in caplog.records] == ["Failing failed; its connection is closed"]
    assert caplog.records[0].levelno == logging.ERROR


def test_the_reader_of_a_raw_socket_is_held_back(engine: Engine) -> None:
    client = Raw(engine, Slow)
    turn()
    frames = [*(f"{number}" for number in range(LIMIT + 10)), "last"]
    read: list[str] = []

    def reader() -> None:
        for frame in frames:
            client.connection.receive(frame)
            read.append(frame)

    reading = gevent.spawn(reader)
    turn()
    assert LIMIT - 1 <= len(read) <= LIMIT + 1
    slow: Any = client.socket
    slow.gate.set()
    assert slow.last.wait(DEADLINE)
    reading.join(DEADLINE)
    assert slow.log == read == frames


def test_each_call_has_a_context_of_its_own() -> None:
    log: list[str] = []

    @contextmanager
    def context() -> Iterator[None]:
        log.append("in")
        yield
        log.append("out")

    class Noting(Echo):
        def open(self) -> None:
            log.append("open")

        def handle_frame(self, frame: Frame) -> None:
            log.append("frame")

        def terminate(self, reason: Any) -> None:
            log.append("terminate")

    engine = Engine(context, Json())
    client = Raw(engine, Noting)
    turn()
    client.connection.receive("a")
    client.connection.closed("closed")
    turn()
    engine.stop()
    assert log == ["in", "open", "out", "in", "frame", "out", "in", "terminate", "out"]


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


def test_the_end_of_another_node_is_told(joined: Engine, adapter: Recording, caplog: pytest.LogCaptureFixture) -> None:
    joined.serve()
    with caplog.at_level("INFO"):
        adapter.gone("another")
    assert "node another has ended" in caplog.text


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
    client = Line(joined)
    lane = client.carrier.lane(V1)
    joined.pubsub.subscribe("room:1", Subscriber(lambda broadcast: None, lane, client.carrier.write))
    adapter.receive("room:1", data)
    adapter.receive("room:1", b"J\x00\x04said{}")
    turn()
    assert len(client.road.rest()) == 1
    assert [record.message for record in caplog.records] == ["a broadcast of another node on 'room:1' is lost"]
    assert why in caplog.text


def test_disconnecting_from_another_node(joined: Engine, adapter: Recording) -> None:
    client = Line(joined, "user:7")
    assert adapter.asked[1:] == [("subscribe", "user:7")]
    adapter.receive("user:7", b"J\x00\x0adisconnect{}")
    turn()
    assert client.road.closed == (1001, "disconnected")
    assert adapter.asked[2:] == [("unsubscribe", "user:7")]
