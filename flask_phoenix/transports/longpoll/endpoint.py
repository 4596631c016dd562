"""The HTTP answers to clients that poll: every logical answer is HTTP 200, with the status inside its body."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from flask import Response, current_app, make_response, request
from werkzeug.exceptions import HTTPException

from ...exceptions import Refused
from ...protocol.json import Json
from ...runtime.engine import Engine
from ...server.upgrade import has_hung_up
from ..endpoint import Endpoint
from ..handshake import check_origin, http_error, parse_query
from ..options import Mount
from .registry import Sessions
from .session import GONE, NOT_UTF8, Session, text_line

TOKEN_HEADER = "x-phoenix-longpoll-token"
AUTH_HEADER = "x-phoenix-authtoken"
FORBIDDEN = 403
JSON_TYPE = "application/json; charset=utf-8"

#: Bytes of one POST, and lines of one batch; further lines are ignored (``transports/long_poll.ex``).
BODY_LIMIT = 8_000_000
BATCH = 100


class LongPollEndpoint(Endpoint):
    """Answers requests of clients that poll."""

    methods = ("GET", "POST", "OPTIONS")

    def __init__(self, engine: Engine, json: Json, mount: Mount) -> None:
        super().__init__(engine, json, mount)
        self.sessions = Sessions(engine, mount.url, _keys, mount.options)

    def view(self, **variables: Any) -> Response:
        """Answer a request; any page may read the answer, since the origin check is what refuses."""
        try:
            response = self._respond(variables)
        except HTTPException as refusal:
            response = make_response(refusal.get_response())
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    def _respond(self, variables: dict[str, Any]) -> Response:
        if not check_origin(self.mount):
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
            http_error(503)
        try:
            admission = self.admit(request.headers.get(AUTH_HEADER), variables)
        except Refused:
            admission = None
        if admission is None:
            return self._answer({"status": FORBIDDEN})
        self.serve_engine()
        client = _client()
        carrier, id, token = self.sessions.open(client)
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
        lines = self._lines()
        return GONE if session is None else session.dispatch(lines)

    def _session(self, ask: bool = True) -> tuple[str, Session | None]:
        """Find the client's session by its token: in the header, as newer clients send it, else in the query.

        Of several parameters of that name the last one is the client's: others may be the app's.
        """
        token = request.headers.get(TOKEN_HEADER) or parse_query(request.query_string).get("token")
        if not isinstance(token, str) or not token:
            return "", None
        return token, self.sessions.find(token, ask)

    def _lines(self) -> list[str]:
        """Read the body: in a batch, each line is text, or base64 of a binary frame."""
        size = request.content_length or 0
        if size > BODY_LIMIT:
            http_error(400)
        # get_data, since a before_request may have read the body already; one of no known size only up to the bound.
        try:
            body = request.get_data() if size else request.stream.read(BODY_LIMIT + 1)
        except OSError:  # the client has gone
            http_error(400)
        if len(body) > BODY_LIMIT:
            http_error(400)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return [NOT_UTF8]
        if request.content_type != "application/x-ndjson":
            return [text_line(text)]
        return [line for line in text.replace("\r\n", "\n").split("\n")[:BATCH] if line]

    def _answer(self, content: dict[str, Any]) -> Response:
        return _uncached(Response(self._body(content), content_type=JSON_TYPE))

    def _body(self, content: dict[str, Any]) -> bytes:
        return self.json.dumps(content).encode()


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
