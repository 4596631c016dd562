"""One client's joined topics, join_refs and limits as state: frames in, events out."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

from ..exceptions import InvalidMessage
from .messages import CLOSE, ERROR, HEARTBEAT, JOIN, LEAVE, PHOENIX, Frame, Message, Reply, shown
from .serializers import Serializer

UNMATCHED = Reply("error", {"reason": "unmatched topic"})
TOO_MANY = Reply("error", {"reason": "too many channels joined"})
GIVEN_UP = Reply("error", {"reason": "given up"})
JOIN_CRASHED = Reply("error", {"reason": "join crashed"})
JOIN_TIMED_OUT = Reply("error", {"reason": "join timed out"})
TOO_LONG = Reply("error", {"reason": "topic or event too long"})
TOO_MANY_JOINS = Reply("error", {"reason": "too many joins"})
CRASHED = {"reason": "channel_crash"}
OK = Reply("ok", {})


class Status(Enum):
    """How far a membership has come."""

    JOINING = "joining"
    JOINED = "joined"
    LEAVING = "leaving"


class Membership:
    """One client's place in one topic, from its join to its end."""

    __slots__ = ("encode_reply", "held", "join_ref", "ref", "server", "status", "topic")

    def __init__(self, topic: str, join_ref: Any, ref: Any) -> None:
        self.topic = topic
        #: What the client sent at the join, raw: later messages are compared with it, and phx_close carries it.
        self.join_ref = join_ref
        #: What pushes and replies carry: a client that sent no join_ref is known by the join's ref (``socket.ex``).
        self.ref = join_ref if join_ref is not None else ref
        self.status = Status.JOINING
        #: Writes a reply, by its ref; made with the first.
        self.encode_reply: Callable[[Any, Reply], Frame] | None = None
        #: Messages that wait for the end of the join, and the sizes of their frames.
        self.held: list[tuple[Message, int]] = []
        #: What the runtime keeps for this membership.
        self.server: Any = None


class JoinReceived(NamedTuple):
    """The client wants to join; answer with :meth:`Protocol.accept` or :meth:`Protocol.refuse`."""

    membership: Membership
    message: Message
    route: Any
    #: The membership that this join replaces: its channel is to be ended, and closed after the new join's reply.
    replaced: Membership | None


class LeaveReceived(NamedTuple):
    """The client leaves; answer with :meth:`Protocol.reply` and :meth:`Protocol.close`."""

    membership: Membership
    message: Message


class MessageReceived(NamedTuple):
    """An event for a joined channel."""

    membership: Membership
    message: Message


class Answered(NamedTuple):
    """The protocol has answered by itself; the problem, if there is one, is for the log."""

    frame: Frame
    problem: str | None = None
    #: The limit that the client has reached.
    limit: str | None = None
    #: The problem is that the message's topic is not joined, or cannot be.
    unmatched: Message | None = None


class Held(NamedTuple):
    """The message waits until the join of its topic is over: see :meth:`Protocol.release`."""

    membership: Membership


Event = JoinReceived | LeaveReceived | MessageReceived | Answered | Held


class Protocol:
    """The rules for one client, as state. No I/O: whoever carries frames feeds :meth:`receive` and writes what is due.

    :param match: tells the route of a topic, or None when no pattern fits.
    :param max_channels: how many topics one client may have joined at a time.
    :param max_name_length: characters that a topic and an event may have.
    """

    __slots__ = ("match", "max_channels", "max_name_length", "memberships", "serializer")

    def __init__(
        self,
        serializer: Serializer,
        match: Callable[[str], Any],
        max_channels: int = 100,
        max_name_length: int = 1024,
    ) -> None:
        self.serializer = serializer
        self.match = match
        self.max_channels = max_channels
        self.max_name_length = max_name_length
        self.memberships: dict[str, Membership] = {}

    def receive(self, frame: Frame) -> Event | None:
        """Decode a frame and tell what happened; None: nothing, the message belongs to a channel that is gone.

        :raises InvalidMessage: the frame is no message; the connection is to be closed with 1011.
        """
        message, size = self.serializer.decode(frame), len(frame)
        if size > self.max_name_length and (problem := self._name_problem(message)) is not None:
            return Answered(self._reply(message.join_ref, message, TOO_LONG), problem, "max_name_length")
        return self.dispatch(message, size)

    def dispatch(self, message: Message, size: int = 0) -> Event | None:
        """Tell what a message means now. The order of the checks is Phoenix's (``socket.ex``).

        :param size: of its frame.
        :raises InvalidMessage: as :meth:`receive`.
        """
        topic, event = message.topic, message.event
        if topic == PHOENIX and event == HEARTBEAT:
            return Answered(self._reply(None, message, OK))
        membership = self.memberships.get(topic) if isinstance(topic, str) else None
        if membership is None:
            return self._dispatch_unjoined(message)
        if membership.status is Status.JOINING:
            membership.held.append((message, size))
            return Held(membership)
        if event == JOIN:
            return self._join(message, self.match(topic), membership)
        ref, expected = message.join_ref, membership.join_ref
        if ref is not None and (ref != expected or type(ref) is not type(expected)):
            return None  # "1", 1 and true are three refs
        if event == LEAVE:
            membership.status = Status.LEAVING
            return LeaveReceived(membership, message)
        return MessageReceived(membership, message)

    def accept(self, join: JoinReceived, reply: Reply) -> Frame:
        """End a join with yes; the frame is the first of the new channel.

        :raises InvalidPayload: this client's serializer cannot write the reply.
        """
        frame = self._reply(join.message.join_ref, join.message, reply)
        join.membership.status = Status.JOINED
        return frame

    def refuse(self, join: JoinReceived, reply: Reply) -> Frame:
        """Write that a join has ended with no; :meth:`forget` it then.

        :raises InvalidPayload: as :meth:`accept`.
        """
        return self._reply(join.message.join_ref, join.message, reply)

    def release(self, membership: Membership) -> list[tuple[Message, int]]:
        """Hand out the messages that waited for the end of a join, and their sizes, to be dispatched now."""
        held, membership.held = membership.held, []
        return held

    def forget(self, membership: Membership) -> None:
        """Free the topic, unless a newer join holds it by now."""
        if self.memberships.get(membership.topic) is membership:
            del self.memberships[membership.topic]

    def reply(self, membership: Membership, ref: Any, reply: Reply) -> Frame:
        """Write the answer to a message that a channel was given.

        :raises InvalidPayload: this client's serializer cannot write the response.
        """
        encode = membership.encode_reply
        if encode is None:
            encode = membership.encode_reply = self.serializer.prepare_replies(membership.ref, membership.topic)
        return encode(ref, reply)

    def push(self, membership: Membership, event: str, payload: Any) -> Frame:
        """Write a push.

        :raises InvalidPayload: this client's serializer cannot write the payload.
        """
        return self.serializer.encode(Message(membership.ref, None, membership.topic, event, payload))

    def push_kept(self, membership: Membership, event: str, payload: Any, ref: str) -> list[Frame]:
        """Write a push that has a position.

        :raises InvalidPayload: as :meth:`push`.
        """
        return self.serializer.encode_kept(Message(membership.ref, ref, membership.topic, event, payload))

    def close(self, membership: Membership) -> Frame:
        """Write that a channel has ended on purpose; :meth:`forget` it then."""
        return self._notice(membership, CLOSE, {})

    def crash(self, membership: Membership) -> Frame:
        """Write that a channel has ended by accident, so that the client joins again; :meth:`forget` it then."""
        return self._notice(membership, ERROR, CRASHED)

    def _name_problem(self, message: Message) -> str | None:
        for name, value in (("topic", message.topic), ("event", message.event)):
            if isinstance(value, str) and len(value) > self.max_name_length:
                limit = self.max_name_length
                return f"{name} {shown(value)} is refused: it has more than {limit} characters (max_name_length)"
        return None

    def _dispatch_unjoined(self, message: Message) -> Event:
        """Tell what a message means for a topic that this client has not joined."""
        if message.event == JOIN:
            return self._dispatch_join(message)
        if message.event == LEAVE:
            return Answered(self._reply(message.join_ref, message, OK))
        return self._unmatched(message)

    def _dispatch_join(self, message: Message) -> Event:
        topic = message.topic
        if isinstance(topic, (dict, list)):
            raise InvalidMessage(f"a client joined a topic that is no string: {shown(topic)}")
        route = self.match(topic) if isinstance(topic, str) else None
        if route is None:
            return self._unmatched(message)
        if len(self.memberships) >= self.max_channels:
            problem = (
                f"too many channels: topic {shown(topic)} is refused, {self.max_channels} are joined (max_channels)"
            )
            return Answered(self._reply(message.join_ref, message, TOO_MANY), problem, "max_channels")
        return self._join(message, route, None)

    def _join(self, message: Message, route: Any, replaced: Membership | None) -> JoinReceived:
        membership = Membership(message.topic, message.join_ref, message.ref)
        self.memberships[message.topic] = membership
        return JoinReceived(membership, message, route, replaced)

    def _unmatched(self, message: Message) -> Answered:
        # The only reply that never echoes the join_ref (``socket.ex``).
        problem = f"ignoring unmatched topic {shown(message.topic)}"
        return Answered(self._reply(None, message, UNMATCHED), problem, unmatched=message)

    def _reply(self, join_ref: Any, message: Message, reply: Reply) -> Frame:
        return self.serializer.encode_reply(join_ref, message.ref, message.topic, reply)

    def _notice(self, membership: Membership, event: str, payload: dict[str, str]) -> Frame:
        # phx_close and phx_error carry the raw join_ref twice (``socket.ex``).
        return self.serializer.encode(
            Message(membership.join_ref, membership.join_ref, membership.topic, event, payload)
        )
