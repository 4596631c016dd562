"""What a channel may ask of those who run it: the engine, and a presence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .exceptions import InvalidOption
from .protocol.messages import Reply

#: A meta, or what makes one of the former one.
NewMeta = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]

NO_PRESENCE = (
    "this channel has no presence: make one with online = phoenix.presence(), and write presence = online in its class"
)


class SocketRef(NamedTuple):
    """Remembers a message, so that it can be answered later: see :meth:`Channel.socket_ref`."""

    ref: Any


class Link:
    """What a channel may ask of the engine; the engine implements it."""

    #: The channel as the pubsub knows it.
    subscriber: Any

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        raise NotImplementedError

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic: to all, or to all but this channel."""
        raise NotImplementedError

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled."""
        raise NotImplementedError

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        """Answer a remembered message."""
        raise NotImplementedError

    def stop(self, reason: Any) -> None:
        """End the channel behind the callback that runs."""
        raise NotImplementedError

    def send(self, message: Any) -> None:
        """Queue a message for the channel's own ``handle_info``."""
        raise NotImplementedError

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Queue a message later; the answer is a function that cancels it."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        raise NotImplementedError

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        raise NotImplementedError

    def hold(self, release: Callable[[], None]) -> bool:
        """Call back when the channel ends, however it ends; False when it has ended."""
        raise NotImplementedError


class Tracking:
    """Who is here; :class:`.Presence` implements it. This is what a channel has without one.

    Everywhere, ``where`` is a channel, or the name of a topic; ``topic`` is another one than the channel's.
    """

    def track(self, where: Any, key: str, meta: dict[str, Any] | None = None, topic: str | None = None) -> str:
        """Be present under a key."""
        raise InvalidOption(NO_PRESENCE)

    def update(self, where: Any, key: str, meta: NewMeta, topic: str | None = None) -> str:
        """Replace the meta."""
        raise InvalidOption(NO_PRESENCE)

    def untrack(self, where: Any, key: str, topic: str | None = None) -> None:
        """Be present no more."""
        raise InvalidOption(NO_PRESENCE)

    def list(self, where: Any) -> dict[str, Any]:
        """Return who is there."""
        raise InvalidOption(NO_PRESENCE)
