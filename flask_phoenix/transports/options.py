"""Options, and mounts: the paths at which a socket is served, and the options that were chosen there."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..channel import level_of
from ..exceptions import InvalidOption
from ..protocol.serializers import Serializer
from ..socket import BaseSocket
from .origin import OriginPolicy

log = logging.getLogger("flask_phoenix.handshake")

#: What ``connect_info`` may list.
INFO_KEYS = (
    "peer_data",
    "x_headers",
    "trace_context_headers",
    "sec_websocket_headers",
    "user_agent",
    "uri",
    "session",
)

#: The transports, and whether they are on where nothing is said.
TRANSPORTS = {"websocket": True, "longpoll": False}
#: The scheme of each transport, plain and over TLS.
SCHEMES = {"websocket": ("ws", "wss"), "longpoll": ("http", "https")}

#: What the app's configuration is asked for, as ``PHOENIX_TIMEOUT`` and so on, where ``phoenix.socket`` says nothing.
PREFIX = "PHOENIX_"

#: How much a key has to resemble another to be that one, misspelt.
MISSPELT = 0.85


@dataclass(frozen=True)
class Options:
    """The options of a mount; each is an argument of ``phoenix.socket`` and a ``PHOENIX_*`` key of the app."""

    #: Where the WebSocket is, below the mount.
    path: str = "/websocket"
    #: Which pages may connect: True (of the same host), a list, ``":conn"``, a function of the parsed origin, False
    #: (any).
    check_origin: Any = True
    #: Whether ``connect_info``'s session asks for the CSRF token in the parameter ``_csrf_token``.
    check_csrf: bool = True
    #: Where the session keeps its CSRF token.
    csrf_token_key: str = "_csrf_token"
    #: Take the client's ``authToken`` (as ``info["auth_token"]``).
    auth_token: bool = False
    #: Further WebSocket subprotocols, the preferred one first; None: not negotiated.
    subprotocols: tuple[str, ...] | None = None
    #: What ``connect`` is told: names of :data:`INFO_KEYS`, and dicts of constants.
    connect_info: tuple[Any, ...] = ()
    #: Serializers and the versions that they speak, as ``[(MySerializer(json), "~> 3.0.0")]``; None: Phoenix's two.
    serializer: Any = None
    #: The versions that are spoken here, as ``"2.0.0"`` or a list; None: all that the serializers speak.
    vsn: tuple[str, ...] | None = None
    #: Seconds of silence from the client before it is closed; None: never.
    timeout: float | None = 60.0
    #: Bytes of one message from the client.
    max_frame_size: int = 1_000_000
    #: Bytes that may wait for a client that reads too slowly when more comes, before it is closed.
    outbox_limit: int = 1 << 20
    #: Bytes of messages of one client that may wait for handlers before it is read no further.
    inbox_limit: int = 1 << 20
    #: Seconds that a channel may take to decide a join; None: any time.
    join_timeout: float | None = 60.0
    #: Seconds before a socket's ``expires_at`` at which its client is told.
    expiry_notice: float = 60.0
    #: Characters of a topic and of an event that a client sends.
    max_name_length: int = 1024
    #: Seconds in which a client has to take some of what waits for it; None: any time.
    outbox_timeout: float | None = 30.0
    #: Keep only the newest of the broadcasts that channels name in ``conflate``, where they wait for a slow client.
    conflate: bool = True
    #: Accept permessage-deflate when a client offers it.
    compress: bool = False
    #: The level of the line that tells of a client that was let in or refused; None: no line.
    log: str | int | None = "info"
    #: Called with the :class:`.Refused` of a connect; returns what a Flask view returns. None: HTTP 403.
    error_handler: Callable[[Any], Any] | None = None
    #: Channels that one client may join.
    max_channels: int = 100
    #: Messages of one client that are handled in a second; None: as many as come.
    messages_per_second: float | None = None
    #: Long polling: seconds that a poll waits. A client that has not polled for one and a half windows is gone.
    window: float = 10.0
    #: Long polling: seconds in which another node has to say that it has a session.
    pubsub_timeout: float = 2.0
    #: Long polling: whole seconds for which a session's token is valid.
    token_max_age: int = 1_209_600
    #: Long polling: bytes of the body of one request, however long its hundred lines may be.
    max_body_size: int = 8_000_000
    #: Long polling: seconds for a body.
    body_timeout: float = 10.0

    @property
    def info_keys(self) -> list[str]:
        """The names that ``connect_info`` lists."""
        return [entry for entry in self.connect_info if isinstance(entry, str)]

    @property
    def info_constants(self) -> dict[str, Any]:
        """The constants that ``connect_info`` holds."""
        return {key: value for entry in self.connect_info if isinstance(entry, Mapping) for key, value in entry.items()}


NAMES = [field.name for field in fields(Options)]


@dataclass(frozen=True)
class Mount:
    """A socket at a path of one app, for one transport."""

    path: str
    socket: type[BaseSocket]
    transport: str
    options: Options
    origin: OriginPolicy
    #: What has been said of it, and is said once.
    hinted: set[str] = field(default_factory=set, compare=False)

    @property
    def url(self) -> str:
        """The rule of the transport."""
        return "/" + "/".join(part.strip("/") for part in (self.path, self.options.path) if part.strip("/"))


def make_mounts(
    path: str, socket: type[BaseSocket], given: Mapping[str, Any], config: Mapping[str, Any]
) -> list[Mount]:
    """Make a mount for each transport, with the options given, else the app's configuration, else the defaults.

    ``websocket`` and ``longpoll`` are True, False, or a dict of options for that transport alone.

    :raises InvalidOption: an option is unknown or has an impossible value.
    """
    check_names(given, [*NAMES, *TRANSPORTS])
    common = {name: value for name, value in given.items() if name not in TRANSPORTS}
    mounts = []
    for transport, default in TRANSPORTS.items():
        choice = given.get(transport, config.get(PREFIX + transport.upper(), default))
        if not isinstance(choice, (bool, Mapping)):
            raise InvalidOption(f"{transport} is True, False, or a dict of options; got {choice!r}")
        if choice is not False:
            own = {} if choice is True else dict(choice)
            check_names(own, NAMES)
            mounts.append(_make_mount(path, socket, transport, common, own, config))
    if not mounts:
        raise InvalidOption(f"{path!r} serves nothing: websocket is False, and longpoll is off")
    return mounts


def _make_mount(
    path: str,
    socket: type[BaseSocket],
    transport: str,
    common: dict[str, Any],
    own: dict[str, Any],
    config: Mapping[str, Any],
) -> Mount:
    configured = {name: config[key] for name in NAMES if (key := PREFIX + name.upper()) in config}
    chosen = configured | common | own
    if transport == "longpoll":
        chosen["path"] = own.get("path", "/longpoll")
    if isinstance(chosen.get("vsn"), str):
        chosen["vsn"] = [chosen["vsn"]]
    for name in ("connect_info", "subprotocols", "vsn"):
        chosen[name] = _as_tuple(name, chosen[name]) if chosen.get(name) is not None else getattr(Options, name)
    options = replace(Options(), **chosen)
    _check(options, path)
    return Mount(path, socket, transport, options, OriginPolicy(options.check_origin))


def check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that every option exists.

    :raises InvalidOption: one does not.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise InvalidOption(f"phoenix.socket has no option {name!r}; {hint}")


def check_keys(config: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that every ``PHOENIX_*`` key of an app is read by somebody.

    :param known: those that are no options of a mount.
    :raises InvalidOption: one is misspelt; one that resembles none is left alone, and named in the log.
    """
    known = [*known, *(PREFIX + name.upper() for name in (*NAMES, *TRANSPORTS))]
    for key in config:
        if key in known or not _is_ours(key):
            continue
        if close := difflib.get_close_matches(key, known, 1, MISSPELT):
            raise InvalidOption(f"the app's configuration has {key}, which nothing reads; did you mean {close[0]}?")
        if key.startswith(PREFIX):
            log.warning(
                "the app's configuration has %s, which nothing reads; docs/reference/options.md lists the keys", key
            )


def _is_ours(key: Any) -> bool:
    """Tell whether a key begins with our prefix, which is easily misspelt, or nearly so."""
    return bool(difflib.get_close_matches(f"{key}".partition("_")[0] + "_", [PREFIX], 1, MISSPELT))


def _check(options: Options, path: str) -> None:
    for key in options.connect_info:
        if key not in INFO_KEYS and not isinstance(key, Mapping):
            raise InvalidOption(
                f"connect_info knows no {key!r}; it lists {', '.join(INFO_KEYS)}, and dicts of constants"
            )
    if options.check_origin is False and not options.check_csrf:
        raise InvalidOption(
            f"one of check_origin and check_csrf must be set for {path!r}: with neither, any web page could use the"
            " sessions of your users; list the origins that may connect: check_origin=['//example.com']"
        )
    for name in ("window", "pubsub_timeout", "body_timeout", "expiry_notice"):
        if not _is_above_zero(getattr(options, name), (int, float)):
            raise InvalidOption(f"{name} is a number of seconds above 0; got {getattr(options, name)!r}")
    for name in ("timeout", "outbox_timeout", "join_timeout"):
        seconds = getattr(options, name)
        if seconds is not None and not _is_above_zero(seconds, (int, float)):
            raise InvalidOption(f"{name} is a number of seconds above 0, or None for no limit; got {seconds!r}")
    rate = options.messages_per_second
    if rate is not None and not _is_above_zero(rate, (int, float)):
        raise InvalidOption(f"messages_per_second is a number above 0, or None for no limit; got {rate!r}")
    whole = "max_frame_size outbox_limit inbox_limit max_name_length max_channels token_max_age max_body_size"
    for name in whole.split():
        if not _is_above_zero(getattr(options, name), int):
            raise InvalidOption(f"{name} is a whole number above 0; got {getattr(options, name)!r}")
    level_of(options.log, "log")
    if options.error_handler is not None and not callable(options.error_handler):
        raise InvalidOption(f"error_handler is a function of the Refused; got {options.error_handler!r}")
    if options.vsn == () or not all(isinstance(vsn, str) for vsn in options.vsn or ()):
        raise InvalidOption(f"vsn is a version such as '2.0.0', or a list of them; got {options.vsn!r}")
    _check_serializers(options.serializer)


def _is_above_zero(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and bool(value > 0)


def _check_serializers(table: Any) -> None:
    def fits(entry: Any) -> bool:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not isinstance(entry[1], str):
            return False
        return isinstance(entry[0], Serializer) or (isinstance(entry[0], type) and issubclass(entry[0], Serializer))

    if table is not None and not (isinstance(table, (list, tuple)) and table and all(map(fits, table))):
        raise InvalidOption(f"serializer is a list like [(MySerializer, '~> 3.0.0')]; got {table!r}")


def _as_tuple(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InvalidOption(f"{name} is a list; got {value!r}")
    return tuple(value)
