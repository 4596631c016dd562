"""A broadcast as everybody is given it, and its format between nodes."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..exceptions import InvalidMessage, InvalidOption, InvalidPayload
from ..payloads.writing import is_record
from ..protocol.json import Json
from ..protocol.messages import Broadcast, JsonText, Kept, shown
from ..protocol.serializers import encode_field
from .history import Position

#: The first byte tells what the payload is; then come the event's length, in two bytes, the event, and
#: the payload.
JSON, BYTES = b"J", b"B"
#: Before what is kept: the epoch, with its length in a byte, and the offset in eight. Then comes an entry: the name of
#: the channel that is not to get it, with its length in a byte, and a broadcast.
KEPT = b"K"
#: Before what is measured or traced: when it was published, in eight bytes, and the trace, with its length in a byte.
MARKED = b"T"

#: The bytes that an event may have.
MAX_EVENT_SIZE = 0xFFFF
#: The characters that an idempotency key has at most: histories do not count them among their bytes.
MAX_KEY = 255


def seal(broadcast: Broadcast, json: Json) -> Broadcast:
    """Return a broadcast as everybody is given it, on this node and on others: its payload is bytes, or JSON text.

    :raises InvalidPayload: a client of vsn 2.0.0 could never be sent it; but a payload that is JSON and no object is
        let pass, since clients of vsn 1.0.0 take it.
    """
    topic, event, payload = broadcast
    check_names(broadcast)
    if isinstance(payload, bytes):
        encode_field("topic", topic)
        encode_field("event", event)
        return broadcast
    return Broadcast(topic, event, JsonText(json.dumps(payload)))


def seal_all(broadcasts: Sequence[Broadcast], json: Json) -> list[Broadcast]:
    """Seal broadcasts of one event and one payload, which is written once.

    :raises InvalidPayload: as :func:`seal`, of any of them.
    """
    if not broadcasts or isinstance(broadcasts[0].payload, bytes):
        return [seal(broadcast, json) for broadcast in broadcasts]
    for broadcast in broadcasts:
        check_names(broadcast)
    text = seal(broadcasts[0], json).payload
    return [broadcast._replace(payload=text) for broadcast in broadcasts]


def check_names(broadcast: Broadcast) -> None:
    """Check that topic and event are strings that can be written.

    :raises InvalidPayload: one of them is not.
    """
    topic, event, _ = broadcast
    if not isinstance(topic, str) or not isinstance(event, str):
        raise InvalidPayload(f"topic and event of a broadcast are strings; got {shown(topic)}, {shown(event)}")
    if topic.isascii() and event.isascii() and len(event) <= MAX_EVENT_SIZE:
        return
    try:
        topic.encode()
        size = len(event.encode())
    except UnicodeEncodeError as error:
        raise InvalidPayload(f"topic and event of a broadcast must be writable in UTF-8: {error}") from error
    if size > MAX_EVENT_SIZE:
        raise InvalidPayload(f"the event of a broadcast must have at most {MAX_EVENT_SIZE} bytes, but has {size}")


def check_payload(broadcast: Broadcast) -> None:
    """Check that the payload is of a kind that clients of vsn 2.0.0 take.

    :raises InvalidPayload: it is not.
    """
    if not isinstance(broadcast.payload, dict | bytes) and not is_record(broadcast.payload):
        raise InvalidPayload(
            f"the payload of a broadcast is a dict (a JSON object) or bytes; got {type(broadcast.payload).__name__} for"
            f" {shown(broadcast.event)} on {shown(broadcast.topic)}: put it into a dict, as in {{'body': ...}}"
        )


def check_key(key: str) -> None:
    """Check that an idempotency key can be kept with its message, or is empty.

    :raises InvalidOption: it cannot.
    """
    if not isinstance(key, str) or len(key) > MAX_KEY:
        raise InvalidOption(
            f"an idempotency_key is a string of at most {MAX_KEY} characters, such as f'order-{{id}}'; got {shown(key)}"
        )


def pack(broadcast: Broadcast, json: Json) -> bytes:
    """Write a broadcast for other nodes, without its topic, by which the adapter publishes it.

    :raises InvalidPayload: the payload is neither bytes nor JSON.
    """
    payload, event = broadcast.payload, broadcast.event.encode()
    if isinstance(payload, bytes):
        kind, body = BYTES, payload
    else:
        kind, body = JSON, (payload if isinstance(payload, JsonText) else json.dumps(payload)).encode()
    return kind + len(event).to_bytes(2, "big") + event + body


def pack_entry(sender: str, sealed: Broadcast, json: Json) -> bytes:
    """Write a broadcast for a history."""
    name = sender.encode()
    return bytes([len(name)]) + name + pack(sealed, json)


def unpack_entry(topic: str, entry: bytes) -> tuple[str, Broadcast]:
    """Read what a history keeps: the name of the channel that is not to get it, and the broadcast.

    :raises InvalidMessage: it is no entry.
    """
    try:
        end = 1 + entry[0]
        return entry[1:end].decode(), _unpack_plain(topic, entry[end:])
    except (IndexError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"expected an entry of a history, got {entry[:40]!r}") from error


def pack_kept(position: Position, entry: bytes) -> bytes:
    """Write an entry with its position for other nodes."""
    epoch = position.epoch.encode()
    return KEPT + bytes([len(epoch)]) + epoch + position.offset.to_bytes(8, "big") + entry


def unpack(topic: str, data: bytes) -> Broadcast:
    """Read what another node has packed.

    :raises InvalidMessage: the data is not a packed broadcast.
    """
    if data[:1] != KEPT:
        return _unpack_plain(topic, data)
    try:
        end = 10 + data[1]
        position = Position(data[2 : end - 8].decode(), int.from_bytes(data[end - 8 : end], "big"))
    except (IndexError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"expected the position of a broadcast, got {data[:40]!r}") from error
    sender, broadcast = unpack_entry(topic, data[end:])
    return Kept.made(broadcast, str(position), sender)


def _unpack_plain(topic: str, data: bytes) -> Broadcast:
    start = 3 + int.from_bytes(data[1:3], "big")
    kind, event, body = data[:1], data[3:start], data[start:]
    if len(data) < start or kind not in (JSON, BYTES):
        raise InvalidMessage(f"expected a broadcast of another node, got {data[:40]!r}")
    try:
        return Broadcast(topic, event.decode(), body if kind == BYTES else JsonText(body.decode()))
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"expected a broadcast in UTF-8, got {data[:40]!r}") from error


def mark(data: bytes, at: float, trace: str) -> bytes:
    """Write before a packed broadcast when it was published, in Unix time, and the trace that it belongs to."""
    note = trace.encode()
    return MARKED + struct.pack("!dB", at, len(note)) + note + data


def unmark(data: bytes) -> tuple[float, str, bytes]:
    """Take off what :func:`mark` has written.

    :raises InvalidMessage: it is cut off.
    """
    if len(data) < 10 or len(data) < 10 + data[9]:
        raise InvalidMessage(f"expected a marked broadcast of another node, got {data[:40]!r}")
    at, length = struct.unpack_from("!dB", data, 1)
    return at, data[10 : 10 + length].decode(), data[10 + length :]
