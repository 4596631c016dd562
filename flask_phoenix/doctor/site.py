"""A site that runs: whether its clients can connect, stay connected, and poll."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from ..transports.handshake import offer
from ..transports.options import SCHEMES
from .findings import Finding, found

#: Seconds for a handshake and for the answer to a request.
TIMEOUT = 10.0
#: Seconds in which a heartbeat is to be answered, and a poll for which something has come.
PROMPT = 3.0
#: Seconds that a poll may take beyond its window.
MARGIN = 5.0
HEARTBEAT = '[null,"1","phoenix","heartbeat",{}]'
#: What a status in place of a WebSocket means, and what to do then.
STATUSES = {
    200: ("something else answers there", "look whether the path is that of the mount, and which server it leads to"),
    400: (
        "a proxy does not pass on the upgrade, or the request is no handshake",
        "pass on the headers: `proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;"
        " proxy_set_header Connection $connection_upgrade;` in nginx; and give --params if connect() needs some",
    ),
    401: ("something before the app asks who it is", "let the path of the mount through"),
    403: (
        "connect() refuses the client, or something before the app does",
        "give the doctor what connect() wants: --params NAME=VALUE, --auth-token, --header",
    ),
    404: (
        "no socket is mounted there, or the proxy leads elsewhere",
        "compare the path with those of `flask phoenix routes`, and see that the proxy keeps it",
    ),
    426: (
        "a proxy does not pass on the upgrade",
        "pass on the headers `Upgrade` and `Connection`, with `proxy_http_version 1.1;` in nginx",
    ),
    501: ("the server has no event loop", "serve with `gunicorn -k gevent`, `phoenix.run(app)` or `flask run`"),
    502: ("the proxy does not reach the app", "look whether the app runs, and at the address that the proxy has"),
    503: (
        "the app ends, is full, or cannot reach the other processes; or the proxy has no app",
        "read the app's log, which says which of these it is",
    ),
    504: ("the app does not answer the proxy in time", "look at what holds up the app's event loop"),
}


class Target(NamedTuple):
    """A mount of a site, for one transport.

    :param url: with the path of that transport.
    :param channels: its clients join channels, and send heartbeats.
    :param window: seconds that a poll waits.
    """

    url: str
    transport: str
    channels: bool = True
    window: float = 10.0


class Visit(NamedTuple):
    """How a site is looked at.

    :param query: the parameters of the connect.
    :param wait: seconds for which a connection is silent.
    :param headers: of each request.
    :param token: the client's auth token.
    """

    query: dict[str, str]
    wait: float
    headers: Sequence[tuple[str, str]] = ()
    token: str | None = None


def check(targets: list[Target], visit: Visit) -> list[Finding]:
    """Look at all targets at once."""
    jobs: list[tuple[Callable[[Target, Visit], Iterator[Finding]], Target]] = []
    for target in targets:
        kinds = (_check_websocket,) if target.transport == "websocket" else (_check_window, _check_delay)
        jobs += [(kind, target) for kind in kinds]
    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        answers = pool.map(lambda job: list(job[0](job[1], visit)), jobs)
        return list(dict.fromkeys(finding for each in answers for finding in each))


def _address(target: Target, visit: Visit) -> str:
    parts = urlsplit(target.url)
    secure = parts.scheme in ("wss", "https")
    return f"{SCHEMES[target.transport][secure]}://{parts.netloc}{parts.path}?{urlencode(visit.query)}"


# WebSockets


def _check_websocket(target: Target, visit: Visit) -> Iterator[Finding]:
    address = _address(target, visit)
    with ExitStack() as stack:
        opened = _open(address, None, visit, stack)
        if isinstance(opened, Finding):
            yield opened
            return
        yield from _check_page(address, visit)
        url = _shown(address)
        if target.channels and not _beats(opened):
            yield found("heartbeat", f"{url} answers no heartbeat within {PROMPT:g} s")
        elif (reason := _cut(opened, visit.wait)) or (target.channels and not _beats(opened)):
            why = reason or "it answers no heartbeat afterwards"
            yield found("silence", f"{url} does not live through {visit.wait:g} s of silence: {why}")


def _check_page(address: str, visit: Visit) -> Iterator[Finding]:
    """Connect as a page of the site itself does."""
    parts = urlsplit(address)
    origin = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
    with ExitStack() as stack:
        opened = _open(address, origin, visit, stack)
        if isinstance(opened, Finding):
            yield found("origin", f"{parts.path} lets clients in, but not those of pages of {origin}")


def _open(address: str, origin: Any, visit: Visit, stack: ExitStack) -> ClientConnection | Finding:
    """Connect; the stack closes it."""
    try:
        connecting = connect(
            address,
            origin=origin,
            additional_headers=visit.headers,
            subprotocols=offer(visit.token),
            open_timeout=TIMEOUT,
            close_timeout=1,
            ping_interval=None,
        )
        return stack.enter_context(connecting)
    except InvalidStatus as error:
        return _refused(_shown(address), error.response.status_code)
    except (OSError, InvalidHandshake, WebSocketException, ValueError) as error:
        wrong = f"{_shown(address)} cannot be reached: {error}"
        return found("handshake", wrong, "look whether it runs, and at its address")


def _shown(address: str) -> str:
    """Return an address without its parameters, which may be secrets."""
    return address.partition("?")[0]


def _refused(url: str, status: int) -> Finding:
    meaning, remedy = STATUSES.get(status, ("something before the app answers", "look at the proxy's log"))
    return found("handshake", f"{url} answers HTTP {status}: {meaning}", remedy)


def _beats(connection: ClientConnection) -> bool:
    """Send a heartbeat, and tell whether it is answered in time."""
    try:
        connection.send(HEARTBEAT)
        deadline = time.monotonic() + PROMPT
        while (left := deadline - time.monotonic()) > 0:
            if '"phx_reply"' in str(connection.recv(left)):
                return True
    except (OSError, WebSocketException):
        pass
    return False


def _cut(connection: ClientConnection, seconds: float) -> str:
    """Be silent for so long, and return why the connection has ended meanwhile; empty: it lives."""
    deadline = time.monotonic() + seconds
    try:
        while (left := deadline - time.monotonic()) > 0:
            connection.recv(left)
    except TimeoutError:
        return ""
    except (OSError, WebSocketException) as error:
        return f"it is closed ({error})"
    return ""


# Long polling


class _Polling:
    """One client that polls."""

    def __init__(self, target: Target, visit: Visit) -> None:
        self._url = urlsplit(_address(target, visit))
        self.shown = f"{self._url.scheme}://{self._url.netloc}{self._url.path}"
        self._headers = {**dict(visit.headers), **({"X-Phoenix-AuthToken": visit.token} if visit.token else {})}

    def ask(self, within: float, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """Poll, or hand in a body; return the HTTP status, and the answer.

        :raises OSError: there is no answer in time.
        :raises HTTPException: it is no HTTP.
        """
        kind = HTTPSConnection if self._url.scheme == "https" else HTTPConnection
        with closing(kind(self._url.netloc, timeout=within)) as connection:
            path = f"{self._url.path}?{self._url.query}"
            headers = {**self._headers, "Content-Type": "application/x-ndjson"}
            connection.request("GET" if body is None else "POST", path, body, headers)
            response = connection.getresponse()
            data = response.read()
        try:
            answer = json.loads(data)
        except ValueError:
            answer = {}
        if isinstance(answer, dict) and answer.get("token"):
            self._headers["X-Phoenix-Longpoll-Token"] = answer["token"]
        return response.status, answer if isinstance(answer, dict) else {}

    def open(self) -> Finding | None:
        """Begin a session; return what is wrong if there is none."""
        try:
            status, answer = self.ask(TIMEOUT)
        except (OSError, HTTPException) as error:
            remedy = "look whether it runs, and at its address"
            return found("handshake", f"{self.shown} cannot be reached: {error!r}", remedy)
        inner = answer.get("status", 404)
        if status == 200 and inner == 410:
            return None
        return _refused(self.shown, status if status != 200 else inner)


def _check_window(target: Target, visit: Visit) -> Iterator[Finding]:
    """See that a poll for which nothing comes lasts for its window."""
    polling = _Polling(target, visit)
    if refused := polling.open():
        yield refused
        return
    began = time.monotonic()
    try:
        status, _ = polling.ask(target.window + MARGIN)
        problem = "" if status == 200 else f"HTTP {status}"
    except (OSError, HTTPException) as error:
        problem = repr(error)
    if problem:
        lasted = time.monotonic() - began
        yield found("poll-window", f"{polling.shown} ends after {lasted:.1f} s of {target.window:g}: {problem}")


def _check_delay(target: Target, visit: Visit) -> Iterator[Finding]:
    """See that a poll is answered as soon as there is an answer for it."""
    polling = _Polling(target, visit)
    if not target.channels or polling.open():
        return  # what is refused is told already
    answered = threading.Event()

    def poll() -> None:
        try:
            if polling.ask(target.window + MARGIN)[1].get("messages"):
                answered.set()
        except (OSError, HTTPException):
            pass

    waiting = threading.Thread(target=poll, daemon=True)
    waiting.start()
    try:
        polling.ask(PROMPT, HEARTBEAT.encode())
    except (OSError, HTTPException) as error:
        yield found("poll-delay", f"{polling.shown} does not take a message: {error!r}")
        return
    if not answered.wait(PROMPT):
        yield found("poll-delay", f"{polling.shown} has an answer for a poll, which gets none within {PROMPT:g} s")
