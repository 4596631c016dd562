"""A channel's standing with the engine: what its author may ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..exceptions import NotJoined
from ..host import Link, SocketRef
from ..protocol.messages import Broadcast, Message, Reply
from ..protocol.state import JoinReceived, Protocol
from ..pubsub.local import Lane, Notify, Subscriber
from .connection import Connection
from .ties import Ties

log = logging.getLogger(__name__)


class Standing(Link):
    """What a channel may ask of the engine, but for what concerns its inbox.

    :param intercepted: told of the broadcasts that the channel intercepts.
    :param heard: told of those on other topics.
    """

    __slots__ = ("_message", "_route", "_ties", "connection", "joined", "membership", "protocol", "subscriber")

    def __init__(
        self,
        connection: Connection,
        protocol: Protocol,
        lane: Lane,
        join: JoinReceived,
        intercepted: Notify,
        heard: Notify,
    ) -> None:
        self.connection = connection
        self.protocol = protocol
        self.membership = join.membership
        self.joined = False
        self._route = join.route
        #: What is being handled.
        self._message: Message | None = None
        self.subscriber = Subscriber(intercepted, lane, connection.carrier.write, join.route.channel.intercepts)
        self._ties = Ties(connection.engine.pubsub, self.membership.topic, self.subscriber, Subscriber(heard))

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        self._require_joined("push")
        self.connection.send(self.protocol.push(self.membership, event, payload))

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic: to all, or to all but this channel."""
        self._require_joined("broadcast")
        broadcast = Broadcast(self.membership.topic, event, payload)
        self.connection.engine.broadcast(broadcast, None if everybody else self.subscriber)

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled."""
        self._require_joined("socket_ref")
        if self._message is None or self._message.ref is None:
            raise NotJoined("socket_ref() works while a message with a ref is handled; this one cannot be answered")
        return SocketRef(self._message.ref)

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        """Answer a remembered message."""
        self._answer(socket_ref.ref, reply)

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Queue a message later; the answer is a function that cancels it."""
        return self._ties.after(seconds, lambda: self.send(message))

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        self._ties.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        self._ties.unsubscribe(topic)

    def hold(self, release: Callable[[], None]) -> bool:
        """Call back when the channel ends, however it ends; False when it has ended."""
        self._require_joined("track")
        return self._ties.hold(release)

    def _answer(self, ref: Any, reply: Reply) -> None:
        self.connection.send(self.protocol.reply(self.membership, ref, reply))

    def _require_joined(self, verb: str) -> None:
        if not self.joined:
            raise NotJoined(
                f"{self._name} may not {verb} before its join is over: do it in after_join(self),"
                " which runs behind the join's reply"
            )

    def _log(self, what: str, reason: Any = None) -> None:
        failed = isinstance(reason, BaseException)
        because = "" if failed or reason is None else f", for the reason {reason!r}"
        log.error(
            "%s %s on topic %r%s",
            self._name,
            what,
            self.membership.topic,
            because,
            exc_info=reason if failed else reason is None,
        )

    @property
    def _name(self) -> str:
        return str(self._route.channel.__name__)
