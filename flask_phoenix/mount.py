"""Where a socket is served, and what was chosen for it: paths and options."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .exceptions import InvalidOption
from .origin import OriginPolicy
from .serializer import Serializer
from .socket import BaseSocket

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

#: What the app's configuration is asked for, as ``PHOENIX_TIMEOUT`` and so on, where ``phoenix.socket`` says nothing.
PREFIX = "PHOENIX_"


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
    #: Seconds of silence from the client before it is closed; None: never.
    timeout: float | None = 60.0
    #: Bytes of one message from the client.
    max_frame_size: int = 1_000_000
    #: Bytes that may wait for a client that reads too slowly when more comes, before it is closed.
    outbox_limit: int = 1 << 20
    #: Accept permessage-deflate when a client offers it.
    compress: bool = False
    #: Called with the :class:`.Refused` of a connect; returns what a Flask view returns. None: HTTP 403.
    error_handler: Callable[[Any], Any] | None = None
    #: Channels that one client may join.
    max_channels: int = 100

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
    """A socket at a path of one app."""

    path: str
    socket: type[BaseSocket]
    options: Options
    origin: OriginPolicy

    def url(self, transport_path: str) -> str:
        """Return the rule of a transport below this mount."""
        return "/" + "/".join(part.strip("/") for part in (self.path, transport_path) if part.strip("/"))


def make_mount(path: str, socket: type[BaseSocket], given: Mapping[str, Any], config: Mapping[str, Any]) -> Mount:
    """Settle what a mount does: what was given, else what the app's configuration says, else the default.

    :raises InvalidOption: an option is unknown or cannot be.
    """
    check_names(given)
    chosen = {name: config[key] for name in NAMES if (key := PREFIX + name.upper()) in config} | dict(given)
    for name in ("connect_info", "subprotocols"):
        chosen[name] = _as_tuple(name, chosen[name]) if chosen.get(name) is not None else getattr(Options, name)
    options = replace(Options(), **chosen)
    _check(options, path)
    return Mount(path, socket, options, OriginPolicy(options.check_origin))


def check_names(given: Mapping[str, Any]) -> None:
    """See that every option exists.

    :raises InvalidOption: one does not.
    """
    for name in given:
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(NAMES)}"
            raise InvalidOption(f"phoenix.socket has no option {name!r}; {hint}")


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
    if options.timeout is not None and not _is_above_zero(options.timeout, (int, float)):
        raise InvalidOption(f"timeout is a number of seconds above 0, or None for no limit; got {options.timeout!r}")
    for name in ("max_frame_size", "outbox_limit", "max_channels"):
        if not _is_above_zero(getattr(options, name), int):
            raise InvalidOption(f"{name} is a whole number above 0; got {getattr(options, name)!r}")
    if options.error_handler is not None and not callable(options.error_handler):
        raise InvalidOption(f"error_handler is a function of the Refused; got {options.error_handler!r}")
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
