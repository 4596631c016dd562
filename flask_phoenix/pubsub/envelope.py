"""The format of a broadcast between nodes."""

from __future__ import annotations

from ..exceptions import InvalidMessage, InvalidPayload
from ..protocol.json import Json
from ..protocol.messages import Broadcast, JsonText

#: The first byte tells what the payload is; then come the event's length, in two bytes, the event, and
#: the payload.
JSON, BYTES = b"J", b"B"


def check_names(broadcast: Broadcast) -> None:
    """Check that topic and event are strings.

    :raises InvalidPayload: one of them is no string.
    """
    if not isinstance(broadcast.topic, str) or not isinstance(broadcast.event, str):
        raise InvalidPayload(
            f"topic and event of a broadcast are strings; got {broadcast.topic!r}, {broadcast.event!r}"
        )


def pack(broadcast: Broadcast, json: Json) -> bytes:
    """Write a broadcast for other nodes, without its topic, by which the adapter publishes it.

    :raises InvalidPayload: the payload is neither bytes nor JSON, or the event cannot be written.
    """
    payload = broadcast.payload
    kind, body = (BYTES, payload) if isinstance(payload, bytes) else (JSON, json.dumps(payload).encode())
    try:
        event = broadcast.event.encode()
        return kind + len(event).to_bytes(2, "big") + event + body
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidPayload(f"this event cannot travel between nodes: {error}") from error


def unpack(topic: str, data: bytes) -> Broadcast:
    """Read what another node has packed.

    :raises InvalidMessage: the data is not a packed broadcast.
    """
    start = 3 + int.from_bytes(data[1:3], "big")
    kind, event, body = data[:1], data[3:start], data[start:]
    if len(data) < start or kind not in (JSON, BYTES):
        raise InvalidMessage(f"expected a broadcast of another node, got {data[:40]!r}")
    try:
        return Broadcast(topic, event.decode(), body if kind == BYTES else JsonText(body.decode()))
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"expected a broadcast in UTF-8, got {data[:40]!r}") from error
