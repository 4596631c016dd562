"""How ``flask phoenix client`` reaches a server: over a WebSocket, or by polling. Blocking; no event loop."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from ssl import CERT_NONE, SSLCertVerificationError, SSLContext, create_default_context
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

from ..exceptions import PhoenixError
from ..protocol.messages import Frame
from ..transports.handshake import offer
from ..transports.options import SCHEMES

#: Seconds for a handshake, and for the answer to a request; a poll waits less than that.
TIMEOUT = 30.0

Headers = Sequence[tuple[str, str]]


class Lost(PhoenixError):
    """There is no connection, or no more."""


def address(url: str, transport: str, query: Sequence[tuple[str, str]]) -> str:
    """Return where a transport of a mount is: ``localhost:5000/socket`` is ``ws://localhost:5000/socket/websocket``."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    secure = parts.scheme in ("wss", "https")
    path = parts.path.rstrip("/")
    if not path.endswith(f"/{transport}"):
        path = f"{path}/{transport}"
    joined = "&".join(filter(None, [parts.query, urlencode(query)]))
    return urlunsplit((SCHEMES[transport][secure], parts.netloc, path, joined, ""))


def _in_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def trust(url: str, insecure: bool) -> SSLContext | None:
    """Return whose certificates are taken; None: there are none."""
    if urlsplit(url).scheme not in ("wss", "https"):
        return None
    context = create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, CERT_NONE
    return context


def refusal(url: str, answer: str, status: int | None) -> Lost:
    """Say that a server refuses, and where it says why."""
    remedies = {403: "; the log of the server says why", 404: "; flask phoenix routes shows what is mounted"}
    return Lost(f"{url} refuses: {answer}{remedies.get(status or 0, '')}")


def unreachable(url: str, error: Exception) -> Lost:
    """Say that a server cannot be reached."""
    remedy = "; --insecure takes any certificate" if isinstance(error, SSLCertVerificationError) else ""
    return Lost(f"cannot connect to {url}: {error}{remedy}")


class WebSocketCarrier:
    """Carries frames over a WebSocket.

    :param insecure: take any certificate.
    :raises Lost: the server cannot be reached, or refuses.
    """

    def __init__(self, url: str, headers: Headers, token: str | None, insecure: bool) -> None:
        self._stack = ExitStack()
        try:
            connecting = connect(
                url,
                additional_headers=headers,
                subprotocols=offer(token),
                open_timeout=TIMEOUT,
                max_size=None,
                close_timeout=1,
                ssl=trust(url, insecure),
            )
            self._socket = self._stack.enter_context(connecting)
        except InvalidStatus as error:
            status = error.response.status_code
            raise refusal(url, f"HTTP {status}", status) from error
        except (OSError, InvalidHandshake, ValueError) as error:
            raise unreachable(url, error) from error

    def send(self, frame: Frame) -> None:
        """Send a frame.

        :raises Lost: the connection is closed.
        """
        try:
            self._socket.send(frame)
        except ConnectionClosed as error:
            raise Lost(f"closed: {error}") from error

    def frames(self) -> Iterator[Any]:
        """Yield what comes.

        :raises Lost: the connection is closed.
        """
        try:
            while True:
                yield self._socket.recv()
        except ConnectionClosed as error:
            raise Lost(f"closed: {error}") from error

    def close(self) -> None:
        """Go away."""
        self._stack.close()


class LongPollCarrier:
    """Carries frames over requests.

    :param insecure: take any certificate.
    :raises Lost: the server cannot be reached, or refuses.
    """

    def __init__(self, url: str, headers: Headers, token: str | None, insecure: bool) -> None:
        self._url = url
        where, context = urlsplit(url).netloc, trust(url, insecure)
        self._polling, self._posting = (
            HTTPConnection(where, timeout=TIMEOUT)
            if context is None
            else HTTPSConnection(where, timeout=TIMEOUT, context=context)
            for _ in range(2)
        )
        self._headers = dict(headers)
        if token:
            self._headers["X-Phoenix-AuthToken"] = token
        answer = self._request(self._polling)
        if answer.get("status") != 410:
            self._polling.close()
            raise refusal(url, f"status {answer.get('status')}", answer.get("status"))
        self._headers["X-Phoenix-Longpoll-Token"] = answer["token"]

    def send(self, frame: Frame) -> None:
        """Send a frame.

        :raises Lost: the session has ended.
        """
        line = _in_base64(frame) if isinstance(frame, bytes) else frame
        answer = self._request(self._posting, line.encode())
        if answer.get("status") != 200:
            raise Lost(f"closed: status {answer.get('status')}")

    def frames(self) -> Iterator[Any]:
        """Yield what comes.

        :raises Lost: the session has ended.
        """
        while True:
            answer = self._request(self._polling)
            if answer.get("status") not in (200, 204):
                raise Lost(f"closed: status {answer.get('status')}")
            yield from answer.get("messages") or ()

    def close(self) -> None:
        """Go away: the server learns of it by the polls that do not come."""
        with suppress(OSError):
            if self._polling.sock is not None:
                self._polling.sock.shutdown(SHUT_RDWR)  # wakes whoever waits for a poll
        self._posting.close()

    def _request(self, connection: HTTPConnection, body: bytes | None = None) -> dict[str, Any]:
        parts = urlsplit(self._url)
        headers = {**self._headers, "Content-Type": "application/x-ndjson"} if body is not None else self._headers
        try:
            connection.request("GET" if body is None else "POST", f"{parts.path}?{parts.query}", body, headers)
            with connection.getresponse() as response:
                text = response.read()
            answer: dict[str, Any] = json.loads(text) if response.status == 200 else {}
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            raise unreachable(self._url, error) from error
        if response.status != 200:
            connection.close()
            raise refusal(self._url, f"HTTP {response.status}", response.status)
        return answer


#: What carries the frames of each transport.
CARRIERS: dict[str, Callable[[str, Headers, str | None, bool], WebSocketCarrier | LongPollCarrier]] = {
    "websocket": WebSocketCarrier,
    "longpoll": LongPollCarrier,
}
