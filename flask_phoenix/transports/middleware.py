"""The middleware: a WSGI layer around an app, which finds mounts at sloppy paths and lets WebSockets begin."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import BuiltinMethodType
from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException

from .missing import tell_missing
from .options import Mount

#: Where the view of an endpoint finds the :class:`Upgrade` of its request.
UPGRADE = "flask_phoenix.upgrade"
#: What begins a WebSocket.
STATUS = "101 Switching Protocols"
#: Headers that every response of Flask has, and that say nothing about a WebSocket.
_OF_A_BODY = ("content-type", "content-length")

#: What a path may have too much: the address before it (RFC 6455, 4.2.1), and empty segments.
_SUPERFLUOUS = re.compile("^(?i:https?)://[^/]*|(?<=/)/+")


class Upgrade:
    """What becomes of a request for a WebSocket.

    The view fills in :attr:`carry`. The frames are carried while the server iterates over the answer, after Flask has
    torn the request down, so that no context stays open and the teardown functions have run. This does not depend on
    the response object, which an app's ``response_class``, ``make_response`` or ``after_request`` may replace; only
    where one of them takes the status 101 away, there is no WebSocket.
    """

    __slots__ = ("_head", "_start_response", "_write", "answered", "carry", "hand_over", "sock", "upgraded")

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response
        self._write: Any = None
        self._head: list[tuple[str, str]] | None = None
        #: The app has answered.
        self.answered = False
        #: Carries the frames until the connection ends; None: the request is no WebSocket's.
        self.carry: Callable[[], None] | None = None
        #: Carries them after the request has ended, where the server can.
        self.hand_over: Callable[[Callable[[], None]], None] | None = None
        #: The request's socket.
        self.sock: Any = None
        #: The server has sent its own 101 already.
        self.upgraded = False

    @property
    def begins(self) -> bool:
        """Whether the app has answered with 101."""
        return self._head is not None

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take the app's status and headers, and give them to the server."""
        self.answered = True
        if self.carry is None or not status.startswith("101"):
            self.carry = None
            return self._start_response(status, headers, *([exc_info] if exc_info else ()))
        headers = [(name, value) for name, value in headers if name.lower() not in _OF_A_BODY]
        self._head = headers
        if not self.upgraded:
            self._write = self._start_response(STATUS, headers)
        return lambda data: None

    def follow(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Iterate over the app's answer, and over the WebSocket that it may become meanwhile."""
        try:
            for data in body:
                if not self.begins:
                    yield data
        finally:
            getattr(body, "close", bool)()
        if self.begins:
            # Nothing of the request is kept while frames are carried.
            del body
            if (carry := self._begin()) is not None:
                hand_over, self.hand_over = self.hand_over, None
                if hand_over is None:
                    carry()
                else:
                    hand_over(carry)

    def _begin(self) -> Callable[[], None] | None:
        """Send the head, and return what carries the frames; None: the client has hung up."""
        carry, self.carry = self.carry, None
        try:
            if not self.upgraded:
                self._send_head()
        except OSError:
            return None
        finally:
            self._start_response = self._write = self.sock = None
        return carry

    def _send_head(self) -> None:
        if self._write is not None:
            self._write(b"")
        # Some middlewares collect an answer until it ends, in a list; a WebSocket must have its head at once.
        server = getattr(self._write, "__self__", None)
        collected = self._write is None or isinstance(self._write, BuiltinMethodType)
        if collected or not getattr(server, "headers_sent", True):
            lines = [f"HTTP/1.1 {STATUS}", *(f"{name}: {value}" for name, value in self._head or ())]
            self.sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            self.hand_over = None  # they answer when it ends


class Middleware:
    """Stands between an app and the server, inside of middlewares that are added later.

    :param endpoint_prefix: how the names of the endpoints of mounts begin.
    :param mounts: returns the mounts of the app.
    """

    def __init__(self, app: Flask, endpoint_prefix: str, mounts: Callable[[], list[Mount]]) -> None:
        self._app = app
        self._mounts = mounts
        self._prefix = endpoint_prefix
        self._wsgi_app = app.wsgi_app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        if "//" in environ.get("PATH_INFO", ""):
            self._clean_path(environ)
        if self._app.debug:
            start_response = partial(self._start_response, environ, start_response)
        if "HTTP_UPGRADE" not in environ:
            return self._wsgi_app(environ, start_response)
        upgrade = environ[UPGRADE] = Upgrade(start_response)
        body = self._wsgi_app(environ, upgrade.start_response)
        return body if upgrade.answered and not upgrade.begins else upgrade.follow(body)

    def _start_response(
        self, environ: dict[str, Any], start_response: Any, status: str, headers: Any, exc_info: Any = None
    ) -> Any:
        """Give an answer to the server, and tell what is missing where there is nothing."""
        if status.startswith("404"):
            tell_missing(environ, self._mounts())
        return start_response(status, headers, *([exc_info] if exc_info else ()))

    def _clean_path(self, environ: dict[str, Any]) -> None:
        """Take what is superfluous out of a path to a mount, as Phoenix does; Werkzeug would redirect."""
        path: str = environ["PATH_INFO"]
        if not self._finds_mount(environ, path):
            clean = _SUPERFLUOUS.sub("", path)
            if self._finds_mount(environ, clean):
                environ["PATH_INFO"] = clean

    def _finds_mount(self, environ: dict[str, Any], path: str) -> bool:
        try:
            adapter = self._app.create_url_adapter(self._app.request_class(environ))
            assert adapter is not None
            rule, _ = adapter.match(path.encode("latin-1").decode(errors="replace"), return_rule=True)
        except HTTPException:
            return False
        return str(rule.endpoint).startswith(self._prefix)
