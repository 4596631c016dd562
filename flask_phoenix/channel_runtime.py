"""What a channel asks of the runtime, and of a presence: the walls between an author's class and what serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .exceptions import InvalidOption
from .payloads.writing import Record
from .protocol.messages import Kept, Reply

#: A meta, or a function that makes it of the former one.
NewMeta = Record | Callable[[dict[str, Any]], Record]
NO_PRESENCE = (
    "this channel has no presence: make one with online = phoenix.presence(), and write presence = online in its class"
)


class SocketRef(NamedTuple):
    """Remembers a message, so that it can be answered later: see :meth:`Channel.socket_ref`."""

    #: The message, as the runtime knows it.
    ref: Any


class ChannelRuntime:
    """What a channel asks of the runtime: the wall between an author's class and ``runtime.channel_server``."""

    __slots__ = ()

    #: The channel as the pubsub knows it.
    subscriber: Any
    #: It ended on purpose: its client left the topic, or its author stopped it.
    left: bool

    @property
    def id(self) -> str | None:
        """The id of the client's socket, if it has one."""
        raise NotImplementedError

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client."""
        raise NotImplementedError

    def broadcast(self, event: str, payload: Any, everybody: bool) -> None:
        """Send an event to the subscribers of the topic.

        :param everybody: this channel is among them.
        """
        raise NotImplementedError

    def socket_ref(self) -> SocketRef:
        """Remember the message that is being handled."""
        raise NotImplementedError

    def refresh(self, payload: Any) -> Reply:
        """Let the client's socket take a new token."""
        raise NotImplementedError

    def reply(self, socket_ref: SocketRef, reply: Reply) -> None:
        """Answer a remembered message."""
        raise NotImplementedError

    def stop(self, reason: Any) -> None:
        """End the channel after the callback that runs."""
        raise NotImplementedError

    def send(self, message: Any) -> None:
        """Queue a message for the channel's own ``handle_info``."""
        raise NotImplementedError

    def send_after(self, seconds: float, message: Any) -> Callable[[], None]:
        """Queue a message in so many seconds; the answer is a function that cancels it."""
        raise NotImplementedError

    def spawn(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        """Call a function in a greenlet of its own, which ends with the channel."""
        raise NotImplementedError

    def ignore(self, events: tuple[str, ...]) -> None:
        """Send this client no broadcasts of these events."""
        raise NotImplementedError

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        raise NotImplementedError

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        raise NotImplementedError

    def at_end(self, release: Callable[[], None]) -> bool:
        """Call a function when the channel ends, however it ends; return False where it has ended already."""
        raise NotImplementedError

    def history(self, since: str | None, limit: int | None) -> list[Kept]:
        """Return what the topic keeps."""
        raise NotImplementedError

    def once(self, key: str, call: Callable[[], Reply | None]) -> Reply | None:
        """Call a function, unless it was called for this key of the topic."""
        raise NotImplementedError


class Tracking:
    """What a channel asks of a presence, and what it has without one: an error that names the remedy.

    :class:`.Presence` implements it. In all methods ``where`` is a channel, or the name of a topic; ``topic`` is given
    for another topic than the channel's.
    """

    def track(self, where: Any, key: str, meta: Record | None = None, topic: str | None = None) -> str:
        """Be present under a key."""
        raise InvalidOption(NO_PRESENCE)

    def update(self, where: Any, key: str, meta: NewMeta, topic: str | None = None) -> str:
        """Replace the meta."""
        raise InvalidOption(NO_PRESENCE)

    def track_or_update(self, where: Any, key: str, meta: Record | None = None, topic: str | None = None) -> str:
        """Be present under a key, or replace the meta."""
        raise InvalidOption(NO_PRESENCE)

    def untrack(self, where: Any, key: str, topic: str | None = None) -> None:
        """Be present no more."""
        raise InvalidOption(NO_PRESENCE)

    def list(self, where: Any) -> dict[str, Any]:
        """Return who is there."""
        raise InvalidOption(NO_PRESENCE)
