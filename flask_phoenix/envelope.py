"""How a broadcast is written between nodes."""

from __future__ import annotations

from .exceptions import InvalidMessage, InvalidPayload
from .message import Broadcast
from .serializer import Json

#: The first byte tells what the payload is; then come the event's length, in two bytes, the event as
#: JSON, and the payload.
JSON, BYTES = b"J", b"B"
LONGEST_EVENT = 1000


def pack(broadcast: Broadcast, json: Json) -> bytes:
    """Write a broadcast for other nodes; the topic travels beside it.

    :raises InvalidPayload: the payload is neither bytes nor JSON.
    """
    payload = broadcast.payload
    if len(broadcast.event) > LONGEST_EVENT:
        raise InvalidPayload(
            f"an event of {len(broadcast.event)} characters; at most {LONGEST_EVENT} travel between nodes"
        )
    kind, body = (BYTES, payload) if isinstance(payload, bytes) else (JSON, json.dumps(payload).encode())
    event = json.dumps(broadcast.event).encode()
    return kind + len(event).to_bytes(2, "big") + event + body


def unpack(topic: str, data: bytes, json: Json) -> Broadcast:
    """Read what another node has packed.

    :raises InvalidMessage: nobody packed this.
    """
    start = 3 + int.from_bytes(data[1:3], "big")
    kind, event, body = data[:1], data[3:start], data[start:]
    if len(data) < start or kind not in (JSON, BYTES):
        raise InvalidMessage(f"expected a broadcast of another node, got {data[:40]!r}")
    name = json.loads(event)
    if not isinstance(name, str):
        raise InvalidMessage(f"expected the name of an event, got {event[:40]!r}")
    return Broadcast(topic, name, body if kind == BYTES else json.loads(body))
