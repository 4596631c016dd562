"""Messages, replies and broadcasts as values, and the names that the protocol reserves."""

from __future__ import annotations

from reprlib import Repr
from typing import Any, NamedTuple

#: What a transport carries: text, or binary.
Frame = str | bytes

#: Reserved events (Phoenix ``channel/server.ex`` and its JavaScript client).
JOIN = "phx_join"
LEAVE = "phx_leave"
REPLY = "phx_reply"
ERROR = "phx_error"
CLOSE = "phx_close"

#: Tells the ref of the binary frame that follows, which has no place for it.
OFFSET = "phx_offset"
#: Where the reply to a join says what became of the client's position.
RECOVERY = "phx_history"

#: The topic and the event of a client's heartbeat.
PHOENIX = "phoenix"
HEARTBEAT = "heartbeat"

#: The prefix of the topics on which nodes speak among themselves; no client can join them.
INTERNAL = "phx:"

#: Characters of a client's text that are put into one log line.
SHOWN_CHARACTERS = 200

#: The events that, broadcast on a socket's id, close its connections, or end the channel of one topic in them.
#: Never on the wire. They are two, since a process of an older version is to close nothing for the second.
DISCONNECT = "disconnect"
DISCONNECT_TOPIC = "disconnect_topic"

#: Tells a client, on each channel, that its connection will be closed.
EXPIRING = "token_expiring"
#: A client's event, on any channel, that hands in a new token.
REFRESH = "phx_refresh"


class Message(NamedTuple):
    """One event on one topic.

    What a client sent is kept as it came: refs, topic and event may be any JSON value, because replies echo them
    verbatim.
    """

    #: The ref of the join that made the membership.
    join_ref: Any
    #: The client's name for this message, which the reply repeats.
    ref: Any
    #: What the client has joined, or wants to.
    topic: Any
    #: The name of what happens.
    event: Any
    #: The content.
    payload: Any


class Reply(NamedTuple):
    """The answer to one message: a status and a response.

    The status is usually ``"ok"`` or ``"error"``, but any string is sent as it is. The response is any JSON value, or
    bytes.
    """

    #: How it went.
    status: str = "ok"
    #: What the client's callback is given.
    response: Any = {}  # noqa: RUF012 - read only: nothing here changes a response


class Broadcast(NamedTuple):
    """One event for every subscriber of a topic; the payload is a dict, or bytes."""

    #: Who is on it gets the broadcast.
    topic: str
    #: The name of what happens.
    event: str
    #: The content.
    payload: Any


class Kept(Broadcast):
    """A broadcast that its topic's history keeps."""

    #: Its position, as the client hands it back: see :class:`.Position`.
    ref: str
    #: The name of the channel that is not to get it, or nothing.
    sender: str

    @classmethod
    def made(cls, broadcast: Broadcast, ref: str, sender: str = "") -> Kept:
        """Make one of a broadcast."""
        kept = tuple.__new__(cls, broadcast)  # without a look at the fields, which are there
        kept.ref, kept.sender = ref, sender
        return kept


class Traced(Broadcast):
    """A broadcast that belongs to a trace."""

    #: As the header ``traceparent`` says it.
    trace: str

    @classmethod
    def made(cls, broadcast: Broadcast, trace: str) -> Traced:
        """Make one of a broadcast."""
        traced = cls(*broadcast)
        traced.trace = trace
        return traced


def disconnect_message(id: str, topic: str | None) -> Broadcast:
    """Return what closes the connections of an id, or ends one channel in each of them."""
    return Broadcast(id, DISCONNECT, {}) if topic is None else Broadcast(id, DISCONNECT_TOPIC, {"topic": topic})


class JsonText(str):
    """A payload that is JSON text already, as another node has written it; serializers put it into frames as it is."""

    __slots__ = ()


class _Values(Repr):
    """Writes a few elements and levels of a value: whole, it might be larger than a line, or too deep for repr."""

    maxstring = maxother = SHOWN_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        """Write an integer; Python refuses to write those of more than 4,300 digits."""
        return repr(x) if x.bit_length() < 128 else "..."


_values = _Values()


def shown(value: Any) -> str:
    """Return what a client sent as it is put into a log line: escaped, in quotes, at most 200 characters of it."""
    if isinstance(value, str | bytes):
        return f"{value[:SHOWN_CHARACTERS]!r}..." if len(value) > SHOWN_CHARACTERS else repr(value)
    return _values.repr(value)[:SHOWN_CHARACTERS]
