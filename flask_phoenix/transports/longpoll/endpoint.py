"""The HTTP answers to clients that poll: every logical answer is HTTP 200, with the status inside its body."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
from flask import Response, current_app, make_response, request
from werkzeug.exceptions import HTTPException

from ...exceptions import Refused
from ...protocol.json import Json
from ...runtime.engine import Engine
from ...server.upgrade import has_hung_up, stop_reading
from ..endpoint import Endpoint
from ..handshake import http_error, parse_query
from ..options import Mount
from .registry import Sessions
from .session import GONE, NOT_UTF8, Session, text_line

TOKEN_HEADER = "x-phoenix-longpoll-token"
AUTH_HEADER = "x-phoenix-authtoken"
FORBIDDEN = 403
JSON_TYPE = "application/json; charset=utf-8"

#: Lines of one batch; further lines are ignored (``transports/long_poll.ex``).
BATCH = 100
#: Bytes of a body that are read at a time.
PIECE = 1 << 16


class LongPollEndpoint(Endpoint):
    """Answers requests of clients that poll."""

    methods = ("GET", "POST", "OPTIONS")

    def __init__(self, engine: Engine, json: Json, mount: Mount) -> None:
        super().__init__(engine, json, mount)
        self.sessions = Sessions(engine, mount.url, _keys, mount.options)
        # Base64 makes four characters of three bytes.
        self._body_limit = min(mount.options.max_body_size, BATCH * (mount.options.max_frame_size * 4 // 3 + 8))

    def view(self, **variables: Any) -> Response:
        """Answer a request; any page may read the answer, since the origin check is what refuses."""
        try:
            response = self._respond(variables)
        except HTTPException as refusal:
            response = make_response(refusal.get_response())
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    def _respond(self, variables: dict[str, Any]) -> Response:
        if not self.check_origin():
            return self._answer({"status": FORBIDDEN})
        match request.method:
            case "GET":
                return self._poll(variables)
            case "POST":
                return self._answer({"status": self._publish()})
            case "OPTIONS":
                return _preflight()
            case _:
                http_error(400)

    def _poll(self, variables: dict[str, Any]) -> Response:
        self.detect_server()
        token, session = self._session()
        if session is None:
            return self._open(variables)
        return _uncached(Response(self._frames(token, session, request.environ), content_type=JSON_TYPE))

    def _frames(self, token: str, session: Session, environ: dict[str, Any]) -> Iterator[bytes]:
        """Wait while the server iterates over the answer, after Flask has torn the request down.

        What does not reach the client, which may have gone, is the next poll's.
        """
        status, frames = session.poll()
        if frames and has_hung_up(environ):
            session.restore(frames)
            return
        reached = False
        try:
            yield self._body({"status": status, "token": token, "messages": frames})
            reached = True  # the server asks for more when it has written that
        finally:
            if frames and not reached:
                session.restore(frames)

    def _open(self, variables: dict[str, Any]) -> Response:
        """Begin a session, if the author lets the client in. Here the mount's error_handler is not asked."""
        if self.engine.draining:
            self.refuse_draining()
        with self.place() as place:
            try:
                admission = self.admit(request.headers.get(AUTH_HEADER), variables)
            except Refused:
                admission = None
            if admission is None:
                place.close()
                return self._answer({"status": FORBIDDEN})
            self.serve_engine()
            client = _client()
            carrier, id, token = self.sessions.open(client, place.close)
            carrier.serve(self.connect(admission, carrier))
        return _uncached(Response(self._token(client, id, token), content_type=JSON_TYPE))

    def _token(self, client: Hashable, id: str, token: str) -> Iterable[bytes]:
        """Hand out a session's token; later, after Flask has torn the request down, to one who uses no session."""
        sessions, body = self.sessions, self._body({"status": GONE, "token": token, "messages": []})

        def late() -> Iterator[bytes]:
            sessions.unused.wait(client)
            sessions.hand_out(client, id)
            yield body

        if sessions.unused.are_many(client):
            return late()
        sessions.hand_out(client, id)
        return [body]

    def _publish(self) -> int:
        _, session = self._session(ask=False)
        if session is None:
            return GONE  # without a look at the body, which may be anybody's
        with self._request_body() as body:
            return session.dispatch(_lines(body))

    def _session(self, ask: bool = True) -> tuple[str, Session | None]:
        """Find the client's session by its token: in the header, as newer clients send it, else in the query.

        Of several parameters of that name the last one is the client's: others may be the app's.
        """
        token = request.headers.get(TOKEN_HEADER) or parse_query(request.query_string).get("token")
        if not isinstance(token, str) or not token:
            return "", None
        return token, self.sessions.find(token, ask)

    @contextmanager
    def _request_body(self) -> Iterator[bytes]:
        """Read the body, within its bounds of size and time; what is above one piece counts until it is handled."""
        if (request.content_length or 0) > self._body_limit:
            http_error(400)
        with ExitStack() as held:
            timeout = gevent.Timeout.start_new(self.mount.options.body_timeout)
            try:
                body = self._read(held)
            except OSError:  # the client has gone
                http_error(400)
            except gevent.Timeout as expired:
                if expired is not timeout:
                    raise
                self.engine.reach("body_timeout", address=request.remote_addr)
                stop_reading(request.environ)  # nobody knows any more where the next request begins
                http_error(408)
            finally:
                timeout.close()
            yield body

    def _read(self, held: ExitStack) -> bytes:
        caps, pieces, size = self.engine.caps, list[bytes](), 0
        while piece := request.stream.read(PIECE):
            size += len(piece)
            if size > self._body_limit:
                http_error(400)
            if pieces:
                if not caps.hold(len(piece)):
                    self.refuse("bodies_total")
                held.callback(caps.release, len(piece))
            pieces.append(piece)
        # Or what a before_request has read already.
        return b"".join(pieces) or request.get_data()

    def _answer(self, content: dict[str, Any]) -> Response:
        return _uncached(Response(self._body(content), content_type=JSON_TYPE))

    def _body(self, content: dict[str, Any]) -> bytes:
        return self.json.dumps(content).encode()


def _lines(body: bytes) -> list[str]:
    """Take a body apart: in a batch, each line is text, or base64 of a binary frame."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return [NOT_UTF8]
    if request.content_type != "application/x-ndjson":
        return [text_line(text)]
    return [line for line in text.replace("\r\n", "\n").split("\n")[:BATCH] if line]


def _keys() -> list[Any]:
    """Return the app's secret keys, the one to sign with last."""
    return [*reversed(current_app.config.get("SECRET_KEY_FALLBACKS") or []), current_app.secret_key]


def _client() -> Hashable:
    """Return what tells clients apart, as well as can be: many may come from one address, or through one proxy."""
    query = b"&".join(pair for pair in request.query_string.split(b"&") if not pair.startswith(b"token="))
    headers = request.headers
    return request.remote_addr, headers.get("X-Forwarded-For"), headers.get("User-Agent"), query


def _preflight() -> Response:
    """Allow what a page of another origin asks for; whether it may is decided when it asks."""
    response = Response()
    response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "")
    response.headers["Access-Control-Allow-Methods"] = "get, post, options"
    response.headers["Access-Control-Max-Age"] = "3600"
    return response


def _uncached(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
