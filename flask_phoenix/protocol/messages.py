"""Messages, replies and broadcasts as values, and the names that the protocol reserves."""

from __future__ import annotations

from typing import Any, NamedTuple

#: What a transport carries: text, or binary.
Frame = str | bytes

#: Reserved events (Phoenix ``channel/server.ex`` and its JavaScript client).
JOIN = "phx_join"
LEAVE = "phx_leave"
REPLY = "phx_reply"
ERROR = "phx_error"
CLOSE = "phx_close"

#: The topic and the event of a client's heartbeat.
PHOENIX = "phoenix"
HEARTBEAT = "heartbeat"

#: The prefix of the topics on which nodes speak among themselves; no client can join them.
INTERNAL = "phx:"

#: The event that, broadcast on a socket's id, closes its connections. Never on the wire.
DISCONNECT = "disconnect"


class Message(NamedTuple):
    """One event on one topic.

    What a client sent is kept as it came: refs, topic and event may be any JSON value, because replies echo them
    verbatim.
    """

    join_ref: Any
    ref: Any
    topic: Any
    event: Any
    payload: Any


class Reply(NamedTuple):
    """The answer to one message: a status and a response.

    The status is usually ``"ok"`` or ``"error"``, but any string is sent as it is. The response is any JSON value, or
    bytes.
    """

    status: str = "ok"
    response: Any = {}  # noqa: RUF012 - read only: nothing here changes a response


class Broadcast(NamedTuple):
    """One event for every subscriber of a topic; the payload is a dict, or bytes."""

    topic: str
    event: str
    payload: Any


class JsonText(str):
    """A payload that is JSON text already, as another node has written it; serializers put it into frames as it is."""

    __slots__ = ()


def shown(value: Any) -> str:
    """Return a client's value as it stands in a log line or an error: escaped, and cut at 200 characters."""
    return f"{(value[:200] if isinstance(value, str | bytes) else value)!r:.200}"
