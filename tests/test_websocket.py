"""Frames over a WebSocket: real socket pairs, with a client that says exactly what it is told to."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.base import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Codec

from flask_phoenix.channel import Channel, on
from flask_phoenix.exceptions import InvalidMessage
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Message
from flask_phoenix.protocol.serializers import Serializer, V2Serializer
from flask_phoenix.protocol.state import Protocol
from flask_phoenix.runtime.channel_connection import ChannelConnection
from flask_phoenix.runtime.connection import Connection, RawConnection
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.socket import RawSocket, Socket
from flask_phoenix.transports import websocket
from flask_phoenix.transports.websocket import Limits, WebSocketCarrier, accept_upgrade, read_message, write_frame
from tests.processes import DEADLINE
from tests.wire import ACCEPT, UPGRADE, Wire, tls_pair, write

LIMITS = Limits(timeout=None, max_frame_size=1 << 20, outbox=1 << 20)
TEXT, BINARY, CLOSE, PING, PONG, CONT = (
    Opcode.TEXT,
    Opcode.BINARY,
    Opcode.CLOSE,
    Opcode.PING,
    Opcode.PONG,
    Opcode.CONT,
)
#: All that clients of vsn 2.0.0 have in common.
V2 = V2Serializer(Json())
JOIN = '["1","1","room:1","phx_join",{}]'


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

    def join(self, payload: Any) -> None:
        return None

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload


class Road:
    """A connection that is being served, and its client."""

    def __init__(self, connection: Connection, carrier: WebSocketCarrier, client: Wire) -> None:
        self.connection = connection
        self.client = client
        self.serving = gevent.spawn(carrier.serve, connection)

    def ended(self) -> None:
        """Hang up, and see that the server is through with this client."""
        self.client.sock.close()
        self.given_up()

    def given_up(self) -> None:
        """See that the server is through with this client, who has not hung up."""
        self.serving.get(timeout=DEADLINE)
        assert not self.connection.open
        assert self.connection not in self.connection.engine.connections

    def reason(self) -> Any:
        """Wait until the author's code has been told of the end; return the reason."""
        assert self.connection.socket.assigns["ended"].wait(DEADLINE)
        return self.connection.socket.assigns["reason"]


#: The server's end of a stream and the client's; None: those of a new socket pair.
Ends = tuple[Any, Any] | None


class Roads:
    """Makes connections over socket pairs."""

    def __init__(self) -> None:
        self.engine = Engine(nullcontext, Json())
        self.roads: list[Road] = []

    def echo(self, pair: Ends = None, extensions: list[Extension] | None = None, **limits: Any) -> Road:
        """Serve an echo."""
        raw = EchoSocket({}, "websocket")
        raw.assigns["ended"] = Event()
        return self._serve(lambda carrier: RawConnection(self.engine, raw, None, carrier), pair, extensions, limits)

    def rooms(
        self,
        pair: Ends = None,
        extensions: list[Extension] | None = None,
        serializer: Serializer = V2,
        **limits: Any,
    ) -> Road:
        """Serve channels."""

        def make(carrier: WebSocketCarrier) -> Connection:
            user = RoomSocket({}, "websocket")
            return ChannelConnection(self.engine, user, None, carrier, Protocol(serializer, user.match))

        return self._serve(make, pair, extensions, limits)

    def member(self, **arguments: Any) -> Road:
        """Serve channels to a client that has joined ``room:1``."""
        road = self.rooms(**arguments)
        road.client.text(JOIN)
        assert '"status":"ok"' in str(road.client.data())
        return road

    def stop(self) -> None:
        """End everything."""
        for road in self.roads:
            road.client.sock.close()
        gevent.joinall([road.serving for road in self.roads], timeout=DEADLINE)
        self.engine.stop()

    def _serve(
        self,
        make: Callable[[WebSocketCarrier], Connection],
        pair: Ends,
        extensions: list[Extension] | None,
        limits: dict[str, Any],
    ) -> Road:
        ours, theirs = pair or socket.socketpair()
        carrier = WebSocketCarrier(ours, extensions or [], LIMITS._replace(**limits))
        road = Road(make(carrier), carrier, Wire(theirs))
        road.serving.link(lambda _: ours.close())
        self.roads.append(road)
        return road


@pytest.fixture
def roads() -> Iterator[Roads]:
    roads = Roads()
    yield roads
    roads.stop()


@pytest.fixture
def road(roads: Roads) -> Road:
    return roads.echo()


@pytest.fixture
def client(road: Road) -> Wire:
    return road.client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "CLOSE_TIMEOUT", 0.1)


# The opening handshake


def ask(compress: bool = False, **headers: Any) -> websocket.Upgrade:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in {"Host": "localhost", **UPGRADE, **changed}.items() if value is not None}
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in sent.items()}
    return accept_upgrade(environ, list(sent.items()), compress)


def test_negotiate() -> None:
    upgrade = ask()
    assert dict(upgrade.headers) == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
    assert upgrade.extensions == []


def test_negotiate_takes_what_browsers_send() -> None:
    assert ask(Connection="keep-alive, Upgrade", Upgrade="WebSocket").headers == ask().headers


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"Connection": None}, "'connection' header must contain 'upgrade', got []"),
        ({"Connection": "close"}, "'connection' header must contain 'upgrade', got ['close']"),
        ({"Upgrade": None}, "'upgrade' header must contain 'websocket', got []"),
        ({"Upgrade": "h2c"}, "'upgrade' header must contain 'websocket', got ['h2c']"),
        ({"Sec_WebSocket_Version": None}, "Sec-WebSocket-Version"),
        ({"Sec_WebSocket_Version": "8"}, "Sec-WebSocket-Version"),
        ({"Sec_WebSocket_Key": None}, "Sec-WebSocket-Key"),
        ({"Sec_WebSocket_Key": "short"}, "Sec-WebSocket-Key"),
    ],
)
def test_negotiate_refuses(headers: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidMessage) as refused:
        ask(**headers)
    assert text in str(refused.value)


@pytest.mark.parametrize("compress", [True, False])
def test_negotiate_compression(compress: bool) -> None:
    upgrade = ask(compress, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    agreed = dict(upgrade.headers).get("Sec-WebSocket-Extensions", "")
    assert agreed.startswith("permessage-deflate") == compress
    assert len(upgrade.extensions) == compress


def test_negotiate_compresses_only_if_asked() -> None:
    assert ask(True).extensions == []
    assert "Sec-WebSocket-Extensions" not in dict(ask(True, Sec_WebSocket_Extensions="x-unheard-of").headers)


# Frames


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_write_frame_at_the_edges(size: int) -> None:
    assert write_frame("x" * size) == Frame(TEXT, b"x" * size).serialize(mask=False)
    assert write_frame(b"\xff" * size) == Frame(BINARY, b"\xff" * size).serialize(mask=False)


@given(st.text() | st.binary())
def test_write_frame_as_the_codec_does(frame: str | bytes) -> None:
    opcode, data = (TEXT, frame.encode()) if isinstance(frame, str) else (BINARY, frame)
    assert write_frame(frame) == Frame(opcode, data).serialize(mask=False)


@given(
    st.sampled_from([TEXT, BINARY]),
    st.integers(0, 140) | st.sampled_from([65535, 65536]),
    st.binary(min_size=4, max_size=4),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 4),
)
def test_read_message_agrees_with_the_codec(opcode: Opcode, size: int, key: bytes, form: int, cut: int) -> None:
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


@pytest.mark.parametrize("first", [2, 10, 13, 14, 15, 133, 134, 1000])
def test_long_frame_in_two_pieces(client: Wire, first: int) -> None:
    whole = write(BINARY, bytes(70000))
    client.sock.sendall(whole[:first])
    gevent.idle()
    gevent.idle()
    client.sock.sendall(whole[first:])
    assert client.data() == bytes(70000)


@pytest.mark.parametrize("text", ["", "hello", "z\u00e9 \U0001f600", "x" * 126, "x" * 70000])
def test_text(client: Wire, text: str) -> None:
    client.text(text)
    assert client.data() == text


@pytest.mark.parametrize("data", [b"", b"\x00\xff", bytes(65536)])
def test_binary(client: Wire, data: bytes) -> None:
    client.send(BINARY, data)
    assert client.data() == data


def test_many_frames_in_one_piece(client: Wire) -> None:
    client.sock.sendall(b"".join(write(TEXT, str(number).encode()) for number in range(500)))
    assert [client.data() for _ in range(500)] == [str(number) for number in range(500)]


def test_a_frame_in_many_pieces(client: Wire) -> None:
    for byte in write(TEXT, b"one byte at a time"):
        client.sock.sendall(bytes([byte]))
        gevent.idle()
    assert client.data() == "one byte at a time"


def test_fragments(client: Wire) -> None:
    client.send(TEXT, b"one ", fin=False)
    client.send(CONT, b"", fin=False)
    client.send(CONT, b"two ", fin=False)
    client.send(CONT, b"three")
    assert client.data() == "one two three"
    client.send(BINARY, b"\x01", fin=False)
    client.send(CONT, b"\x02")
    assert client.data() == b"\x01\x02"
    client.text("whole")
    assert client.data() == "whole"


def test_fragments_that_cut_a_character(client: Wire) -> None:
    data = "\U0001f600".encode()
    client.send(TEXT, data[:1], fin=False)
    client.send(CONT, data[1:3], fin=False)
    client.send(CONT, data[3:])
    assert client.data() == "\U0001f600"


def test_ping_between_fragments(client: Wire) -> None:
    client.send(TEXT, b"one ", fin=False)
    client.send(PING, b"alive?")
    pong = client.frame()
    assert (pong.opcode, pong.data) == (PONG, b"alive?")
    client.send(CONT, b"two")
    assert client.data() == "one two"


@pytest.mark.parametrize("payload", [b"", b"123", b"\xff" * 125])
def test_ping(client: Wire, payload: bytes) -> None:
    client.send(PING, payload)
    pong = client.frame()
    assert (pong.opcode, pong.data) == (PONG, payload)


def test_unsolicited_pong(client: Wire) -> None:
    client.send(PONG, b"123")
    client.text("still here")
    assert client.data() == "still here"


# The client closes


@pytest.mark.parametrize("code", [1000, 1001, 1007, 1011, 1013, 3000, 4999])
def test_close_is_answered_with_its_code(road: Road, code: int) -> None:
    road.client.close(code, "bye")
    assert road.client.close_code() == code
    road.client.ended()
    road.ended()
    assert road.reason() == "closed"


def test_close_without_a_code(road: Road) -> None:
    road.client.close(None)
    assert road.client.close_code() == 1005
    road.client.ended()
    road.ended()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000])
def test_illegal_close_code(road: Road, code: int) -> None:
    road.client.close(code)
    assert road.client.closed() == 1002
    road.ended()


@pytest.mark.parametrize(("payload", "code"), [(b"\x03", 1002), (b"\x03\xe8\xff", 1007)])
def test_malformed_close(road: Road, payload: bytes, code: int) -> None:
    road.client.send(CLOSE, payload)
    assert road.client.closed() == code
    road.ended()


def test_message_right_before_a_close(road: Road) -> None:
    road.client.sock.sendall(write(TEXT, b"before") + write(CLOSE, b"\x03\xe8"))
    assert road.client.data() == "before"
    assert road.client.close_code() == 1000


def test_nothing_is_read_behind_a_close(road: Road) -> None:
    road.client.sock.sendall(write(CLOSE, b"\x03\xe8") + write(TEXT, b"behind") + write(PING))
    assert road.client.frame().opcode is CLOSE
    road.client.ended()


def test_client_that_vanishes(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.client.sock.close()
    road.ended()
    assert road.reason() == "closed"


def test_client_that_stops_sending(road: Road) -> None:
    road.client.sock.shutdown(socket.SHUT_WR)
    road.client.ended()
    road.ended()
    assert road.reason() == "closed"


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
    "close too long": [bytes([0x88, 0x80 | 126, 0, 126]) + bytes(4 + 126)],
    "stray continuation": [write(CONT, b"x")],
    "text within fragments": [write(TEXT, b"x", fin=False), write(TEXT, b"y")],
}


@pytest.mark.parametrize("frames", RULES.values(), ids=list(RULES))
def test_broken_rule(road: Road, frames: list[bytes]) -> None:
    road.client.sock.sendall(b"".join(frames) + write(TEXT, b"never handled"))
    assert road.client.close_code() == 1002
    road.client.close(1002)
    road.client.ended()
    road.ended()
    assert road.reason() == "closed"


def test_too_big(roads: Roads) -> None:
    road = roads.echo(max_frame_size=100)
    road.client.text("x" * 100)
    assert road.client.data() == "x" * 100
    road.client.text("x" * 101)
    assert road.client.closed() == 1009
    road.ended()


def test_too_big_in_fragments(roads: Roads) -> None:
    road = roads.echo(max_frame_size=100)
    road.client.send(TEXT, b"x" * 60, fin=False)
    road.client.send(CONT, b"x" * 41)
    assert road.client.closed() == 1009
    road.ended()


def test_too_big_is_known_by_the_header(roads: Roads) -> None:
    road = roads.echo(max_frame_size=100)
    road.client.sock.sendall(write(TEXT, b"x" * 101)[:10])
    assert road.client.close_code() == 1009


@pytest.mark.parametrize("data", [b"\xff", b"abc\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf0\x9f\x98"])
def test_text_that_is_not_utf8(road: Road, data: bytes) -> None:
    road.client.send(TEXT, data)
    assert road.client.closed() == 1007
    road.ended()


def test_fragments_that_are_not_utf8(road: Road) -> None:
    road.client.send(TEXT, b"\xf0\x9f", fin=False)
    road.client.send(CONT, b"x")
    assert road.client.closed() == 1007
    road.ended()


def test_what_is_no_message(roads: Roads, caplog: pytest.LogCaptureFixture) -> None:
    road = roads.rooms()
    road.client.sock.sendall(write(TEXT, b"{}") + write(TEXT, JOIN.encode()))
    assert road.client.closed() == 1011
    road.ended()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "RoomSocket" in record.getMessage()


class FragileSerializer(V2Serializer):
    """Has a mistake of its author's."""

    def decode(self, frame: str | bytes) -> Message:
        raise ZeroDivisionError


def test_message_that_nobody_expected(roads: Roads, caplog: pytest.LogCaptureFixture) -> None:
    road = roads.rooms(serializer=FragileSerializer(Json()))
    road.client.text(JOIN)
    assert road.client.closed() == 1011
    road.ended()
    assert "ZeroDivisionError" in caplog.text


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.binary(max_size=200), st.booleans(), st.sampled_from([0, 0, 0, 4]))
        | st.binary(max_size=20),
        max_size=8,
    )
)
def test_whatever_a_client_sends(frames: list[tuple[int, bytes, bool, int] | bytes]) -> None:
    roads = Roads()
    try:
        road = roads.rooms()
        for frame in frames:
            if isinstance(frame, bytes):
                road.client.sock.sendall(frame)
            else:
                opcode, data, fin, rsv = frame
                road.client.send(opcode, data, fin=fin, rsv=rsv)
        road.client.sock.shutdown(socket.SHUT_WR)
        while road.client.sock.recv(65536):
            pass
        road.ended()
    finally:
        roads.stop()


# Time


def test_silence_is_closed(roads: Roads) -> None:
    road = roads.echo(timeout=0.2)
    begin = time.monotonic()
    assert road.client.close_code() == 1002
    assert time.monotonic() - begin > 0.15
    road.client.close(1002)
    road.client.ended()
    road.ended()
    assert road.reason() == "timeout"


@pytest.mark.parametrize("opcode", [PING, PONG, TEXT])
def test_any_frame_keeps_it_open(roads: Roads, opcode: Opcode) -> None:
    road = roads.echo(timeout=0.4)
    begin = time.monotonic()
    while time.monotonic() - begin < 0.8:
        road.client.send(opcode, b"alive")
        if opcode is not PONG:
            assert road.client.frame().data == b"alive"
        assert road.client.silent(0.05)
    assert road.client.close_code() == 1002
    assert time.monotonic() - begin > 1.1


def test_pushes_do_not_keep_it_open(roads: Roads) -> None:
    road = roads.echo(timeout=0.3)

    def push() -> None:
        while road.connection.open:
            road.connection.send("are you there?")
            road.serving.join(0.02)

    pushing = gevent.spawn(push)
    assert road.client.data() == "are you there?"
    assert road.client.close_code() == 1002
    pushing.get(timeout=DEADLINE)


def test_no_time_limit(roads: Roads) -> None:
    road = roads.echo(timeout=None)
    assert road.client.silent(0.1)
    road.client.text("still here")
    assert road.client.data() == "still here"


# The server closes


@pytest.mark.parametrize("code", [1001, 1012, 4000])
def test_server_closes(road: Road, code: int) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.connection.close(code, "because")
    road.connection.close(code, "again")
    road.connection.send("too late")
    frame = road.client.frame()
    assert Close.parse(frame.data) == Close(code, "because")
    begin = time.monotonic()
    road.client.close(code)
    road.client.ended()
    assert time.monotonic() - begin < websocket.CLOSE_TIMEOUT
    road.ended()
    assert road.reason() == "because"


def test_close_that_crosses_another(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.client.close(1000)
    road.connection.close(1012, "draining")
    road.client.close_code()
    road.client.ended()
    road.ended()


@pytest.mark.usefixtures("impatient")
def test_close_that_is_not_answered(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.connection.close(1001, "disconnected")
    assert road.client.close_code() == 1001
    road.client.ended()
    road.given_up()


@pytest.mark.usefixtures("impatient")
def test_close_that_is_answered_with_chatter(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.connection.close(1001, "disconnected")

    def chatter() -> None:
        while True:
            road.client.text("never handled")
            road.serving.join(0.005)

    chattering = gevent.spawn(chatter)
    assert road.client.close_code() == 1001
    road.client.ended()
    road.ended()
    with pytest.raises(OSError):  # noqa: PT011 - broken pipe, or reset: whatever comes first
        chattering.get(timeout=DEADLINE)


@pytest.mark.usefixtures("impatient")
def test_client_that_neither_reads_nor_answers(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.connection.send("x" * 900_000)
    road.connection.close(1001, "disconnected")
    road.given_up()


def test_what_waits_arrives_before_the_close(road: Road) -> None:
    road.client.text("hello")
    assert road.client.data() == "hello"
    road.connection.send("x" * 900_000)
    road.connection.send("last word")
    road.connection.close(1012, "draining")
    assert road.client.data() == "x" * 900_000
    assert road.client.data() == "last word"
    assert road.client.closed() == 1012
    road.ended()


# Slow clients


def flood(road: Road, frame: str | bytes) -> None:
    """Send until the client is closed for not reading."""
    for _ in range(1000):
        if not road.connection.open:
            return
        road.connection.send(frame)
    pytest.fail("it was never closed")


def test_slow_client_is_closed_and_delays_nobody(roads: Roads, caplog: pytest.LogCaptureFixture) -> None:
    slow, quick = roads.member(outbox=100_000), roads.member()
    engine = roads.engine
    for number in range(1000):
        if not slow.connection.open:
            break
        engine.broadcast(Broadcast("room:1", "news", {"number": number, "filling": "x" * 10_000}))
        assert f'"number":{number},' in str(quick.client.data())
    assert engine.connections == {quick.connection.close}
    assert [road.connection.protocol.memberships for road in (slow, quick)].count({}) == 1  # type: ignore[attr-defined]
    assert "reads too slowly" in caplog.text
    seen = [slow.client.data() for _ in range(number - 10)]  # what was sent before is whole and in order
    assert all(f'"number":{n},' in str(frame) for n, frame in enumerate(seen))
    assert slow.client.closed() == 1013
    slow.ended()
    engine.broadcast(Broadcast("room:1", "news", {"number": "last"}))
    assert quick.client.data() == '[null,null,"room:1","news",{"number":"last"}]'


@pytest.mark.usefixtures("impatient")
def test_slow_client_that_never_reads_is_cut(roads: Roads) -> None:
    road = roads.echo(outbox=1000)
    road.client.text("hello")
    assert road.client.data() == "hello"
    flood(road, "x" * 10_000)
    road.given_up()
    assert road.reason() == "too slow"


def test_burst_within_the_bound(roads: Roads) -> None:
    road = roads.member()
    for number in range(2000):
        road.connection.send(f"{number}")
    assert [road.client.data() for _ in range(2000)] == [str(number) for number in range(2000)]


# Compression


def deflate() -> PerMessageDeflate:
    return PerMessageDeflate(False, False, 15, 15)


def test_compression_in_both_directions(roads: Roads) -> None:
    ours, theirs = deflate(), deflate()
    road = roads.echo(extensions=[ours])
    for message in ("compressible " * 100, "again " * 100, ""):
        road.client.send(TEXT, message.encode(), extensions=[theirs])
        frame = road.client.frame()
        assert frame.rsv1
        assert len(frame.data) <= 120
        assert theirs.decode(frame).data == message.encode()
    road.client.send(BINARY, bytes(1000), extensions=[theirs])
    frame = road.client.frame()
    assert (frame.opcode, theirs.decode(frame).data) == (BINARY, bytes(1000))
    road.client.text("uncompressed")
    assert theirs.decode(road.client.frame()).data == b"uncompressed"


def test_broadcast_to_compressed_and_plain_clients(roads: Roads) -> None:
    theirs = [deflate(), deflate()]
    packed = [roads.rooms(extensions=[deflate()]) for _ in theirs]
    plain = roads.member()
    for extension, road in zip(theirs, packed, strict=True):
        road.client.text(JOIN)
        assert b'"ok"' in extension.decode(road.client.frame()).data
    for number in range(3):
        roads.engine.broadcast(Broadcast("room:1", "news", {"number": number}))
        expected = f'[null,null,"room:1","news",{{"number":{number}}}]'
        assert plain.client.data() == expected
        for extension, road in zip(theirs, packed, strict=True):
            assert extension.decode(road.client.frame()).data == expected.encode()


def test_compressed_close(roads: Roads) -> None:
    road = roads.echo(extensions=[deflate()])
    road.client.close(1000)
    assert road.client.close_code() == 1000
    road.client.ended()
    road.ended()


def test_bomb(roads: Roads) -> None:
    road = roads.echo(extensions=[deflate()], max_frame_size=10_000)
    road.client.send(TEXT, b"x" * 10_000_000, extensions=[deflate()])
    assert road.client.closed() == 1009
    road.ended()


def test_what_is_not_deflated(roads: Roads) -> None:
    road = roads.echo(extensions=[deflate()])
    road.client.send(TEXT, b"\xff\xff\xff", rsv=4)
    assert road.client.closed() in (1002, 1007)
    road.ended()


def test_slow_client_with_compression(roads: Roads) -> None:
    road = roads.echo(extensions=[deflate()], outbox=1000)
    road.client.text("hello")
    road.client.frame()
    flood(road, random.Random(1).randbytes(10_000))
    road.connection.send("too late")
    assert road.client.closed() == 1013


# TLS


def test_tls(roads: Roads, tmp_path: Path) -> None:
    road = roads.member(pair=tls_pair(tmp_path), outbox=4 << 20)
    road.client.text('["1","2","room:1","echo",{"hello":"there"}]')
    assert road.client.data() == '["1","2","room:1","phx_reply",{"status":"ok","response":{"hello":"there"}}]'
    large = "x" * 800_000
    road.client.text(f'["1","3","room:1","echo",{{"large":"{large}"}}]')
    roads.engine.broadcast(Broadcast("room:1", "news", {"n": 1}))
    received = [str(road.client.data()) for _ in range(2)]
    assert '[null,null,"room:1","news",{"n":1}]' in received
    assert any(large in text for text in received)
    road.client.close(1000)
    assert road.client.close_code() == 1000
    road.ended()


def test_tls_slow_client(roads: Roads, tmp_path: Path) -> None:
    road = roads.member(pair=tls_pair(tmp_path), outbox=100_000)
    flood(road, "x" * 10_000)
    assert road.client.close_code() == 1013
    road.client.close(1013)
    road.ended()
