"""One client: its begin and end, what it is sent, and clients without channels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Frame
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.connection import Carrier, Connection, RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.socket import RawSocket, Socket
from tests.processes import DEADLINE
from tests.roads import V1, V2, Road, in_thread, turn
from tests.slow import SlowAdapter
from tests.support.network import Network
from tests.support.network import NetworkAdapter as Wireless


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


# A connection's life


def test_a_connection_counts_while_it_is_open(engine: Engine) -> None:
    line = Line(engine)
    assert engine.connections == {line.close}
    line.closed("closed")
    line.closed("again")
    assert not line.open
    assert engine.connections == set()
    assert line.ends == ["closed"]
    assert line.road.closed is None


def test_the_first_connection_starts_the_hub(engine: Engine) -> None:
    told: list[Broadcast] = []
    engine.pubsub.subscribe("t", Subscriber(told.append))
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


def test_disconnecting_from_another_node() -> None:
    network = Network()
    here, there = (Engine(nullcontext, Json(), partial(Wireless, network)) for _ in range(2))
    line, other = Line(here, "user:7"), Line(here, "user:8")
    there.serve()
    there.broadcast(Broadcast("user:7", "disconnect", {}))
    turn()
    assert line.road.closed == (1001, "disconnected")
    assert (other.open, here.pubsub.subscribed("user:7"), network.nodes[0].topics) == (True, False, {"user:8"})
    for engine in (here, there):
        engine.stop()


# An id that takes its time


def test_a_connection_is_open_before_the_other_nodes_know_its_id(far: Engine, slow: SlowAdapter) -> None:
    line: Any = gevent.spawn(Line, far, "user:1")
    turn()
    assert (slow.asked, len(far.connections), line.ready()) == (["user:1"], 1, False)
    slow.confirm()
    far.broadcast(Broadcast("user:1", "disconnect", {}))
    turn()
    assert (line.value.road.closed, slow.topics) == ((1001, "disconnected"), [])


def test_a_connection_that_ends_before_the_other_nodes_know_its_id(far: Engine, slow: SlowAdapter) -> None:
    lines = [gevent.spawn(Line, far, "user:1") for _ in range(2)]
    turn()
    leaving, staying = far.connections
    leaving.close(1012, "draining")
    turn()
    slow.confirm()
    slow.confirm()
    assert [line.ready() for line in lines] == [True, True]
    assert (far.connections, slow.topics) == ({staying}, ["user:1"])
    staying.close(1012, "draining")
    assert (far.connections, slow.topics, far.pubsub.subscribed("user:1")) == (set(), [], False)


def test_a_way_that_cannot_be_lets_nobody_in(slow: SlowAdapter) -> None:
    found: list[Exception | SlowAdapter] = [NotPublished("out of reach"), InvalidOption("nowhere"), slow]

    def find() -> SlowAdapter:
        way = found.pop(0)
        if isinstance(way, Exception):
            raise way
        return way

    engine = Engine(nullcontext, Json(), find)
    for failure in (NotPublished, InvalidOption):
        with pytest.raises(failure):
            Line(engine, "user:1")
        assert engine.connections == set()
        assert not engine.pubsub.subscribed("user:1")
    line: Any = gevent.spawn(Line, engine, "user:1")
    turn()
    slow.confirm()
    assert line.value.open
    engine.stop()


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
    frames = [*(f"{number}" for number in range(INBOX_LIMIT + 10)), "last"]
    read: list[str] = []

    def reader() -> None:
        for frame in frames:
            client.connection.receive(frame)
            read.append(frame)

    reading = gevent.spawn(reader)
    turn()
    assert INBOX_LIMIT - 1 <= len(read) <= INBOX_LIMIT + 1
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


def test_a_raw_socket_speaks_when_the_other_nodes_know_its_id(far: Engine, slow: SlowAdapter) -> None:
    client: Any = gevent.spawn(Raw, far, Echo, "user:1")
    turn()
    assert not client.ready()
    slow.confirm()
    assert client.value.road.rest() == ["hello"]


def test_a_raw_socket_that_ends_before_the_other_nodes_know_its_id_is_not_opened(
    far: Engine, slow: SlowAdapter
) -> None:
    log: list[str] = []

    class Noting(RawSocket):
        def open(self) -> None:
            log.append("open")

        def terminate(self, reason: Any) -> None:
            log.append(reason)

    client: Any = gevent.spawn(Raw, far, Noting, "user:1")
    turn()
    (connection,) = far.connections
    connection.close(1012, "draining")
    turn()
    slow.confirm()
    assert client.value.road.closed == (1012, "draining")
    assert (log, slow.topics) == (["draining"], [])
