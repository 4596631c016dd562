"""The handshake: from an HTTP request to an admitted socket, or to a refusal."""

from __future__ import annotations

import base64
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes

from flask import Response, abort, current_app, request, session

from .. import clock
from ..assigns import CheckedAssigns
from ..exceptions import InvalidReturn, Refused
from ..places import place_of
from ..protocol.messages import shown
from ..protocol.serializers import Serializer, choose_serializer
from ..socket import BaseSocket, check_expires_at
from .options import INFO_KEYS, Mount
from .origin import RequestOrigin

log = logging.getLogger("flask_phoenix.handshake")

#: The subprotocol of Phoenix's client, and the beginning of the other one that it offers, which holds its token.
PHOENIX_PROTOCOL = "phoenix"
TOKEN_PREFIX = "base64url.bearer.phx."

#: The parameters of every client, for this package.
OUR_PARAMS = ("vsn", "_csrf_token")

#: Bytes of a query string.
QUERY_LIMIT = 1_000_000
#: Why a session is not told to ``connect``, and what to do.
NO_TOKEN = "the client sends no _csrf_token."
OTHER_TOKEN = "its _csrf_token is not that of its session: the page was cached, or the session is a new one."
CSRF_REMEDY = "Write {{ %s }} into the page, and send it: new Socket(..., {params: {_csrf_token: ...}})"
BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
BRACKETS = re.compile(r"\[([^\[\]]*)\]")


class Admission(NamedTuple):
    """A client that was admitted."""

    socket: BaseSocket
    #: What the socket's ``id`` returned.
    id: str | None
    serializer: Serializer
    #: How long the author took to decide.
    seconds: float = 0.0


class ConnectInfo(dict[str, Any]):
    """The ``info`` of ``connect``: facts about the request, under the keys that the mount's ``connect_info`` lists."""

    def __missing__(self, key: str) -> NoReturn:
        if key == "auth_token":
            remedy = "mount with phoenix.socket(path, auth_token=True)"
        elif key in INFO_KEYS:
            remedy = f"mount with phoenix.socket(path, connect_info=[{key!r}])"
        else:
            remedy = f"connect_info lists {', '.join(INFO_KEYS)}, and dicts of constants"
        raise KeyError(f"{key!r} is not told to connect: {remedy}")


def http_error(status: int, body: str = "", headers: dict[str, str] | None = None) -> NoReturn:
    """Answer the request with a bare status, not with an error page of the app."""
    abort(Response(body, status, headers, content_type="text/plain; charset=utf-8"))


def check_origin(mount: Mount) -> bool:
    """Tell whether the request's origin may use a mount; a refusal is logged with its remedy."""
    origin = request.headers.get("Origin")
    if origin is None or mount.origin.allows(origin, _request_origin()):  # only browsers send it
        return True
    log.error("refused a client of %s: %s", mount.path, mount.origin.explain(origin))
    return False


def offer(token: str | None) -> list[Any] | None:
    """Return the subprotocols that a client with an auth token offers; its name may hold no slash."""
    if not token:
        return None
    return [PHOENIX_PROTOCOL, TOKEN_PREFIX + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")]


def offered_protocols(mount: Mount) -> tuple[list[str], str | None]:
    """Return the subprotocols that the client offers, without its auth token, and that token.

    The token is one of the offers, in base64 of either alphabet, padded or not (``socket/transport.ex`` and the
    JavaScript client); none or several of them count as no token. A token that is not base64 is refused with HTTP 403.
    """
    header = request.headers.get("Sec-WebSocket-Protocol", "")
    offered = [item.strip() for item in header.split(",") if item.strip()]
    if not mount.options.auth_token:
        return offered, None
    tokens = [item.removeprefix(TOKEN_PREFIX) for item in offered if item.startswith(TOKEN_PREFIX)]
    offered = [item for item in offered if not item.startswith(TOKEN_PREFIX)]
    return offered, decode_token(tokens[0]) if len(tokens) == 1 else None


def decode_token(text: str) -> str:
    """Decode an auth token; one that is not base64 is refused with HTTP 403.

    The client's ``btoa`` takes strings of Latin-1; bytes that are UTF-8 are read as such all the same.
    """
    standard = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except ValueError:
        log.error("refused a client: its auth token is not base64")
        http_error(403)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def choose_protocol(mount: Mount, offered: list[str]) -> str | None:
    """Choose the subprotocol to answer with: the first of the server's that the client offers.

    ``phoenix`` is answered wherever it is offered, since browsers give up a connection that does not answer it. A
    client that offers nothing known to a mount that negotiates is refused with HTTP 403.
    """
    accepted = (PHOENIX_PROTOCOL, *(mount.options.subprotocols or ()))
    chosen = next((item for item in accepted if item in offered), None)
    negotiates = mount.options.auth_token or mount.options.subprotocols is not None
    if chosen is None and offered and negotiates:
        log.error(
            "refused a client of %s: it offers the subprotocols %s, accepted are %s",
            mount.path,
            shown(", ".join(offered)),
            ", ".join(accepted),
        )
        http_error(403)
    return chosen


def admit(
    mount: Mount,
    serializers: list[tuple[Serializer, str]],
    token: str | None,
    variables: dict[str, Any],
) -> Admission:
    """Choose the version and let the author decide: connect info, version, ``connect``, in Phoenix's order.

    :param token: the client's auth token, where the mount takes one.
    :param variables: those of the path; they win over parameters of the same name.
    :raises UnknownVersion: the client asks for a version that the mount does not speak.
    :raises Refused: by the author.
    :raises InvalidReturn: ``connect`` returned something, or ``id`` returned neither a string nor None.
    """
    began = perf_counter()
    params = parse_query(request.query_string)
    params.update({name: str(value) for name, value in variables.items() if not name.startswith("_")})
    info = connect_info(mount, params, token)
    serializer = choose_serializer(params.get("vsn"), serializers)
    socket = mount.socket(params, mount.transport)
    if current_app.debug:
        socket.assigns = CheckedAssigns(mount.socket.__name__, socket.assigns)
    connect: Callable[..., Any] = socket.connect
    answer = connect(_typed(mount, params), info)
    if answer is not None:
        raise InvalidReturn(
            f"{mount.socket.__name__}.connect returned {shown(answer)}; expected None, which lets the client in;"
            f" to refuse it, raise Refused('why'){place_of(socket.connect)}"
        )
    if socket.expires_at is not None:
        check_expires_at(socket.expires_at, f"{mount.socket.__name__}.connect")
        if socket.expires_at <= clock.time():
            raise Refused("token expired")
    return Admission(socket, identify(socket), serializer, perf_counter() - began)


def _typed(mount: Mount, params: dict[str, Any]) -> Any:
    """Return the parameters as ``connect`` declares them; those that the protocol has are not among what is checked.

    :raises Refused: they are of another type.
    """
    read = mount.socket.read_params
    return params if read is None else read({name: params[name] for name in params if name not in OUR_PARAMS})


def identify(socket: BaseSocket) -> str | None:
    """Ask a socket for its id.

    :raises InvalidReturn: the id is neither a string nor None.
    """
    name = socket.id()
    if name is None or isinstance(name, str):
        return name
    raise InvalidReturn(
        f"{type(socket).__name__}.id returned {name!r}; expected a string ('user:7'), or None for no id"
    )


def connect_info(mount: Mount, params: dict[str, Any], token: str | None) -> ConnectInfo:
    """Gather the ``info`` of ``connect``: what the mount lists, nothing else (above all, no cookies)."""
    info = ConnectInfo(mount.options.info_constants)
    for key in mount.options.info_keys:
        info[key] = _session(mount, params) if key == "session" else READERS[key]()
    if mount.options.auth_token:
        info["auth_token"] = token
    return info


def _session(mount: Mount, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the session; None if there is none, or if the client has not sent its CSRF token."""
    if not session:
        return None
    sent, kept = params.get("_csrf_token"), session.get(mount.options.csrf_token_key)
    if mount.options.check_csrf and not (
        isinstance(sent, str) and isinstance(kept, str) and hmac.compare_digest(sent.encode(), kept.encode())
    ):
        _hint_at_csrf(mount, OTHER_TOKEN if sent else NO_TOKEN)
        return None
    return dict(session)


def _hint_at_csrf(mount: Mount, why: str) -> None:
    """Log, once for a mount, why a client that has a session is taken to have none."""
    if why not in mount.hinted:
        mount.hinted.add(why)
        key = mount.options.csrf_token_key
        made = f"phoenix_csrf_token({'' if key == '_csrf_token' else repr(key)})"
        log.warning("the session of a client of %s is not told to connect: %s %s", mount.path, why, CSRF_REMEDY % made)


def csrf_token(key: str = "_csrf_token") -> str:
    """Return the CSRF token of this session, which is made if there is none; clients send it as ``_csrf_token``."""
    if key not in session:
        session[key] = secrets.token_urlsafe(24)
    return str(session[key])


def _peer_data() -> dict[str, Any]:
    port = request.environ.get("REMOTE_PORT")
    return {"address": request.remote_addr, "port": int(port) if port else None}


def _request_origin() -> RequestOrigin:
    """Return where the request was sent to: not by Werkzeug's URLs, which decode internationalised hosts."""
    return RequestOrigin.read(request.scheme, request.host)


def _uri() -> dict[str, Any]:
    scheme, host, port = _request_origin()
    path, query = request.root_path.rstrip("/") + request.path, request.query_string.decode("latin-1")
    return {"scheme": scheme, "host": f"[{host}]" if ":" in host else host, "port": port, "path": path, "query": query}


def _headers(*beginnings: str) -> list[tuple[str, str]]:
    pairs = ((name.lower(), value) for name, value in request.headers.items())
    return [(name, value) for name, value in pairs if name.startswith(beginnings)]


READERS: dict[str, Callable[[], Any]] = {
    "peer_data": _peer_data,
    "x_headers": lambda: _headers("x-"),
    "trace_context_headers": lambda: _headers("traceparent", "tracestate"),
    "sec_websocket_headers": lambda: _headers("sec-websocket-"),
    "user_agent": lambda: request.headers.get("User-Agent"),
    "uri": _uri,
}


def parse_query(query: bytes) -> dict[str, Any]:
    """Decode a query string with nesting, as Phoenix does: ``a=1&b[c]=2&d[]=3&d[]=4``; of equal keys the last wins.

    Too long a query is refused with HTTP 414, broken escapes and broken UTF-8 with 400.
    """
    if len(query) > QUERY_LIMIT:
        http_error(414)
    if BAD_ESCAPE.search(query):
        http_error(400, "a broken percent escape in the query string")
    params: dict[str, Any] = {}
    try:
        for pair in query.split(b"&"):
            name, _, value = pair.partition(b"=")
            if b"[" in name or b"%" in pair or b"+" in pair:
                _put(params, _unquote(name), _unquote(value))
            elif pair:
                params[name.decode()] = value.decode()
    except UnicodeDecodeError:
        http_error(400, "the query string is not UTF-8")
    return params


def _unquote(part: bytes) -> str:
    return unquote_to_bytes(part.replace(b"+", b" ")).decode()


def _put(params: dict[str, Any], name: str, value: str) -> None:
    """Store one value under its nested name: ``a[b][]`` is a list under ``b`` in a dict under ``a``."""
    head, bracket, rest = name.partition("[")
    keys = BRACKETS.findall(bracket + rest)
    if not head or "".join(f"[{key}]" for key in keys) != bracket + rest:
        head, keys = name, []
    place: Any = params
    for key, following in zip([head, *keys], [*keys, None], strict=True):
        found = place.get(key) if isinstance(place, dict) else None
        wanted: Any = value if following is None else [] if following == "" else {}
        if following is not None and isinstance(found, type(wanted)):
            wanted = found
        elif isinstance(place, dict):
            place[key] = wanted
        else:
            place.append(wanted)
        place = wanted
