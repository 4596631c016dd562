"""One client: the order and the pace of what it is sent and sends, its end, and clients of a RawSocket."""

from __future__ import annotations

import gc
import logging
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import gevent
import pytest
from flask import current_app, g
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix import Broadcast, InvalidOption, NotPublished, RawSocket, Refused, Socket
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Frame
from flask_phoenix.pubsub.hub import RECEIVERS_PER_TURN
from flask_phoenix.pubsub.local import Subscriber
from flask_phoenix.runtime.connection import RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.server.drain import drain
from flask_phoenix.testing import Client as InMemoryClient
from flask_phoenix.testing import MemoryAdapter
from tests.support.clients import (
    CRASHED,
    JOINED,
    KINDS,
    V1,
    V2,
    Client,
    MemoryClient,
    RecordingCarrier,
    Room,
    Site,
    WebSocketClient,
    fails,
    scripted,
    serve,
)
from tests.support.loop import in_thread, turn
from tests.support.processes import DEADLINE, wait_until
from tests.support.slow import SlowAdapter

# Order


def crowd(engine: Engine, topic: str, size: int) -> list[Any]:
    """Let many others hear a topic."""
    heard: list[Any] = []
    lane = RecordingCarrier().lane(V2)
    subscribers = [Subscriber(lambda _: None, lane, heard.append) for _ in range(size)]
    for subscriber in subscribers:
        engine.pubsub.subscribe(topic, subscriber)
    return heard


SAID = [[None, "said"], [None, "pushed"]]


def speak(channel: Room) -> Any:
    """Broadcast, push, and answer."""
    channel.broadcast("said", {})
    channel.push("pushed", {})
    return {}


@pytest.mark.parametrize("kind", KINDS)
def test_broadcasts_come_before_the_reply_however_many_hear_them(kind: Any) -> None:
    site = Site(kind)
    client = site.enter(scripted(do=speak))
    heard = crowd(site.engine, "room:1", RECEIVERS_PER_TURN * 3)
    for ref in "23":
        client.say("1", ref, "room:1", "do")
    client.say(None, "hb", "phoenix", "heartbeat")
    order = [client.hear()[1:4:2] for _ in range(7)]
    assert order == [*SAID, ["2", "phx_reply"], *SAID, ["3", "phx_reply"], ["hb", "phx_reply"]]
    assert heard
    site.close()


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_said_during_a_large_fan_out_comes_after_it(engine: Engine, stream: bool) -> None:
    client, other = (MemoryClient(engine, serve(Room, assigns={"log": Queue()}), stream=stream) for _ in range(2))
    heard = crowd(engine, "room:1", RECEIVERS_PER_TURN * 4)
    client.join()
    other.join("room:2")
    engine.broadcast(Broadcast("room:1", "news", {}))
    while not heard:
        turn(1)
    client.say("1", "2", "room:1", "echo", {})
    other.say("1", "2", "room:2", "echo", {})
    assert other.hear()[1] == "2"
    assert len(heard) < RECEIVERS_PER_TURN * 4, "who does not hear it was delayed"
    assert [client.hear()[3], client.hear()[1]] == ["news", "2"]


def test_broadcasts_of_one_speaker_keep_their_order(site: Site) -> None:
    client = site.enter()
    client.join("room:2", "2")
    for number in range(60):
        site.phoenix.broadcast(f"room:{number % 2 + 1}", "e", {"n": number})
        if not number % 7:
            turn(1)
    for number in range(60, 90):
        in_thread(site.phoenix.broadcast, "room:1", "e", {"n": number})
    assert [client.hear()[4]["n"] for _ in range(90)] == list(range(90))


def test_what_is_sent_in_one_turn_is_one_write(engine: Engine) -> None:
    client = MemoryClient(engine, serve(Room, assigns={"log": Queue()}))
    client.join()
    turn()
    before = len(client.carrier.writes)
    for number in range(10):
        engine.broadcast(Broadcast("room:1", "e", {"n": number}))
    client.say("1", "2", "room:1", "echo", {})
    assert len(client.rest()) == 11
    assert len(client.carrier.writes) == before + 1
    for number in range(4):
        client.say("1", number, "room:1", "echo", {})
    turn(1)
    assert [len(frames) for frames in client.carrier.writes[before + 1 :]] == [4]


def test_many_or_large_frames_of_one_turn_keep_their_order(engine: Engine) -> None:
    client = MemoryClient(engine, serve(Room, assigns={"log": Queue()}))
    frames = [*(f"{number}" for number in range(100)), "large" * 10_000, "last"]
    for frame in frames:
        client.connection.send(frame)
    client.connection.close(1001, "")
    client.connection.close(1012, "again")
    assert [frame for frames in client.carrier.writes for frame in frames] == frames
    assert len(client.carrier.writes) > 3
    assert client.carrier.closed == (1001, "")


def test_frames_from_another_thread_arrive(engine: Engine) -> None:
    client = MemoryClient(engine, serve(Room, assigns={"log": Queue()}))
    for number in range(50):
        in_thread(client.connection.send, f"{number}")
    assert [client.carrier.read() for _ in range(50)] == [f"{number}" for number in range(50)]


def test_versions_share_a_topic_but_not_a_lane() -> None:
    one, other, pieces = RecordingCarrier(), RecordingCarrier(), RecordingCarrier(stream=False)
    assert one.lane(V2) == other.lane(V2)
    assert len({one.lane(V2), other.lane(V2), one.lane(V1), pieces.lane(V2)}) == 3


def test_client_of_version_1_sends_no_join_ref(site: Site) -> None:
    client = site.connect(site.kind[0], "1.0.0")
    site.serve(scripted(do=speak))
    for event, ref in (("phx_join", "1"), ("do", "2"), ("unknown", "3")):
        client.say(None, ref, "room:1", event)
    assert [client.hear()[1:] for _ in range(5)] == [
        ["1", "room:1", "phx_reply", JOINED],
        [None, "room:1", "said", {}],
        [None, "room:1", "pushed", {}],
        ["2", "room:1", "phx_reply", JOINED],
        [None, "room:1", "phx_error", CRASHED],
    ]


# Pace


@pytest.mark.parametrize("event", ["wait", "phx_join"])
@pytest.mark.parametrize("ends", [False, True])
def test_client_that_is_too_far_ahead_is_read_no_further(engine: Engine, event: str, ends: bool) -> None:
    gate = Event()
    log: Queue[Any] = Queue()

    class Slow(Room):
        def join(self, payload: Any) -> None:
            if "wait" in payload:
                assert gate.wait(DEADLINE)

        def handle_in(self, event: str, payload: Any) -> Any:
            assert gate.wait(DEADLINE)
            return {}

    client, read = MemoryClient(engine, serve(Slow, assigns={"log": log})), list[int]()
    if event == "wait":
        client.join()

    def reader() -> None:
        client.say("1", "first", "room:1", event, {"wait": True})
        for number in range(INBOX_LIMIT + 10):
            client.say("1", number, "room:1", "echo", {})
            read.append(number)

    reading = gevent.spawn(reader)
    turn()
    assert INBOX_LIMIT - 1 <= len(read) <= INBOX_LIMIT
    if ends:
        client.connection.close(1001, "disconnected")
        turn()
        assert reading.dead
    gate.set()
    if ends:
        assert log.get(timeout=DEADLINE) == "disconnected"
    else:
        assert client.hear()[1] == "first"
        assert [client.hear()[1] for _ in range(INBOX_LIMIT + 10)] == list(range(INBOX_LIMIT + 10))
    reading.join(DEADLINE)
    assert reading.successful()


def test_reader_that_is_killed_while_a_handler_waits(engine: Engine) -> None:
    gate = Event()
    log: Queue[Any] = Queue()
    room = scripted(do=lambda channel: gate.wait(DEADLINE) and None)
    client = MemoryClient(engine, serve(room, assigns={"log": log}))
    client.join()
    reader = gevent.spawn(client.say, "1", "2", "room:1", "do", {})
    turn()
    reader.kill()
    client.hang_up()
    gate.set()
    assert log.get(timeout=DEADLINE) == "closed"
    assert not engine.pubsub.subscribed("room:1")


# Disconnecting by id


def test_disconnect_closes_all_that_have_the_id_on_every_node() -> None:
    network: list[MemoryAdapter] = []
    here, there = (Site(kind, MemoryAdapter(network)) for kind in KINDS[:2])
    mine = [here.enter(user="ann"), here.connect(*KINDS[3], user="ann"), there.enter(user="ann")]
    others = [here.connect(user="bob"), here.connect(), there.connect(user="bob")]
    here.phoenix.broadcast("ann", "something else", {})
    in_thread(here.phoenix.disconnect, "ann")
    for client in mine:
        client.is_closed(1001)
    for client in others:
        client.hears_only()
    assert [site.hears("ann") for site in (here, there)] == [False, False]
    here.close()
    there.close()


def test_connection_is_open_before_the_other_nodes_know_its_id(far: Engine, slow: SlowAdapter) -> None:
    connecting = [gevent.spawn(MemoryClient, far, serve(Room), name="ann") for _ in range(2)]
    turn()
    assert (slow.asked, len(far.connections), connecting[0].ready()) == (["ann", "ann"], 2, False)
    leaving, staying = far.connections
    leaving.close(1012, "draining")
    for _ in range(2):
        slow.confirm()
    gevent.joinall(connecting, DEADLINE)
    assert (far.connections, slow.topics) == ({staying}, ["ann"])
    far.broadcast(Broadcast("ann", "disconnect", {}))
    turn()
    assert (far.connections, slow.topics, far.pubsub.subscribed("ann")) == (set(), [], False)


def test_adapter_that_cannot_be_lets_nobody_in() -> None:
    found: list[Exception | SlowAdapter] = [NotPublished("out of reach"), InvalidOption("nowhere"), SlowAdapter("ann")]

    def find() -> SlowAdapter:
        adapter = found.pop(0)
        if isinstance(adapter, Exception):
            raise adapter
        return adapter

    engine = Engine(nullcontext, Json(), find)
    for failure in (NotPublished, InvalidOption):
        with pytest.raises(failure):
            MemoryClient(engine, serve(Room), name="ann")
        assert (engine.connections, engine.pubsub.subscribed("ann")) == (set(), False)
    assert MemoryClient(engine, serve(Room), name="ann").connection.open
    engine.stop()


# Raw sockets


@pytest.fixture
def raw_site() -> Iterator[Site]:
    """Return an app for raw sockets."""
    site = Site(KINDS[1])
    yield site
    site.close()


def test_raw_socket_speaks_first_answers_and_hears_of_its_end(raw_site: Site) -> None:
    class Echo(RawSocket):
        def id(self) -> str | None:
            return self.params.get("user")

        def open(self) -> None:
            assert current_app.name == raw_site.app.name
            g.opened = True
            self.send(f"hello {self.transport}")

        def handle_frame(self, frame: Frame) -> None:
            assert "opened" not in g
            if frame == "bye":
                self.close(4000, "enough")
            else:
                self.send(frame)
                self.send(frame)

        def terminate(self, reason: Any) -> None:
            raw_site.log.put(reason)

    wires = [raw_site.connect_raw(Echo, **params) for params in ({}, {"user": "ann"}, {})]
    for wire in wires:
        assert wire.data() == "hello websocket"
    wires[0].text("a")
    wires[0].send(2, b"\x01")
    assert [wires[0].data() for _ in range(4)] == ["a", "a", b"\x01", b"\x01"]
    wires[0].text("bye")
    assert wires[0].closed() == 4000
    raw_site.phoenix.disconnect("ann")
    assert wires[1].closed() == 1001
    wires[2].sock.close()
    assert [raw_site.noted() for _ in range(3)] == ["enough", "disconnected", "closed"]


@pytest.mark.parametrize("failure", [RuntimeError, gevent.GreenletExit, gevent.Timeout])
@pytest.mark.parametrize("where", ["open", "handle_frame", "terminate"])
def test_raw_socket_that_fails_is_closed(
    raw_site: Site, failure: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(RawSocket):
        def handle_frame(self, frame: Frame) -> None:
            self.close()

    def fail(*arguments: Any) -> None:
        raise failure()

    setattr(Failing, where, fail)
    wire = raw_site.connect_raw(Failing)
    wire.text("a")
    assert wire.closed() == (1001 if where == "terminate" else 1011)
    (line,) = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"Failing failed in fail \(connection \d+\), which is closed", line)
    assert caplog.records[0].levelno == logging.ERROR
    assert raw_site.engine.connections == set()


def test_end_of_a_raw_socket_comes_after_the_frame_that_is_handled(raw_site: Site) -> None:
    gate, entered = Event(), Event()

    class Slow(RawSocket):
        def handle_frame(self, frame: Frame) -> None:
            entered.set()
            assert gate.wait(DEADLINE)
            raw_site.log.put(frame)

        def terminate(self, reason: Any) -> None:
            raw_site.log.put(reason)

    wire = raw_site.connect_raw(Slow)
    wire.text("a")
    wire.text("b")
    assert entered.wait(DEADLINE)
    wire.sock.close()
    assert wait_until(lambda: not raw_site.engine.connections, turn)
    assert raw_site.notes() == []
    gate.set()
    assert [raw_site.noted(), raw_site.noted()] == ["a", "closed"]


def test_raw_socket_that_is_too_far_behind_is_read_no_further(engine: Engine) -> None:
    gate = Event()
    handled: Queue[Frame] = Queue()

    class Slow(RawSocket):
        def handle_frame(self, frame: Frame) -> None:
            assert gate.wait(DEADLINE)
            handled.put(frame)

    connection = RawConnection(engine, Slow({}, "websocket"), None, RecordingCarrier())
    connection.opened()
    frames, read = [f"{number}" for number in range(INBOX_LIMIT + 10)], list[str]()

    def reader() -> None:
        for frame in frames:
            connection.receive(frame)
            read.append(frame)

    reading = gevent.spawn(reader)
    turn()
    assert INBOX_LIMIT - 1 <= len(read) <= INBOX_LIMIT + 1
    gate.set()
    assert [handled.get(timeout=DEADLINE) for _ in frames] == frames
    reading.join(DEADLINE)
    connection.closed("closed")


def test_raw_socket_that_ends_before_the_other_nodes_know_its_id_is_not_opened(far: Engine, slow: SlowAdapter) -> None:
    log: list[str] = []

    class Noting(RawSocket):
        def open(self) -> None:
            log.append("open")

        def terminate(self, reason: Any) -> None:
            log.append(reason)

    for number, ends in enumerate((False, True)):
        connection = RawConnection(far, Noting({}, "websocket"), f"id {number}", RecordingCarrier())
        connecting = gevent.spawn(connection.opened)
        turn()
        assert log == ([] if number == 0 else ["open"])
        if ends:
            connection.close(1012, "draining")
        slow.confirm()
        connecting.get(timeout=DEADLINE)
    assert (log, slow.topics) == (["open", "draining"], ["id 0"])


# The end of a socket


def test_a_socket_hears_of_its_end_once_after_all_of_its_channels(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Event()

    def ended(socket: Socket, reason: str) -> None:
        site.log.put((current_app.name, socket.params["user"], reason))

    monkeypatch.setattr(site.socket, "disconnected", ended)
    site.serve(Room)
    site.serve(scripted(terminate=lambda channel, reason: gate.wait(DEADLINE)), "slow")
    site.serve(scripted(join=fails(ValueError)), "crashing")
    client = site.enter(user="ann")
    client.join("slow")
    client.say("1", "9", "slow", "phx_leave")
    client.say("8", "8", "crashing", "phx_join")
    client.rest()
    site.connect(user="bob").hang_up()
    client.hang_up()
    turn()
    assert site.notes() == ["left", (site.app.name, "bob", "closed"), "closed"]
    gate.set()
    assert site.noted() == (site.app.name, "ann", "closed")
    client.hang_up()
    turn()
    assert site.notes() == []


def test_a_drain_waits_for_the_ends_of_sockets(caplog: pytest.LogCaptureFixture) -> None:
    site, log = Site(KINDS[1]), list[str]()

    class Slow(Socket):
        def connect(self, params: Any, info: Any) -> None:
            if params.get("user") == "eve":
                raise Refused(reason="no")

        def disconnected(self, reason: str) -> None:
            gevent.sleep(0.05)
            log.append(reason)
            raise ValueError("this is how it fails")

    site.phoenix.socket("/slow")(Slow)
    Slow.channel("room:*", {"log": site.log})(Room)
    with pytest.raises(Refused):
        InMemoryClient(site.app, "/slow", params={"user": "eve"})
    clients = [InMemoryClient(site.app, "/slow") for _ in range(2)]
    clients[0].join("room:1")
    drain(site.engine)
    assert log == ["draining", "draining"]
    assert site.notes() == ["draining"]
    (line, _) = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"Slow failed in disconnected \(connection \d+\)", line)
    site.close()


# Carriers and adapters of others


class Broken(RecordingCarrier):
    """Fails at what it is told to, as a carrier of somebody else's might."""

    fails = ""

    def close(self, code: int, reason: str) -> None:
        if self.fails == "close":
            raise OSError("the carrier's own")
        super().close(code, reason)

    def _write(self, data: Any) -> None:
        if self.fails == "write":
            raise OSError("the carrier's own")
        super()._write(data)


@pytest.mark.parametrize("fails", ["close", "write"])
def test_carrier_that_fails_harms_no_other_client_and_is_logged(
    engine: Engine, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    socket = serve(Room, assigns={"log": Queue()})
    clients = [MemoryClient(engine, socket, name="ann", carrier=kind()) for kind in (Broken, RecordingCarrier)]
    for client in clients:
        client.join()
    broken, other = clients
    broken.carrier.fails = fails  # type: ignore[attr-defined]
    for client in clients:
        client.say("1", "2", "room:1", "echo", {})
    engine.broadcast(Broadcast("room:1", "news", {}))
    assert [message[3] for message in other.rest()] == ["phx_reply", "news"]
    engine.broadcast(Broadcast("ann", "disconnect", {}))
    turn()
    assert other.carrier.closed == (1001, "disconnected")
    assert engine.connections == set()
    assert "OSError: the carrier's own" in caplog.text


def test_adapter_that_fails_to_unsubscribe_stops_no_channel_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryAdapter):
        def unsubscribe(self, topic: str) -> None:
            raise OSError("the adapter's own")

    site = Site(KINDS[1], Failing([]))
    client = site.enter()
    client.join("room:2", "2")
    client.hang_up()
    assert [site.noted(), site.noted()] == ["closed", "closed"]
    assert (site.hears("room:1"), site.hears("room:2"), site.engine.connections) == (False, False, set())
    assert "OSError: the adapter's own" in caplog.text
    site.close()


# What is left of a client


def ask_for_all(channel: Room) -> None:
    """Ask for what a channel can hold until it ends."""
    channel.subscribe("elsewhere")
    channel.send_after(60, "later")
    channel.spawn(gevent.sleep, 60)


ENDS: dict[str, Callable[[Client], Any]] = {
    "is closed": lambda client: client.connection.close(1000, "inactive"),
    "hangs up": lambda client: client.hang_up() if isinstance(client, WebSocketClient) else ENDS["is closed"](client),
    "leaves": lambda client: client.say("1", "2", "room:1", "phx_leave"),
    "crashes": lambda client: client.say("1", "2", "room:1", "do"),
    "joins again": lambda client: client.say("2", "2", "room:1", "phx_join"),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_client_that_has_ended_goes_without_the_garbage_collector(
    site: Site, end: Callable[[Client], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "flask_phoenix")  # a line that is captured holds what was raised
    made: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        room = scripted(
            __init__=lambda channel: made.append(weakref.ref(channel)),
            after_join=ask_for_all,
            do=fails(RuntimeError),
            news=lambda channel: None,
        )
        client = site.enter(room, user="7")
        client.connection.socket.expires_at = time.time() + 1000
        client.connection.expire()
        assert [each() is not None for each in made] == [True]
        end(client)
        site.noted()
        turn()
        assert made[0]() is None
        client.connection.close(1012, "draining")
        made = [weakref.ref(client.connection.socket), weakref.ref(client.connection.carrier)]
        client.hang_up()
        client.connection = site.connect().connection
        assert wait_until(lambda: [each() for each in made] == [None, None], turn)
    finally:
        gc.enable()


def test_a_raw_socket_that_has_ended_goes_without_the_garbage_collector(raw_site: Site) -> None:
    made: list[weakref.ref[Any]] = []

    class Raw(RawSocket):
        def open(self) -> None:
            made.append(weakref.ref(self))
            self.send("hello")

        def terminate(self, reason: Any) -> None:
            self.send("too late")

    gc.disable()
    try:
        client = raw_site.connect_raw(Raw)
        assert client.data() == "hello"
        client.sock.close()
        assert wait_until(lambda: made[0]() is None, turn)
    finally:
        gc.enable()
