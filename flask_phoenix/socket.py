"""Socket and RawSocket, the author's classes for a kind of client, and the topic patterns of a Socket."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite
from typing import Any, ClassVar, NamedTuple, TypeVar

from .channel import Channel, ErrorHandlerFunction, ErrorHandlers, register_error_handler
from .exceptions import InvalidOption, InvalidReturn, Refused
from .handlers import read_by
from .patterns import Pattern
from .payloads.reading import Reader
from .places import place_of
from .protocol.messages import INTERNAL, Frame, shown
from .refusals import refuse_handlers, refuse_misfits, refuse_reserved

#: What authors write in a Socket, and in a RawSocket.
CALLBACKS = ("connect", "id")
SOCKET_CALLBACKS = (*CALLBACKS, "refresh", "disconnected")
RAW_CALLBACKS = (*CALLBACKS, "open", "handle_frame", "terminate")

ChannelClass = TypeVar("ChannelClass", bound=type[Channel])


log = logging.getLogger("flask_phoenix.channel")

NEVER_ASKED = (
    "%s: nobody will join by the pattern %r, since %r was registered before it, and fits all its topics: register %r"
    " first; of decorators above one class, the lowest is the first"
)

#: How many patterns a line of the log lists.
SHOWN_PATTERNS = 20


class Route(NamedTuple):
    """A topic pattern, the channel that serves it, and the values that this channel starts with."""

    pattern: str
    channel: type[Channel]
    assigns: dict[str, Any]
    parsed: Pattern

    def matches(self, topic: str) -> bool:
        """Tell whether a topic fits: exactly, by what stands before the star, or with a value for each variable."""
        return not topic.startswith(INTERNAL) and self.parsed.find(topic) is not None

    def subtopic(self, topic: str) -> str:
        """Return what the star stands for."""
        found = self.parsed.find(topic)
        return found.subtopic if found is not None else ""

    def variables(self, topic: str) -> dict[str, Any]:
        """Return what the variables of the pattern stand for."""
        found = self.parsed.find(topic)
        return found.variables if found is not None else {}


def check_expires_at(expires_at: Any, where: str) -> None:
    """See that this is a time.

    :raises InvalidReturn: it is not.
    """
    if isinstance(expires_at, bool) or not isinstance(expires_at, int | float) or not isfinite(expires_at):
        raise InvalidReturn(
            f"{where} gives {expires_at!r:.200} as expires_at; expected seconds of Unix time (time.time() + 3600; of a"
            " datetime, its timestamp())"
        )


class BaseSocket:
    """What both kinds of sockets share: the parameters of a client, the author's values, the decision to let it in."""

    #: The client's parameters: strings, lists and dicts, as its query string says; path variables win over it.
    params: dict[str, Any]
    #: The author's values; each channel starts with a copy.
    assigns: dict[str, Any]
    #: What carries the client's frames: ``"websocket"`` or ``"longpoll"``.
    transport: str
    #: When the client's time is over, in seconds of Unix time: its connection is closed then. None: never.
    expires_at: float | None = None
    #: What makes replies of exceptions of this socket's channels; gathered by :meth:`Socket.errorhandler`.
    error_handlers: ClassVar[ErrorHandlers] = {}
    #: Makes the parameters of :meth:`connect` a value of their declared type, if they have one.
    read_params: ClassVar[Reader | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        refuse_handlers(cls)
        cls.read_params = read_by(cls, "connect", strict=False)

    def __init__(self, params: dict[str, Any], transport: str) -> None:
        self.params = params
        self.assigns = {}
        self.transport = transport

    def connect(self, params: Any, info: dict[str, Any]) -> None:
        """Let the client in, or raise Refused: HTTP 403, or what the mount's ``error_handler`` answers.

        Called in the handshake's request context, before the connection is upgraded: Flask's ``request`` and
        ``session`` work.

        :param params: :attr:`params`, or a value of the type that the parameter is annotated with.
        :param info: what the mount's ``connect_info`` lists, and ``auth_token``.
        """

    def id(self) -> str | None:
        """Name the client's connections, so that ``phoenix.disconnect(id)`` closes them all; None: no name."""
        return None


class Socket(BaseSocket):
    """One client, and the channels that it may join. Subclass it, mount it with ``phoenix.socket(path)``."""

    #: Topic patterns in order of declaration; the first that fits wins.
    channels: ClassVar[tuple[Route, ...]] = ()

    def __init_subclass__(cls) -> None:
        refuse_reserved(cls, Socket, SOCKET_CALLBACKS)
        refuse_misfits(cls, Socket, SOCKET_CALLBACKS)
        super().__init_subclass__()
        cls.error_handlers = dict(cls.error_handlers)

    @classmethod
    def channel(cls, pattern: str, assigns: dict[str, Any] | None = None) -> Callable[[ChannelClass], ChannelClass]:
        """Let a channel serve topics: ``"system"`` exactly, ``"room:*"`` whatever begins so.

        ``"room:<room_id>"`` serves what has one part there, and hands it to ``join`` as the argument ``room_id``; kinds
        of variables are those of Flask's rules, as ``<int:room_id>``.

        :param assigns: values that the channel starts with, beside the socket's.
        :raises InvalidOption: the pattern cannot be, or is taken, or the channel has no ``join`` that fits it.
        """
        parsed = _parse(cls, pattern)
        _check_assigns(cls, pattern, assigns)

        def register(channel: ChannelClass) -> ChannelClass:
            _check_route(cls, pattern, parsed, channel)
            route = Route(pattern, channel, assigns or {}, parsed)
            if (earlier := hiding(cls.channels, route)) is not None:
                log.warning(NEVER_ASKED, cls.__name__, pattern, earlier.pattern, pattern)
            cls.channels = (*cls.channels, route)
            return channel

        return register

    @classmethod
    def errorhandler(cls, *kinds: type[BaseException]) -> Callable[[ErrorHandlerFunction], ErrorHandlerFunction]:
        """Make an error reply of exceptions that handlers and joins of this socket's channels raise.

        The function is given the exception and the channel. A dict or bytes is the response of the error reply, and
        ``Reply(status, response)`` is sent as it is; None declines, and the channel crashes. It comes before those of
        ``phoenix.errorhandler``.

        :raises InvalidOption: one of the kinds is no class of exceptions.
        """
        return register_error_handler(cls.error_handlers, kinds)

    def refresh(self, token: Any) -> float:
        """Take a new token, which the client hands in with the event ``phx_refresh``; return the new ``expires_at``.

        Raise Refused, and the connection ends when it was to end. Called in a channel's turn; it may block.

        :param token: whatever the client sent as ``{"token": ...}``.
        """
        raise Refused("no new token is taken here")

    def disconnected(self, reason: str) -> None:
        """Clean up: the connection has ended, and each of its channels has run its ``terminate``.

        Called once for each client that was connected, whatever ended it; never for one that :meth:`connect` refused.

        :param reason: as that of :meth:`.Channel.terminate`: ``"closed"``, ``"draining"``, ``"timeout"`` and so on.
        """

    @classmethod
    def match(cls, topic: str) -> Route | None:
        """Return the first route that fits a topic."""
        return next((route for route in cls.channels if route.matches(topic)), None)


def hiding(earlier: tuple[Route, ...], route: Route) -> Route | None:
    """Return which of the patterns before it takes all topics of a route."""
    exact = not route.parsed.variables and not route.pattern.endswith("*")
    for other in earlier:
        if other.parsed.find(route.pattern) and (exact or not other.parsed.variables):
            return other
    return None


def explain_unmatched(socket: type[Socket], topic: Any) -> str:
    """Tell why a message for a topic comes to nobody, and what would."""
    name = socket.__name__
    if not isinstance(topic, str):
        return "a topic is a string"
    if (route := socket.match(topic)) is not None:
        return f"{route.channel.__name__} serves it as {route.pattern!r}, and this client has not joined it"
    patterns = [route.pattern for route in socket.channels]
    if not patterns:
        return (
            f"{name} has no channels: write @{name}.channel('room:*') above one, in a module that the app imports"
            f" before it serves (and imports under one name, so that there is one {name})"
        )
    close = get_close_matches(topic[:40].partition(":")[0], {pattern.partition(":")[0]: "" for pattern in patterns}, 1)
    hint = next((f"; did you mean {each!r}?" for each in patterns if close and each.partition(":")[0] == close[0]), "")
    return f"the patterns of {name} are {', '.join(map(repr, patterns[:SHOWN_PATTERNS]))}{hint}"


def _parse(socket: type[Socket], pattern: Any) -> Pattern:
    """Take a pattern apart.

    :raises InvalidOption: it cannot be one.
    """
    if isinstance(pattern, type):
        raise InvalidOption(
            f"a pattern is missing: write @{socket.__name__}.channel('room:*') above class {pattern.__name__}(Channel)"
        )
    return Pattern(pattern)


def _check_assigns(socket: type[Socket], pattern: str, assigns: Any) -> None:
    """See that a channel can start with these values.

    :raises InvalidOption: with the remedy.
    """
    if not isinstance(assigns, dict | None):
        remedy = f"write @{socket.__name__}.channel({pattern!r}) above the class of a channel"
        raise InvalidOption(f"assigns is a dict of values, got {shown(assigns)}: {remedy}")


def _check_route(socket: type[Socket], pattern: str, parsed: Pattern, channel: Any) -> None:
    """See that a socket can have a channel serve a pattern.

    :raises InvalidOption: with the remedy.
    """
    if socket is Socket:
        raise InvalidOption(
            "@Socket.channel would let every socket of every app serve it: make a socket of your own, class"
            f" UserSocket(Socket), mount it with @phoenix.socket('/socket'), and write @UserSocket.channel({pattern!r})"
        )
    if not (isinstance(channel, type) and issubclass(channel, Channel)):
        name = getattr(channel, "__name__", shown(channel))
        raise InvalidOption(
            f"@{socket.__name__}.channel({pattern!r}) stands above {name}, which is no Channel:"
            f" write class {name}(Channel)"
        )
    name = channel.__name__
    if channel.join is Channel.join:
        raise InvalidOption(
            f"{name} has no join(self, payload): who may enter must be decided."
            " To let everybody in: def join(self, payload): return None"
        )
    for route in socket.channels:
        if route.pattern == pattern:
            raise InvalidOption(
                f"{socket.__name__} lets {route.channel.__name__} serve {pattern!r} already, and the first pattern that"
                f" fits wins: give {name} another pattern"
            )
    if channel.handle_out is not Channel.handle_out and "handle_out" not in channel.interceptors.values():
        raise InvalidOption(
            f"{name}.handle_out{place_of(channel.handle_out)} would never be called: write above it which"
            " broadcasts pass through it, as in @intercept('new_msg')"
        )
    try:
        join = inspect.signature(object.__new__(channel).join, follow_wrapped=False)
        join.bind(None, **dict.fromkeys(parsed.variables))
    except TypeError:
        expected = ", ".join(("self", "payload", *parsed.variables))
        given = str(inspect.signature(channel.join))
        raise InvalidOption(f"{name}.join{given} does not fit {pattern!r}: write def join({expected})") from None


class RawSocket(BaseSocket):
    """One client whose frames the author handles, without channels: another protocol on the same mounts and limits."""

    def __init_subclass__(cls) -> None:
        refuse_reserved(cls, RawSocket, RAW_CALLBACKS)
        refuse_misfits(cls, RawSocket, RAW_CALLBACKS)
        super().__init_subclass__()

    def bind(self, send: Callable[[Frame], None], close: Callable[[int, str], None]) -> None:
        """Connect the socket with its connection, which calls this."""
        self._send = send
        self._close = close

    def open(self) -> None:
        """Do what comes first: the connection is open, and nothing has been received."""

    def handle_frame(self, frame: Frame) -> None:
        """Handle a frame from the client: ``str`` or ``bytes``. Called for one at a time, in order; it may block."""
        raise NotImplementedError

    def terminate(self, reason: Any) -> None:
        """Clean up: the connection has ended."""

    def send(self, frame: Frame) -> None:
        """Send a frame to the client: ``str`` as text, ``bytes`` as binary."""
        self._send(frame)

    def close(self, code: int = 1001, reason: str = "") -> None:
        """Close the connection. Clients of Phoenix before 1.8.16 do not come back from code 1000."""
        self._close(code, reason)
