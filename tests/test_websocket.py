"""WebSockets: frames over real socket pairs, with a client that sends exactly what it is told to."""

from __future__ import annotations

import json
import logging
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Codec

from flask_phoenix.channel import Channel
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.handlers import on
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Message
from flask_phoenix.protocol.serializers import Serializer, V2Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.runtime import turns
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Connection, RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.signals import limit_reached
from flask_phoenix.socket import RawSocket, Socket
from flask_phoenix.testing import Clock
from flask_phoenix.transports import websocket
from flask_phoenix.transports.outbox import Outbox, write_each
from flask_phoenix.transports.websocket import (
    COMPRESS_FROM,
    FrameSplitter,
    Limits,
    WebSocketCarrier,
    read_message,
    write_frame,
)
from tests.support.loop import turn
from tests.support.processes import DEADLINE, HOST, wait_until
from tests.support.wire import Wire, fill, tls_pair, write

LIMITS = Limits(timeout=None, max_frame_size=1 << 20, outbox=1 << 20)
TEXT, BINARY, CLOSE, PING, PONG, CONT = Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG, Opcode.CONT
JOIN = '["1","1","room:1","phx_join",{}]'
MIB = 1 << 20


class EchoSocket(RawSocket):
    """Echoes frames, and remembers how it ended."""

    def handle_frame(self, frame: str | bytes) -> None:
        self.send(frame)

    def terminate(self, reason: Any) -> None:
        self.assigns["reason"] = reason
        self.assigns["ended"].set()


class RoomSocket(Socket):
    """Has rooms."""


@RoomSocket.channel("room:*")
class RoomChannel(Channel):
    """Lets everybody in."""

    conflate: ClassVar = {"moved": lambda payload: payload["who"], "odd": lambda payload: payload["no such key"]}

    def join(self, payload: Any) -> None:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload


class Served:
    """A connection that is being served, and its client."""

    def __init__(self, connection: Connection, carrier: WebSocketCarrier, client: Wire) -> None:
        self.connection = connection
        self.client = client
        self.serving = gevent.spawn(carrier.serve, connection)

    def ended(self) -> None:
        """Hang up, and see that the server is done with this client."""
        self.client.sock.close()
        self.given_up()

    def given_up(self) -> None:
        """See that the server is done with this client, which has not hung up."""
        self.serving.get(timeout=DEADLINE)
        assert not self.connection.open
        assert not self.connection.engine.connections

    def reason(self) -> Any:
        """Wait until the author's code has been told of the end; return the reason."""
        assert self.connection.socket.assigns["ended"].wait(DEADLINE)
        return self.connection.socket.assigns["reason"]


#: The server's end of a stream and the client's; None: those of a new socket pair.
Ends = tuple[Any, Any] | None


class Carriers:
    """Makes connections over socket pairs."""

    def __init__(self) -> None:
        self.engine = Engine(nullcontext, Json())
        self.served: list[Served] = []
        #: The server's end of each.
        self.socks: list[Any] = []

    def echo(self, pair: Ends = None, extensions: list[Extension] | None = None, **limits: Any) -> Served:
        """Serve an echo."""
        raw = EchoSocket({}, "websocket")
        raw.assigns["ended"] = Event()
        return self._serve(lambda carrier: RawConnection(self.engine, raw, None, carrier), pair, extensions, limits)

    def rooms(
        self,
        pair: Ends = None,
        extensions: list[Extension] | None = None,
        serializer: Serializer | None = None,
        **limits: Any,
    ) -> Served:
        """Serve channels."""

        def make(carrier: WebSocketCarrier) -> Connection:
            user = RoomSocket({}, "websocket")
            return ChannelConnection(self.engine, user, None, carrier, Protocol(serializer or V2, user.match))

        return self._serve(make, pair, extensions, limits)

    def member(self, **arguments: Any) -> Served:
        """Serve channels to a client that has joined ``room:1``."""
        served = self.rooms(**arguments)
        served.client.text(JOIN)
        assert '"status":"ok"' in str(served.client.data())
        return served

    def stop(self) -> None:
        """End everything."""
        for served in self.served:
            served.client.sock.close()
        gevent.joinall([served.serving for served in self.served], timeout=DEADLINE)
        self.engine.stop()

    def _serve(
        self,
        make: Callable[[WebSocketCarrier], Connection],
        pair: Ends,
        extensions: list[Extension] | None,
        limits: dict[str, Any],
    ) -> Served:
        ours, theirs = pair or socket.socketpair()
        carrier = WebSocketCarrier(ours, extensions or [], LIMITS._replace(**limits))
        served = Served(make(carrier), carrier, Wire(theirs))
        served.serving.link(lambda _: ours.close())
        self.served.append(served)
        self.socks.append(ours)
        return served


#: All that clients of vsn 2.0.0 have in common.
V2 = V2Serializer(Json())


@pytest.fixture
def carriers() -> Iterator[Carriers]:
    carriers = Carriers()
    yield carriers
    carriers.stop()


@pytest.fixture
def served(carriers: Carriers) -> Served:
    return carriers.echo()


@pytest.fixture
def greeted(served: Served) -> Served:
    """Return an echo that has answered."""
    served.client.text("hello")
    assert served.client.data() == "hello"
    return served


@pytest.fixture
def client(served: Served) -> Wire:
    return served.client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.1)


# Frames


@given(st.text() | st.binary() | st.sampled_from([0, 125, 126, 65535, 65536]).map(bytes))
def test_frames_are_written_as_the_codec_does(frame: str | bytes) -> None:
    opcode, data = (TEXT, frame.encode()) if isinstance(frame, str) else (BINARY, frame)
    assert write_frame(frame) == Frame(opcode, data).serialize(mask=False)


@given(
    st.sampled_from([TEXT, BINARY]),
    st.integers(0, 140) | st.sampled_from([65535, 65536]),
    st.binary(min_size=4, max_size=4),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 4),
)
def test_frames_are_read_as_the_codec_does(opcode: Opcode, size: int, key: bytes, form: int, cut: int) -> None:
    """Whatever form a length is written in, and wherever the piece ends."""
    length = b"\xff" + size.to_bytes(8, "big")
    if form == 0 and size < 126:
        length = bytes([0x80 | size])
    elif form == 1 and size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    data = bytes([0x80 | opcode]) + length + key + bytes(size)
    data = data[: len(data) - cut]
    codec = Codec(SERVER, state=State.OPEN)
    codec.receive_data(data)
    read, frames = read_message(data, LIMITS), codec.events_received()
    assert read is None or [(read[0], read[1])] == [(frame.opcode, bytes(frame.data)) for frame in frames]  # type: ignore[union-attr]


@pytest.mark.parametrize("frame", ["", "z\u00e9 \U0001f600", "x" * 126, "x" * 70000, b"", b"\x00\xff", bytes(65536)])
def test_echo(client: Wire, frame: str | bytes) -> None:
    client.send(*((TEXT, frame.encode()) if isinstance(frame, str) else (BINARY, frame)))
    assert client.data() == frame


def test_a_reader_for_whom_there_is_nothing_after_all_reads_on(carriers: Carriers, greeted: Served) -> None:
    taken: list[bytes] = []
    sock = carriers.socks[-1]._sock

    def take() -> None:
        with suppress(BlockingIOError):
            taken.append(sock.recv(100))

    before_readers = gevent.get_hub().loop.check(priority=2)
    before_readers.start(take)
    greeted.client.text("taken away")
    assert wait_until(lambda: bool(taken), gevent.idle)
    before_readers.stop()
    before_readers.close()
    greeted.client.text("heard")
    assert greeted.client.data() == "heard"


@pytest.mark.parametrize("first", [2, 10, 13, 14, 15, 133, 134, 1000])
def test_long_frame_in_two_pieces(client: Wire, first: int) -> None:
    whole = write(BINARY, bytes(70000))
    client.sock.sendall(whole[:first])
    gevent.idle()
    gevent.idle()
    client.sock.sendall(whole[first:])
    assert client.data() == bytes(70000)


def test_many_frames_in_one_piece_and_one_in_many(client: Wire) -> None:
    client.sock.sendall(b"".join(write(TEXT, str(number).encode()) for number in range(500)))
    assert [client.data() for _ in range(500)] == [str(number) for number in range(500)]
    for byte in write(TEXT, b"one byte at a time"):
        client.sock.sendall(bytes([byte]))
        gevent.idle()
    assert client.data() == "one byte at a time"


def test_fragments(client: Wire) -> None:
    face = "\U0001f600".encode()
    client.send(TEXT, b"one " + face[:1], fin=False)
    client.send(CONT, b"", fin=False)
    client.send(PING, b"alive?")
    assert client.frame() == Frame(PONG, b"alive?")
    client.send(CONT, face[1:])
    assert client.data() == "one \U0001f600"
    client.send(BINARY, b"\x01", fin=False)
    client.send(CONT, b"\x02")
    assert client.data() == b"\x01\x02"
    client.text("whole")
    assert client.data() == "whole"


@pytest.mark.parametrize("payload", [b"", b"123", b"\xff" * 125])
def test_ping(client: Wire, payload: bytes) -> None:
    client.send(PONG, b"nobody asked")
    client.send(PING, payload)
    assert client.frame() == Frame(PONG, payload)


@pytest.mark.parametrize("compress", [False, True])
def test_pongs_keep_their_place(carriers: Carriers, compress: bool) -> None:
    served = carriers.echo(extensions=[deflate()] if compress else [])
    frames = [write(TEXT, b"a"), write(PING, b"1"), write(TEXT, b"b", fin=False), write(PING, b"2"), write(PING, b"3")]
    served.client.sock.sendall(b"".join([*frames, write(CONT, b"c"), write(CLOSE, b"\x03\xe8")]))
    seen = [served.client.frame() for _ in range(6)]
    assert [frame.opcode for frame in seen] == [TEXT, PONG, PONG, PONG, TEXT, CLOSE]
    assert [bytes(frame.data) for frame in seen[1:4]] == [b"1", b"2", b"3"]


# The client closes


@pytest.mark.parametrize("code", [1000, 1001, 1007, 1013, 3000, 4999, None])
def test_close_is_answered_with_its_code(served: Served, code: int | None) -> None:
    served.client.sock.sendall(write(TEXT, b"before"))
    served.client.close(code)
    assert served.client.data() == "before"
    assert served.client.close_code() == (code or 1005)
    served.client.ended()
    served.ended()
    assert served.reason() == "closed"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_illegal_close_code(served: Served, code: int) -> None:
    served.client.close(code)
    assert served.client.closed() == 1002
    served.ended()


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007)])
def test_malformed_close(served: Served, payload: bytes, code: int) -> None:
    served.client.send(CLOSE, payload)
    assert served.client.closed() == code
    served.ended()


def test_nothing_is_read_after_a_close(served: Served) -> None:
    served.client.sock.sendall(write(CLOSE, b"\x03\xe8") + write(TEXT, b"after") + write(PING))
    assert served.client.frame().opcode is CLOSE
    served.client.ended()


def test_client_that_vanishes(greeted: Served) -> None:
    greeted.ended()
    assert greeted.reason() == "closed"


def test_client_that_resets(carriers: Carriers) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    served = carriers.echo(pair=(ours, theirs))
    served.client.text("hello")
    assert served.client.data() == "hello"
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    served.ended()
    assert served.reason() == "closed"


def test_client_that_stops_sending(served: Served) -> None:
    served.client.sock.shutdown(socket.SHUT_WR)
    served.client.ended()
    served.ended()
    assert served.reason() == "closed"


# The client breaks the rules

RULES = {
    "unmasked": [write(TEXT, b"x", mask=False)],
    "rsv1": [write(TEXT, b"x", rsv=4)],
    "rsv2": [write(TEXT, b"x", rsv=2)],
    "rsv3": [write(TEXT, b"x", rsv=1)],
    "rsv of a ping": [write(PING, rsv=4)],
    "opcode 3": [write(3)],
    "opcode 11": [write(11)],
    "ping in fragments": [write(PING, b"x", fin=False)],
    "ping too long": [bytes([0x89, 0x80 | 126, 0, 126]) + bytes(4 + 126)],
    "stray continuation": [write(CONT, b"x")],
    "text within fragments": [write(TEXT, b"x", fin=False), write(TEXT, b"y")],
}


def test_fragments_without_end(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    served.client.sock.sendall(write(TEXT, b"a", fin=False) + 100 * write(CONT, b"", fin=False) + write(CONT, b"b"))
    assert served.client.data() == "ab"
    served.client.sock.sendall(write(TEXT, b"", fin=False) + 100 * write(CONT, b"", fin=False) + write(CONT, b"b"))
    assert served.client.close_code() == 1008
    served.client.close(1008)
    served.client.ended()
    served.ended()
    assert "closed with 1008" in caplog.text


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_are_cut_apart(payloads: list[bytes], data: st.DataObject) -> None:
    sent = [write(BINARY, payload * data.draw(st.sampled_from([1, 300]))) for payload in payloads]
    stream, splitter, pieces = b"".join(sent), FrameSplitter(), list[bytes]()
    for start, end in pairwise([0, *sorted(data.draw(st.lists(st.integers(0, len(stream))))), len(stream)]):
        pieces += splitter.split(stream[start:end])
    assert b"".join(pieces) == stream
    ends = set(accumulate(len(frame) for frame in sent))
    assert ends <= set(accumulate(map(len, pieces)))


@pytest.mark.parametrize("frames", RULES.values(), ids=list(RULES))
def test_broken_rule(served: Served, frames: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    served.client.sock.sendall(b"".join(frames) + write(TEXT, b"never handled"))
    assert served.client.close_code() == 1002
    served.client.close(1002)
    served.client.ended()
    served.ended()
    assert served.reason() == "closed"
    line = "a client of EchoSocket broke the rules of WebSockets; it is closed with 1002"
    assert [record.getMessage() for record in caplog.records] == [line]


@pytest.mark.parametrize(
    "frames",
    [
        [write(TEXT, b"x" * 101)],
        [write(TEXT, b"x" * 60, fin=False), write(CONT, b"x" * 41)],
        [write(TEXT, b"x" * 101)[:10]],
    ],
    ids=["whole", "in fragments", "its head"],
)
def test_too_big(carriers: Carriers, frames: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    served = carriers.echo(max_frame_size=100)
    served.client.text("x" * 100)
    assert served.client.data() == "x" * 100
    served.client.sock.sendall(b"".join(frames))
    assert served.client.closed() == 1009
    served.ended()
    line = "a client of EchoSocket sent more than 100 bytes (max_frame_size); it is closed with 1009"
    assert [record.getMessage() for record in caplog.records] == [line]


@pytest.mark.parametrize("data", [b"\xff", b"abc\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x9f\x98"])
def test_text_that_is_not_utf8(carriers: Carriers, data: bytes) -> None:
    for frames in ([write(TEXT, data)], [write(TEXT, data, fin=False), write(CONT, b"x")]):
        served = carriers.echo()
        served.client.sock.sendall(b"".join(frames))
        assert served.client.closed() == 1007
        served.ended()


class FragileSerializer(V2Serializer):
    """Has a mistake of its author's."""

    def decode(self, frame: str | bytes) -> Message:
        raise OSError("a mistake")


@pytest.mark.parametrize(
    ("serializer", "frame", "line"),
    [
        (V2, "{}", "a client of RoomSocket sent an invalid message"),
        (FragileSerializer(Json()), JOIN, "OSError: a mistake"),
    ],
    ids=["of the client", "of the author"],
)
def test_mistake_in_a_message(
    carriers: Carriers, serializer: Serializer, frame: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = carriers.rooms(serializer=serializer)
    served.client.sock.sendall(write(TEXT, frame.encode()) + write(TEXT, JOIN.encode()))
    assert served.client.closed() == 1011
    served.ended()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("flask_phoenix.connection", logging.ERROR)
    assert line in caplog.text


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.binary(max_size=200), st.booleans(), st.sampled_from([0, 0, 0, 4]))
        | st.binary(max_size=20),
        max_size=8,
    )
)
def test_whatever_a_client_sends(frames: list[tuple[int, bytes, bool, int] | bytes]) -> None:
    carriers = Carriers()
    try:
        served = carriers.rooms()
        for frame in frames:
            if isinstance(frame, bytes):
                served.client.sock.sendall(frame)
            else:
                opcode, data, fin, rsv = frame
                served.client.send(opcode, data, fin=fin, rsv=rsv)
        served.client.sock.shutdown(socket.SHUT_WR)
        while served.client.sock.recv(65536):
            pass
        served.ended()
    finally:
        carriers.stop()


# Silence


@pytest.mark.parametrize("opcode", [PING, PONG, TEXT])
def test_only_the_client_keeps_it_open(phoenix_clock: Clock, carriers: Carriers, opcode: Opcode) -> None:
    served = carriers.echo(timeout=60)
    for _ in range(3):
        phoenix_clock.advance(59)
        served.client.send(opcode, b"alive")
        if opcode is not PONG:
            assert served.client.frame().data == b"alive"
    for _ in range(59):
        phoenix_clock.advance(1)
        served.connection.send("are you there?")
    assert served.connection.open
    phoenix_clock.advance(1)
    assert served.client.close_code() == 1002
    served.client.close(1002)
    served.client.ended()
    served.ended()
    assert served.reason() == "timeout"


def test_a_process_that_stood_still_ends_nobody(phoenix_clock: Clock, carriers: Carriers) -> None:
    served = carriers.echo(timeout=60)
    served.client.text("alive")
    assert served.client.data() == "alive"
    # As if that was long ago, and nothing had been read since.
    carrier: Any = served.connection.carrier
    carrier._last_received -= 3600
    phoenix_clock.advance(119)
    assert served.connection.open
    phoenix_clock.advance(1)
    assert served.client.close_code() == 1002  # and it is watched all the same
    served.client.close(1002)


# The server closes


@pytest.mark.parametrize("code", [1001, 1012, 4000])
def test_server_closes(greeted: Served, code: int) -> None:
    greeted.connection.close(code, "because")
    greeted.connection.close(code, "again")
    greeted.connection.send("too late")
    assert Close.parse(greeted.client.frame().data) == Close(code, "because")
    begin = time.monotonic()
    greeted.client.close(code)
    greeted.client.ended()
    assert time.monotonic() - begin < websocket.CLOSE_TIMEOUT
    greeted.ended()
    assert greeted.reason() == "because"


def test_close_frames_that_cross(greeted: Served) -> None:
    greeted.client.close(1000)
    greeted.connection.close(1012, "draining")
    greeted.client.close_code()
    greeted.client.ended()
    greeted.ended()


@pytest.mark.usefixtures("impatient")
def test_close_that_is_not_answered(greeted: Served) -> None:
    greeted.connection.close(1001, "disconnected")
    assert greeted.client.close_code() == 1001
    greeted.client.ended()
    greeted.given_up()


@pytest.mark.usefixtures("impatient")
def test_close_that_is_answered_with_chatter(greeted: Served) -> None:
    greeted.connection.close(1001, "disconnected")

    def chatter() -> None:
        while True:
            greeted.client.text("never handled")
            greeted.serving.join(0.005)

    chattering = gevent.spawn(chatter)
    assert greeted.client.close_code() == 1001
    greeted.client.ended()
    greeted.ended()
    with pytest.raises(OSError):  # noqa: PT011 - broken pipe, or reset: whatever comes first
        chattering.get(timeout=DEADLINE)


@pytest.mark.usefixtures("impatient")
def test_client_that_neither_reads_nor_answers(greeted: Served) -> None:
    greeted.connection.send("x" * 900_000)
    greeted.connection.close(1001, "disconnected")
    greeted.given_up()


def test_what_waits_arrives_before_the_close(greeted: Served) -> None:
    greeted.connection.send("x" * 900_000)
    greeted.connection.send("last word")
    greeted.connection.close(1012, "draining")
    assert [greeted.client.data(), greeted.client.data()] == ["x" * 900_000, "last word"]
    assert greeted.client.closed() == 1012
    greeted.ended()


@pytest.mark.parametrize("serving", [True, False])
def test_drain_that_came_before_the_connection(
    carriers: Carriers, serving: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if serving:
        carriers.member()
    carriers.engine.draining = True
    assert carriers.echo().client.closed() == 1012
    assert not caplog.records


def test_node_that_cannot_start(carriers: Carriers, caplog: pytest.LogCaptureFixture) -> None:
    def find_adapter() -> Adapter:
        raise PhoenixError("no socket directory")

    carriers.engine = Engine(nullcontext, Json(), find_adapter)
    assert carriers.echo().client.closed() == 1011
    assert "a client of EchoSocket cannot be served" in caplog.text


# Slow clients


def flood(served: Served, frame: str | bytes) -> None:
    """Send until the client is closed for not reading."""
    served.client.send(PING)
    assert served.client.frame().opcode is PONG
    for _ in range(1000):
        if not served.connection.open:
            return
        served.connection.send(frame)
    pytest.fail("it was never closed")


def test_slow_client_is_closed_and_delays_nobody(carriers: Carriers, caplog: pytest.LogCaptureFixture) -> None:
    reached: list[Any] = []

    def note(app: Any, **about: Any) -> None:
        reached.append((about["limit"], about["connection"]))

    limit_reached.connect(note)
    slow, quick = carriers.member(outbox=100_000), carriers.member()
    engine = carriers.engine
    for number in range(1000):
        if not slow.connection.open:
            break
        engine.broadcast(Broadcast("room:1", "news", {"number": number, "filling": "x" * 10_000}))
        assert f'"number":{number},' in str(quick.client.data())
    assert engine.connections == {quick.connection}
    assert "a client of RoomSocket reads too slowly" in caplog.text
    assert reached == [("outbox_limit", slow.connection)]
    assert engine.limits == {"outbox_limit": 1}
    seen = [slow.client.data() for _ in range(number - 10)]  # what was sent before is whole and in order
    assert all(f'"number":{n},' in str(frame) for n, frame in enumerate(seen))
    assert slow.client.closed() == 1013
    engine.broadcast(Broadcast("room:1", "news", {"number": "last"}))
    assert quick.client.data() == '[null,null,"room:1","news",{"number":"last"}]'


@pytest.mark.usefixtures("impatient")
def test_slow_client_that_never_reads(carriers: Carriers) -> None:
    served = carriers.echo(outbox=1000)
    flood(served, "x" * 10_000)
    served.given_up()
    assert served.reason() == "too slow"


# Slow clients that get the newest alone


def heard(frames: list[Any]) -> list[Any]:
    """Return the events and payloads of some frames."""
    return [json.loads(frame)[3:] for frame in frames]


def stuck(carriers: Carriers, **limits: Any) -> tuple[Served, int]:
    """Return a member whose socket is full, and by how many bytes."""
    member = carriers.member(**limits)
    return member, fill(carriers.socks[-1])


def test_slow_client_gets_the_newest_of_each_key_in_order(carriers: Carriers) -> None:
    (slow, filled), quick = stuck(carriers, outbox=10_000), carriers.member()
    said: list[Any] = [["news", {"n": -1}]]
    for n in range(1000):
        said += [["moved", {"who": who, "n": n}] for who in "ab"]
        if not n % 300:
            said.append(["news", {"n": n}])
    for event, payload in said:
        carriers.engine.broadcast(Broadcast("room:1", event, payload))
        assert heard([quick.client.data()]) == [[event, payload]]
    slow.client.take(filled)
    expected = [*([event, payload] for event, payload in said if event == "news"), *said[-2:]]
    assert heard([slow.client.data() for _ in expected]) == expected
    assert carriers.engine.limits == {"conflate": 1}
    carriers.engine.broadcast(Broadcast("room:1", "moved", {"who": "a", "n": "later"}))  # it is quick again
    carriers.engine.broadcast(Broadcast("room:1", "moved", {"who": "a", "n": "last"}))
    assert heard([slow.client.data() for _ in range(2)]) == [["moved", {"who": "a", "n": n}] for n in ("later", "last")]


def test_a_burst_is_conflated_too_and_a_frame_that_has_begun_is_sent_to_its_end(carriers: Carriers) -> None:
    slow = carriers.member()
    whole = {"who": "a", "filling": "x" * MIB}
    carriers.engine.broadcast(Broadcast("room:1", "moved", whole))  # more than the socket takes
    turn()
    for n in range(5):  # in one turn: the hub joins them
        carriers.engine.broadcast(Broadcast("room:1", "moved", {"who": "a", "n": n}))
        carriers.engine.broadcast(Broadcast("room:1", "news", {"n": n}))
    turn()
    frames = heard([slow.client.data() for _ in range(7)])
    assert frames[0] == ["moved", whole]
    assert frames[1:] == [*(["news", {"n": n}] for n in range(4)), ["moved", {"who": "a", "n": 4}], ["news", {"n": 4}]]


def test_a_mount_without_conflation(carriers: Carriers) -> None:
    slow, _ = stuck(carriers, outbox=1000, conflate=False)
    for n in range(1000):
        if not slow.connection.open:
            break
        carriers.engine.broadcast(Broadcast("room:1", "moved", {"who": "a", "n": n}))
        turn()
    assert carriers.engine.limits == {"outbox_limit": 1}


def test_a_key_that_cannot_be_found(carriers: Carriers, caplog: pytest.LogCaptureFixture) -> None:
    slow, filled = stuck(carriers)
    for n in range(3):
        carriers.engine.broadcast(Broadcast("room:1", "odd", {"n": n}))
        carriers.engine.broadcast(Broadcast("room:1", "moved", {"who": [], "n": n}))  # not to be hashed
    turn()
    slow.client.take(filled)
    assert [message[1]["n"] for message in heard([slow.client.data() for _ in range(6)])] == [0, 0, 1, 1, 2, 2]
    failures = [record.message for record in caplog.records]
    assert failures == [f"RoomChannel.conflate has no key for a payload of '{event}'" for event in ("odd", "moved")]


def test_client_that_takes_nothing_for_too_long(carriers: Carriers, caplog: pytest.LogCaptureFixture) -> None:
    slow, filled = stuck(carriers, outbox_timeout=0.05)
    carriers.engine.broadcast(Broadcast("room:1", "news", {}))
    assert wait_until(lambda: not slow.connection.open, turn)
    assert carriers.engine.limits == {"outbox_timeout": 1}
    assert "a client of RoomSocket reads too slowly: it has taken nothing for 0.05 s (outbox_timeout)" in caplog.text
    slow.client.take(filled)
    assert heard([slow.client.data()]) == [["news", {}]]
    assert slow.client.closed() == 1013


@pytest.mark.usefixtures("impatient")
def test_the_kernel_holds_nothing_for_a_client_that_was_closed(carriers: Carriers) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        theirs = socket.create_connection(listener.getsockname())
        ours, (_, port) = listener.accept()
        slow = carriers.member(pair=(ours, theirs), outbox=1000)
        flood(slow, "x" * 100_000)
        slow.given_up()
        # Closed as by a server; without the reset the kernel would hold the socket until the client reads.
        assert wait_until(lambda: not held(listener.getsockname()[1], port), turn)


def held(local: int, remote: int) -> bool:
    """Tell whether the kernel knows a connection from one port to another."""
    ends = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any((int(one[9:], 16), int(other[9:], 16)) == (local, remote) for one, other in ends)


# Many at once


def test_what_comes_from_many_at_once_is_spread_over_turns(carriers: Carriers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "LONG_TURN", -1.0)  # each turn has lasted too long
    monkeypatch.setattr(turns, "SHARE", 0.0)
    members = [carriers.rooms() for _ in range(10)]
    passed, ended = count(), list[int]()
    check = gevent.get_hub().loop.check()
    now = [0]
    check.start(lambda: now.__setitem__(0, next(passed)))
    for member in members:
        member.client.text(JOIN)
    for member in members:
        assert '"status":"ok"' in str(member.client.data())
        member.serving.link(lambda _: ended.append(now[0]))
        member.client.sock.close()
    gevent.joinall([member.serving for member in members], timeout=DEADLINE)
    check.close()
    assert len(set(ended)) == 10


@pytest.mark.parametrize("compress", [False, True])
def test_what_comes_from_one_at_once_is_spread_over_turns(
    carriers: Carriers, compress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = carriers.rooms(extensions=[deflate()] if compress else None)
    modest = carriers.member()
    theirs = [deflate()] if compress else []
    monkeypatch.setattr(websocket, "LONG_TURN", -1.0)  # each turn has lasted too long
    monkeypatch.setattr(turns, "SHARE", 0.0)
    pushes = [JOIN.encode(), *[f'["1","{n}","room:1","echo",{{}}]'.encode() for n in range(1000)]]
    greedy.client.sock.sendall(b"".join(Frame(TEXT, push).serialize(mask=True, extensions=theirs) for push in pushes))
    modest.client.text('["1","2","room:1","echo",{}]')
    assert '"status":"ok"' in str(modest.client.data())
    greedy.client.sock.settimeout(0.0)
    answered = b""
    with suppress(BlockingIOError):
        while True:
            answered += greedy.client.sock.recv(MIB)
    greedy.client.sock.settimeout(DEADLINE)
    assert b'"1","999"' not in answered
    while b'"1","999"' not in answered:
        answered += greedy.client.sock.recv(MIB)


def test_tiny_fragments_are_decoded_in_small_pieces(carriers: Carriers, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces, decode = list[int](), websocket.WebSocketCarrier._decode_piece

    def note(carrier: WebSocketCarrier, data: bytes) -> None:
        pieces.append(len(data))
        decode(carrier, data)

    monkeypatch.setattr(websocket.WebSocketCarrier, "_decode_piece", note)
    member = carriers.member()
    text = f'["1","2","room:1","echo",{{"a":"{"x" * 20_000}"}}]'.encode()
    data = b"".join(write(0 if at else 1, text[at : at + 1], fin=at == len(text) - 1) for at in range(len(text)))
    member.client.sock.sendall(data)
    assert '"status":"ok"' in str(member.client.data())
    assert set(pieces[1:-1]) <= {*range(websocket.SMALL_READ + 1)}
    member.client.text(text.decode())
    assert '"status":"ok"' in str(member.client.data())


# Compression


def deflate() -> PerMessageDeflate:
    return PerMessageDeflate(True, True, 15, 15)


def test_compression_in_both_directions(carriers: Carriers) -> None:
    ours, theirs = deflate(), deflate()
    served = carriers.echo(extensions=[ours])
    for opcode, data in ((TEXT, b"compressible " * 100), (BINARY, bytes(1000)), (TEXT, b""), (TEXT, b"short " * 80)):
        served.client.send(opcode, data, extensions=[theirs])
        frame = served.client.frame()
        assert (frame.opcode, frame.rsv1) == (opcode, len(data) >= COMPRESS_FROM)
        assert len(frame.data) <= (120 if frame.rsv1 else 480)
        assert theirs.decode(frame).data == data
    served.client.text("uncompressed")
    assert theirs.decode(served.client.frame()).data == b"uncompressed"
    served.client.close(1000)
    assert served.client.close_code() == 1000
    served.ended()


def test_broadcast_to_compressed_and_plain_clients(carriers: Carriers) -> None:
    theirs = [deflate(), deflate()]
    packed = [carriers.rooms(extensions=[deflate()]) for _ in theirs]
    plain = carriers.member()
    for extension, served in zip(theirs, packed, strict=True):
        served.client.text(JOIN)
        assert b'"ok"' in extension.decode(served.client.frame()).data
    for text in ("short", "long " * 500):
        carriers.engine.broadcast(Broadcast("room:1", "news", {"text": text}))
        expected = f'[null,null,"room:1","news",{{"text":"{text}"}}]'
        assert plain.client.data() == expected
        for extension, served in zip(theirs, packed, strict=True):
            frame = served.client.frame()
            assert frame.rsv1 == (len(expected) >= COMPRESS_FROM)
            assert extension.decode(frame).data == expected.encode()


def test_a_broadcast_is_compressed_once_for_each_size_of_window(
    carriers: Carriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows: list[int] = []
    compress = zlib.compressobj

    def note(*, wbits: int) -> Any:
        windows.append(-wbits)
        return compress(wbits=wbits)

    monkeypatch.setattr(zlib, "compressobj", note)
    members = [carriers.member(extensions=[PerMessageDeflate(True, True, 15, bits)]) for bits in (15, 9) * 5]
    windows.clear()
    payload = {"text": "".join(map(str, range(1000)))}
    carriers.engine.broadcast(Broadcast("room:1", "news", payload))
    for member in members:
        frame = deflate().decode(member.client.frame())
        assert json.loads(bytes(frame.data))[4] == payload
    assert windows == [15, 9]


def test_compressed_message_that_breaks_a_rule(carriers: Carriers) -> None:
    bomb = write(TEXT, b"x" * 10_000_000, extensions=[deflate()])
    for data, codes in ((bomb, {1009}), (write(TEXT, b"\xff\xff\xff", rsv=4), {1002, 1007})):
        served = carriers.echo(extensions=[deflate()], max_frame_size=10_000)
        served.client.sock.sendall(data)
        assert served.client.closed() in codes
        served.ended()


def test_slow_client_with_compression(carriers: Carriers) -> None:
    served = carriers.echo(extensions=[deflate()], outbox=1000)
    flood(served, random.Random(1).randbytes(10_000))
    served.connection.send("too late")
    assert served.client.closed() == 1013


# TLS


def test_tls(carriers: Carriers, tmp_path: Path) -> None:
    served = carriers.member(pair=tls_pair(tmp_path), outbox=4 * MIB)
    large = "x" * 800_000
    served.client.text(f'["1","3","room:1","echo",{{"large":"{large}"}}]')
    carriers.engine.broadcast(Broadcast("room:1", "news", {"n": 1}))
    received = [str(served.client.data()) for _ in range(2)]
    assert '[null,null,"room:1","news",{"n":1}]' in received
    assert any(large in text for text in received)
    served.client.close(1000)
    assert served.client.close_code() == 1000
    served.ended()


# The outbox


class Pair(NamedTuple):
    """The two ends of a stream."""

    ours: Any
    theirs: Wire


def never(what: str) -> None:
    pytest.fail(f"{what} where everything fits")


@contextmanager
def connected() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Pair(ours, Wire(theirs))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connected() as pair:
        yield pair


def test_outbox_writes_at_once_and_queues_what_the_kernel_refuses(pair: Pair) -> None:
    outbox = Outbox(pair.ours, MIB, None, never)
    for _ in range(2):
        outbox.write(b"at once")
        pair.theirs.sock.settimeout(0.0)  # nothing else has run since
        assert pair.theirs.take(7) == b"at once"
        pair.theirs.sock.settimeout(DEADLINE)
        filled = fill(pair.ours)
        outbox.write(b"first")
        outbox.write(b"second")
        assert pair.theirs.take(filled + 11).endswith(b"-firstsecond")
        outbox.join()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 2 * MIB), max_size=10), st.integers())
def test_outbox_keeps_the_order(sizes: list[int], seed: int) -> None:
    dice = random.Random(seed)
    with connected() as pair:
        outbox, wire = Outbox(pair.ours, 30 * MIB, None, never), pair.theirs
        pieces = [dice.randbytes(size) for size in sizes]
        whole = b"".join(pieces)
        reader = gevent.spawn(wire.take, len(whole))
        for piece in pieces:
            outbox.write(piece)
            if dice.random() < 0.3:
                gevent.idle()
        assert reader.get(timeout=DEADLINE) == whole


def test_bound_of_an_outbox(pair: Pair) -> None:
    overflows: list[str] = []
    outbox = Outbox(pair.ours, 1000, None, overflows.append)
    for _ in range(2):  # what was written counts no more
        filled = fill(pair.ours)
        outbox.write(b"x" * 5000)  # one message may be larger
        pair.theirs.take(filled + 5000)
        outbox.join()
    filled = fill(pair.ours)
    outbox.write(b"x" * 999)
    outbox.write(b"x")
    assert not overflows
    outbox.write(b"y")
    outbox.write(b"z")
    assert overflows == ["outbox_limit"]
    # Nothing is dropped in silence: what is called decides.
    assert pair.theirs.take(filled + 1002).endswith(b"x" * 1000 + b"yz")
    outbox.join()


def test_one_full_broken_or_closed_outbox_of_many() -> None:
    overflows: list[str] = []
    with ExitStack() as stack:
        pairs = {name: stack.enter_context(connected()) for name in ("first", "full", "broken", "closed", "last")}
        outboxes = {name: Outbox(pair.ours, 3, None, overflows.append) for name, pair in pairs.items()}
        wires = {name: pair.theirs for name, pair in pairs.items()}
        filled = fill(pairs["full"].ours)
        wires["broken"].sock.close()
        outboxes["closed"].close()
        for data in (b"one", b"two"):
            write_each(outboxes.values(), data)
        assert overflows == ["outbox_limit"]
        assert [wires[name].take(6) for name in ("first", "last")] == [b"onetwo"] * 2
        assert wires["full"].take(filled + 6).endswith(b"onetwo")
        outboxes["full"].join()
        assert [name for name, outbox in outboxes.items() if outbox.shut] == ["broken", "closed"]


@pytest.mark.parametrize("waits", [True, False])
def test_socket_that_breaks(pair: Pair, waits: bool) -> None:
    outbox = Outbox(pair.ours, MIB, None, never)
    if waits:
        fill(pair.ours)
        outbox.write(b"waits")
    pair.theirs.sock.close()
    outbox.write(b"into the void")
    outbox.join()
    assert outbox.shut
    outbox.write(b"more of it")
