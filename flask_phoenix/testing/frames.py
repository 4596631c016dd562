"""Frames as a client writes and reads them, of both versions of the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from ..exceptions import InvalidPayload
from ..payloads.writing import plain_value
from ..protocol.messages import REPLY, Frame, Message

#: The header fields of a server's binary frames, by the first byte.
FIELDS = (("join_ref", "topic", "event"), ("join_ref", "ref", "topic", "status"), ("topic", "event"))


def write_client_frame(message: Message) -> Frame:
    """Write a message as a client of vsn 2.0.0 does: bytes in a binary frame, anything else as JSON."""
    if not isinstance(message.payload, bytes):
        return json.dumps(message, default=plain_value)
    fields = [str(field or "").encode() for field in message[:4]]
    return bytes([0, *map(len, fields)]) + b"".join(fields) + message.payload


def read_server_frame(frame: Frame) -> Message:
    """Read a frame as a client of vsn 2.0.0 does."""
    if isinstance(frame, str):
        return Message(*json.loads(frame))
    names = FIELDS[frame[0]]
    fields: dict[str, str | None] = {}
    start = 1 + len(names)
    for name, size in zip(names, frame[1:start], strict=True):
        fields[name], start = frame[start : start + size].decode() or None, start + size
    payload: Any = frame[start:]
    if "status" in fields:
        payload = {"status": fields["status"], "response": payload}
    return Message(fields.get("join_ref"), fields.get("ref"), fields["topic"], fields.get("event", REPLY), payload)


def write_old_client_frame(message: Message) -> str:
    """Write a message as a client of vsn 1.0.0 does.

    :raises InvalidPayload: it is bytes, for which that version has no frame.
    """
    if isinstance(message.payload, bytes):
        raise InvalidPayload("a client of vsn 1.0.0 cannot send bytes: let it connect with vsn='2.0.0'")
    return json.dumps(message._asdict(), default=plain_value)


def read_old_server_frame(frame: Frame) -> Message:
    """Read a frame as a client of vsn 1.0.0 does: it is told no join_ref."""
    return Message(join_ref=None, **json.loads(frame))


class Wire(NamedTuple):
    """How a client writes and reads."""

    #: Makes a frame of what the client sends.
    write: Callable[[Message], Frame]
    #: Reads one of the server's.
    read: Callable[[Frame], Message]


#: By the version that a client asks for.
WIRES = {
    "1.0.0": Wire(write_old_client_frame, read_old_server_frame),
    "2.0.0": Wire(write_client_frame, read_server_frame),
}
