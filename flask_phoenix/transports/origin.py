"""Origins: which web pages may connect, by the rules of ``check_origin``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from ..exceptions import InvalidOption
from ..protocol.messages import SHOWN_CHARACTERS, shown

#: A rule as it is given: on, off, a list of origins, ``":conn"``, or a function of the parsed origin.
OriginRule = bool | str | list[str] | tuple[str, ...] | Callable[[SplitResult], Any]

#: The rule that the origin must be the very address of the request.
CONN = ":conn"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class RequestOrigin(NamedTuple):
    """The address to which a request was sent."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def read(cls, scheme: str, address: str) -> RequestOrigin:
        """Read a request's scheme and its ``Host``; a host that cannot be is empty, and equals no origin's."""
        split = _split(f"{scheme}://{address}")
        return cls(*_parts(split)) if split is not None else cls(scheme, "", None)


class AllowedOrigin(NamedTuple):
    """One entry of a list; a part that is None matches anything (Phoenix ``socket/transport.ex``)."""

    scheme: str | None
    host: str
    port: int | None

    def matches(self, scheme: str, host: str, port: int | None) -> bool:
        """Tell whether the entry allows the origin with these parts."""
        if self.scheme not in (None, scheme) or self.port not in (None, port):
            return False
        if self.host.startswith("*."):
            return host == self.host[2:] or host.endswith(self.host[1:])
        return host == self.host


class OriginPolicy:
    """Decides on the ``Origin`` header. Only browsers send it, so a request without one may pass.

    :param rule: True: the host must be that of the request. False: no check. A list: one entry must match, such as
        ``"https://example.com"``, ``"//example.com"`` (any scheme and port) or ``"//*.example.com"`` (subdomains too).
        ``":conn"``: scheme, host and port must be those of the request. A function: it decides on the parsed origin.
    :raises InvalidOption: the rule is none of these, or an entry has no host.
    """

    def __init__(self, rule: OriginRule = True) -> None:
        if not isinstance(rule, bool | list | tuple) and rule != CONN and not callable(rule):
            forms = 'True, False, a list such as ["https://example.com"], ":conn" or a function'
            raise InvalidOption(f"check_origin must be {forms}, got {rule!r}")
        self._rule = rule
        self._allowed = [_allowed(entry) for entry in rule] if isinstance(rule, list | tuple) else []

    def allows(self, origin: str | None, request: RequestOrigin) -> bool:
        """Tell whether a request with this ``Origin`` header (None: without one) may pass."""
        if origin is None or self._rule is False:
            return True
        split = _split(origin)
        if split is None:
            return False
        if callable(self._rule):
            return bool(self._rule(split))
        scheme, host, port = _parts(split)
        if not host:
            return False
        if self._rule is True:
            return host == _host(request.host)
        if self._rule == CONN:
            return (scheme, host, port) == (request.scheme, _host(request.host), request.port)
        return any(entry.matches(scheme, host, port) for entry in self._allowed)

    def explain(self, origin: str) -> str:
        """Return what the log says of a refused origin: what was seen, what is allowed, and the line that allows it."""
        refused = f"its origin {shown(origin)} is not allowed by check_origin={self._rule!r}"
        split = _split(origin)
        if split is None or not _parts(split)[1]:
            return f"{refused}; it names no host, so that only a function, or False, can let it in"
        if callable(self._rule):
            return f"{refused}; this function decides"
        if len(origin) > SHOWN_CHARACTERS:
            return refused
        known = list(self._rule) if isinstance(self._rule, list | tuple) else []
        entries = ", ".join(f'"{entry}"' for entry in [*known, origin])
        return f"{refused}; if the page is yours, write @phoenix.socket(..., check_origin=[{entries}])"


def _allowed(entry: object) -> AllowedOrigin:
    split = _split(entry) if isinstance(entry, str) else None
    scheme, host, port = _parts(split) if split is not None else ("", "", None)
    if not host:
        example = '"https://example.com" or "//example.com"'
        raise InvalidOption(f"each entry of check_origin must name a host, as {example} does, got {entry!r}")
    return AllowedOrigin(scheme or None, host, port)


def _split(origin: str) -> SplitResult | None:
    """Parse an origin; None where it is no address at all."""
    # urlsplit would drop spaces and control characters in silence.
    if " " in origin or not origin.isprintable():
        return None
    try:
        split = urlsplit(origin)
        _ = split.port
    except ValueError:
        return None
    return split


def _parts(split: SplitResult) -> tuple[str, str, int | None]:
    """Return scheme, host and port; a port that is not given is that of the scheme."""
    port = split.port if split.port is not None else _DEFAULT_PORTS.get(split.scheme)
    return split.scheme, _host(split.netloc), port


def _host(address: str) -> str:
    """Return the host as it is compared: without user, port and brackets, in lower case (RFC 3986, 6.2.2.1), in ASCII.

    Browsers send the ASCII form of an internationalised name, and authors write the other one.
    """
    host = address.rpartition("@")[2].lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    host = host.partition(":")[0] if host.count(":") == 1 else host
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return host
