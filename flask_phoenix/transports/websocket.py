"""WebSockets: the upgrade of a request, and the carrier of a client's frames after it."""

from __future__ import annotations

import hashlib
import logging
import struct
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from socket import AF_UNIX, IPPROTO_TCP, SHUT_RDWR, SHUT_WR, SO_LINGER, SOL_SOCKET, TCP_NODELAY
from typing import Any, NamedTuple

import gevent
from gevent.ssl import SSLSocket
from greenlet import getcurrent
from websockets import frames
from websockets.exceptions import InvalidHandshake
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import SERVER, State
from websockets.protocol import Protocol as Codec

from .. import clock
from ..exceptions import InvalidMessage, PhoenixError
from ..protocol.messages import Frame, shown
from ..runtime.connection import ABNORMAL_CLOSURE, Carrier, Connection
from ..runtime.turns import LONG_TURN
from .outbox import Outbox, write_each

try:
    from websockets.speedups import apply_mask
except ImportError:  # an installation without the compiled part
    from websockets.utils import apply_mask

log = logging.getLogger("flask_phoenix.connection")

#: Seconds that a client has to answer a close frame, and to take what was written before it, before it is cut off.
CLOSE_TIMEOUT = 2.0
#: Seconds by which silence may be noticed late. Later than that, the process stood still, and has not read what came
#: meanwhile: the client gets its time once more.
LATE = 1.0
#: Bytes that are read at a time.
READ_SIZE = 16384
#: Bytes that are decoded at a time where frames are tiny.
SMALL_READ = 1024
#: Bytes of a tiny frame: a message in one is larger.
TINY = 16
#: Empty fragments of one message; a client needs none.
MAX_EMPTY_FRAGMENTS = 100
#: libev's and libuv's name for "readable".
READABLE = 1
#: What RFC 6455, 1.3 adds to the client's key.
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Bytes of the head of a frame, without its mask, at most.
MAX_HEAD_SIZE = 10
#: Write the head of a frame with the size in two bytes and in eight (RFC 6455, 5.2).
HEAD_16 = struct.Struct("!BBH").pack
HEAD_64 = struct.Struct("!BBQ").pack
#: The first byte of a pong.
PONG = b"\x8a"
#: The first byte of a text and of a binary message in one frame.
FINAL_DATA = (0x81, 0x82)
#: The bit of a compressed message (RFC 7692, 6).
COMPRESSED = 0x40
#: What ends the compressed bytes of a message, and is not sent (RFC 7692, 7.2.1).
DEFLATE_TAIL = b"\x00\x00\xff\xff"
#: Bytes of a message below which compressing it saves less than it costs.
COMPRESS_FROM = 512
#: Ends a connection with a reset: the kernel drops what it has not sent, instead of holding it for minutes.
CUT = struct.pack("ii", 1, 0)


class Upgrade(NamedTuple):
    """The answer to an opening handshake."""

    headers: list[tuple[str, str]]
    extensions: list[Extension]


class Limits(NamedTuple):
    """Limits of one client."""

    #: Seconds of silence before it is closed; None: no limit.
    timeout: float | None
    #: Bytes of one message from the client.
    max_frame_size: int
    #: Bytes that may wait for a client that reads too slowly.
    outbox: int
    #: Seconds in which it has to take some of what waits; None: no limit.
    outbox_timeout: float | None = None
    #: Whether broadcasts that wait for it may be replaced by newer ones.
    conflate: bool = True


def accept_upgrade(environ: Mapping[str, Any], compress: bool) -> Upgrade:
    """Check a request for an upgrade as Phoenix does (``websock_adapter``), and agree on compression.

    :raises InvalidMessage: it is no valid request for a WebSocket; the text is the body of the HTTP 400.
    """
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        raise InvalidMessage("a WebSocket needs HTTP/1.1")
    _check_header(environ, "host")
    for name, token in (("connection", "upgrade"), ("upgrade", "websocket")):
        value = _header(environ, name) or ""
        if token not in [item.strip().lower() for item in value.split(",")]:
            raise InvalidMessage(f"'{name}' header must contain '{token}', got {[value] if value else []}")
    key = _check_header(environ, "sec-websocket-key")
    version = _check_header(environ, "sec-websocket-version")
    if version != "13":
        raise InvalidMessage(f"'sec-websocket-version' header must equal '13', got {shown(version)}")
    accept = b64encode(hashlib.sha1(f"{key}{GUID}".encode("latin-1")).digest()).decode()
    headers = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)]
    agreed = _agree_on_compression(_header(environ, "sec-websocket-extensions") or "") if compress else None
    if agreed is None:
        return Upgrade(headers, [])
    return Upgrade([*headers, ("Sec-WebSocket-Extensions", agreed[0])], [agreed[1]])


def _header(environ: Mapping[str, Any], name: str) -> str | None:
    value: str | None = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
    return None if value is None else value.strip()


def _check_header(environ: Mapping[str, Any], name: str) -> str:
    value = _header(environ, name)
    if value is None:
        raise InvalidMessage(f"'{name}' header is absent")
    return value


def _agree_on_compression(header: str) -> tuple[str, Extension] | None:
    """Accept the first offer of permessage-deflate that can be; what is malformed is no offer, as in Phoenix.

    No side keeps a window from one message to the next: so the bytes of a broadcast are the same for many clients, and
    a connection costs no memory of zlib's between its messages.
    """
    factory = ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
    for offer in header.split(","):
        try:
            ((name, parameters),) = parse_extension(offer.strip())
            if name == factory.name:
                accepted, extension = factory.process_request_params(parameters, [])
                return build_extension([(name, accepted)]), extension
        except (InvalidHandshake, ValueError):
            continue
    return None


def write_frame(frame: Frame) -> bytes:
    """Write a frame of the server as bytes: never masked, never in fragments (RFC 6455, 5.2)."""
    data, first = (frame.encode(), 0x81) if isinstance(frame, str) else (frame, 0x82)
    return _frame(first, data)


def _frame(first: int, data: bytes) -> bytes:
    size = len(data)
    if size < 126:
        return bytes((first, size)) + data
    return (HEAD_16(first, 126, size) if size < 65536 else HEAD_64(first, 127, size)) + data


@cache
def deflating(window_bits: int) -> Callable[[Frame], bytes]:
    """Return what writes frames, compressed where that pays, for all clients that take a window of this size.

    :param window_bits: 9 to 15.
    """

    def write_deflated(frame: Frame) -> bytes:
        data, first = (frame.encode(), 0x81) if isinstance(frame, str) else (frame, 0x82)
        if len(data) < COMPRESS_FROM:
            return _frame(first, data)
        encoder = zlib.compressobj(wbits=-window_bits)
        deflated = (encoder.compress(data) + encoder.flush(zlib.Z_SYNC_FLUSH)).removesuffix(DEFLATE_TAIL)
        return _frame(first | COMPRESSED, deflated) if len(deflated) < len(data) else _frame(first, data)

    return write_deflated


def read_message(data: bytes, limits: Limits) -> tuple[int, bytes] | None:
    """Read the ordinary message of a client: one short masked frame, which is all that was received.

    None: the data is anything else, which the codec reads. This saves half of the codec's cost of an echo.
    """
    if len(data) < 6 or data[0] not in FINAL_DATA:
        return None
    size, start = data[1] - 0x80, 6
    if size > 126:
        return None
    if size == 126:
        size, start = data[2] << 8 | data[3], 8
    if size != len(data) - start or size > limits.max_frame_size:
        return None
    return data[0] & 0x0F, apply_mask(data[start:], data[start - 4 : start])


class FrameSplitter:
    """Cuts what a client sends after each of its frames."""

    def __init__(self) -> None:
        #: The beginning of a head that is not complete.
        self._head = b""
        #: Bytes of the present frame that are still to come.
        self._left = 0

    def split(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces of what was received; a frame that is not complete comes in several."""
        start = 0
        while start < len(data):
            if not self._left:
                head = self._head + data[start : start + MAX_HEAD_SIZE - len(self._head)]
                size = frame_size(head)
                if size is None:
                    self._head = head
                    yield data[start:]
                    return
                self._left, self._head = size - len(self._head), b""
            piece = data[start : start + self._left]
            start += len(piece)
            self._left -= len(piece)
            yield piece


def frame_size(head: bytes) -> int | None:
    """Return the bytes of a client's frame, its head and mask included; None: the head is not complete."""
    if len(head) < 2:
        return None
    masked, size, start = head[1] >> 7, head[1] & 0x7F, 2
    if size > 125:
        start = 4 if size == 126 else 10
        if len(head) < start:
            return None
        size = int.from_bytes(head[2:start], "big")
    return start + 4 * masked + size


class WebSocketCarrier(Carrier):
    """Carries one client's frames over a WebSocket, after the upgrade.

    :param sock: the gevent socket; the HTTP server closes it in the end.
    :param extensions: what was agreed in the handshake.
    """

    transport = "websocket"
    stream = True
    each = staticmethod(write_each)

    def __init__(self, sock: Any, extensions: list[Extension], limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._extensions = extensions
        #: Made for the first frame that is not ordinary: most clients never send one.
        self._made_codec: Codec | None = None
        self._outbox = Outbox(sock, limits.outbox, limits.outbox_timeout, self._reached)
        #: The message that has begun, and how many of its fragments were empty.
        self._fragments: bytearray | None = None
        self._empty_fragments = 0
        self._splitter = FrameSplitter() if extensions else None
        #: Whether what was received last took more than a turn.
        self._busy = False
        #: Whether the latest frames were tiny.
        self._tiny = False
        self._failed = False
        self._opcode = Opcode.TEXT
        self._loop = gevent.get_hub().loop
        self._last_received = clock.monotonic()
        self._timer: Any = None
        # Messages may be read without the codec: none is half read, nothing is compressed, and no close frame was
        # received.
        self._plain = not extensions
        self.to_wire = write_frame
        for extension in extensions:
            if isinstance(extension, PerMessageDeflate):
                self.to_wire = deflating(extension.local_max_window_bits)
        self.write = self._outbox
        self.conflates = limits.conflate

    @property
    def _codec(self) -> Codec:
        codec = self._made_codec
        if codec is None:
            codec = self._made_codec = Codec(SERVER, state=State.OPEN, max_size=self._limits.max_frame_size)
            codec.extensions = self._extensions
        return codec

    def serve(self, connection: Connection) -> None:
        """Carry frames until the client or the server ends the connection."""
        self._connection = connection
        with suppress(OSError):  # the client may be gone already
            if self._sock.family != AF_UNIX:
                self._sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._watch(self._limits.timeout, self._check_idle)
        try:
            self._open()
            self._carry()
        finally:
            connection.closed("closed", self._close_code)
            self._hang_up()
            # All that refers to each other here goes at once, without Python's garbage collector.
            self._outbox.let_go()
            del self._connection

    def _open(self) -> None:
        """Begin, unless the process drains since the client was admitted, or is no node any more."""
        connection = self._connection
        try:
            connection.opened()
            if connection.engine.draining:
                connection.close(CloseCode.SERVICE_RESTART, "draining")
        except PhoenixError:
            if connection.engine.draining:
                self.close(CloseCode.SERVICE_RESTART, "draining")
                return
            log.exception("a client of %s cannot be served", type(connection.socket).__name__)
            self.close(CloseCode.INTERNAL_ERROR, "cannot be served")

    @property
    def waiting(self) -> int:
        """Bytes that wait for the client."""
        return self._outbox.size

    @property
    def _close_code(self) -> int:
        """What the client, or the codec, has closed the connection with."""
        codec = self._made_codec
        close = codec and (codec.close_sent if self._failed else codec.close_rcvd)
        return int(close.code) if close else ABNORMAL_CLOSURE

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after all that waits; the client has :data:`CLOSE_TIMEOUT` to answer it."""
        if self._codec.state is State.OPEN:
            self._codec.send_close(code, reason)
            self._write_due()
            self._watch(CLOSE_TIMEOUT, self._cut)

    def _carry(self) -> None:
        hub, sock, resume = gevent.get_hub(), self._sock, getcurrent().switch
        loop, turns = self._loop, self._connection.engine.turns
        readable = loop.io(sock.fileno(), READABLE)
        encrypted = isinstance(sock, SSLSocket)
        # Where something is there to be read, the system call on the non-blocking socket inside gevent's will do.
        receive = sock.recv if encrypted else sock._sock.recv
        try:
            while (codec := self._made_codec) is None or not codec.eof_sent:
                if not encrypted or not sock.pending():
                    # What hub.wait does, without an object and two calls for each message.
                    readable.start(resume)
                    hub.switch()
                    readable.stop()
                if clock.time() - loop.now() > LONG_TURN:  # the loop's clock stands still in each of its turns
                    (turns.wait_late if self._busy else turns.wait)()
                    self._busy = False
                try:
                    data = receive(READ_SIZE)
                except BlockingIOError:  # it was readable, and is not any more
                    continue
                except OSError:  # reset: many clients leave so
                    return
                if not data:
                    return
                self._last_received = clock.monotonic()
                if self._plain and (message := read_message(data, self._limits)) is not None:
                    self._receive_message(*message)
                else:
                    self._decode(data)
        finally:
            readable.close()

    def _decode(self, data: bytes) -> None:
        """Read data with the codec, which answers pings and close frames, and fails clients that break RFC 6455."""
        # What is compressed may be a thousand times larger: it is taken one frame at a time.
        for piece in self._splitter.split(data) if self._splitter is not None else self._cut_small(data):
            self._decode_piece(piece)

    def _cut_small(self, data: bytes) -> Iterator[bytes]:
        """Yield what was received, in several pieces where the frames are tiny: to read so many takes long."""
        start = 0
        while start < len(data):
            size = SMALL_READ if self._tiny else READ_SIZE
            yield data[start : start + size]
            start += size

    def _decode_piece(self, data: bytes) -> None:
        codec, connection = self._codec, self._connection
        codec.receive_data(data)
        due = deque(codec.data_to_send())
        received = codec.events_received()
        self._tiny = len(received) * TINY > len(data)
        for frame in received:
            if isinstance(frame, frames.Frame):
                self._take_turn()
                if frame.opcode is Opcode.PING and due and due[0][:1] == PONG:
                    # After the answers to what came before the ping, and before those to what came after it.
                    connection.flush()
                    self._outbox.write(due.popleft())
                self._receive_frame(frame)
        # After the answers to what came before: nothing may follow a close frame.
        connection.flush()
        self._write_due(due)
        self._plain = (
            codec.state is State.OPEN and self._fragments is None and not codec.reader.buffer and not codec.extensions
        )
        if codec.state is not State.OPEN:
            self._log_failure()

    def _receive_frame(self, frame: frames.Frame) -> None:
        """Put fragments together, and hand whole messages to the connection."""
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._opcode = frame.opcode
        elif frame.opcode is not Opcode.CONT:
            return  # the codec has answered it
        if self._fragments is None:
            if frame.fin:
                self._receive_message(self._opcode, bytes(frame.data))
                return
            self._fragments, self._empty_fragments = bytearray(), 0
        self._fragments += frame.data
        self._empty_fragments += not frame.data
        if frame.fin:
            whole, self._fragments = bytes(self._fragments), None
            self._receive_message(self._opcode, whole)
        elif self._empty_fragments > MAX_EMPTY_FRAGMENTS:
            self._connection.reach("empty_fragments")
            self._fail(CloseCode.POLICY_VIOLATION, "too many empty fragments")

    def _take_turn(self) -> None:
        """Wait for a later turn of the event loop, if this one has been long."""
        if clock.time() - self._loop.now() > LONG_TURN:  # the loop's clock stands still in each of its turns
            self._busy = True
            self._connection.flush()
            self._connection.engine.turns.wait_late()

    def _receive_message(self, opcode: int, data: bytes) -> None:
        connection = self._connection
        if not connection.open or self._failed:
            return
        try:
            connection.receive(data.decode() if opcode == Opcode.TEXT else data)
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "text that is not UTF-8")
        except InvalidMessage as error:
            log.error("a client of %s sent an invalid message: %s", type(connection.socket).__name__, error)
            connection.close(CloseCode.INTERNAL_ERROR, "invalid message")
        except Exception:
            log.exception("a message to %s failed; its connection is closed", type(connection.socket).__name__)
            connection.close(CloseCode.INTERNAL_ERROR, "crashed")

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close a client that breaks a rule which the codec does not know."""
        if self._codec.state is State.OPEN:
            self._codec.fail(code, reason)
            self._connection.flush()
            self._write_due()
            self._log_failure()

    def _write_due(self, due: Iterable[bytes] = ()) -> None:
        """Write what the codec has to send: answers to pings and close frames, and its own close frames."""
        for data in (*due, *self._codec.data_to_send()):
            if data:
                self._outbox.write(data)
        if self._codec.state is not State.OPEN:
            self._outbox.close()

    def _log_failure(self) -> None:
        """Log that the codec has failed the connection: it has sent a close frame, and neither side had before."""
        sent = self._codec.close_sent
        if sent is None or self._codec.close_rcvd is not None or not self._connection.open or self._failed:
            return
        self._failed = True
        kind = type(self._connection.socket).__name__
        if sent.code == CloseCode.MESSAGE_TOO_BIG:
            size = self._limits.max_frame_size
            self._connection.engine.reach("max_frame_size", connection=self._connection)
            log.warning("a client of %s sent more than %d bytes (max_frame_size); it is closed with 1009", kind, size)
        else:
            log.warning("a client of %s broke the rules of WebSockets; it is closed with %d", kind, sent.code)

    def _reached(self, limit: str) -> None:
        """Do what is done with a client that reads too slowly."""
        connection, limits = self._connection, self._limits
        kind = type(connection.socket).__name__
        connection.engine.reach(limit, connection=connection)
        if limit == "conflate":
            log.info("a client of %s reads too slowly, and gets the newest of some broadcasts alone (conflate)", kind)
            return
        why = (
            f"more than {limits.outbox} bytes wait (outbox_limit)"
            if limit == "outbox_limit"
            else f"it has taken nothing for {limits.outbox_timeout} s (outbox_timeout)"
        )
        log.warning("a client of %s reads too slowly: %s; it is closed", kind, why)
        connection.tell_slow(self._outbox.size)
        connection.close(CloseCode.TRY_AGAIN_LATER, "too slow")

    def _watch(self, seconds: float | None, call: Callable[[], None]) -> None:
        """Set the connection's one timer: for silence while it is open, for the answer to its close frame later."""
        if self._timer is not None:
            self._timer.close()
        if seconds is None:
            return
        self._timer = self._loop.timer(seconds)
        self._timer.start(call)

    def _check_idle(self) -> None:
        timeout = self._limits.timeout or 0.0
        left = self._last_received + timeout - clock.monotonic()
        if left < -LATE:
            self._last_received, left = clock.monotonic(), timeout
        if left > 0.001:
            self._watch(left, self._check_idle)
        else:
            # Never 1000, from which older clients do not come back.
            self._connection.close(CloseCode.PROTOCOL_ERROR, "timeout")

    def _shut_down(self) -> None:
        """Shut the socket down, which wakes the greenlet that reads from it."""
        with suppress(OSError):  # it may have ended already
            self._sock.shutdown(SHUT_RDWR)

    def _cut(self) -> None:
        """End at once with a client that has not ended in time; what was written and not taken is lost."""
        with suppress(OSError):
            if self._sock.family != AF_UNIX:
                self._sock.setsockopt(SOL_SOCKET, SO_LINGER, CUT)  # holds as soon as the server closes the socket
        self._shut_down()

    def _hang_up(self) -> None:
        """End so that the client receives all that was written, and then the end of the stream."""
        self._watch(CLOSE_TIMEOUT, self._cut)
        self._outbox.close()
        with suppress(OSError):  # it may have ended already
            self._outbox.join()
            self._sock.shutdown(SHUT_WR)
            while self._sock.recv(READ_SIZE):
                pass
        self._watch(None, self._cut)
        self._shut_down()
