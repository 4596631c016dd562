"""Apps of others: hooks of Flask and WSGI middlewares on the way of a handshake, and of a first poll."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from flask import Flask, Request, Response, current_app, request, session
from flask.cli import routes_command
from flask.sessions import SecureCookieSessionInterface
from gevent import socket
from gevent.pywsgi import WSGIHandler, WSGIServer
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.profiler import ProfilerMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_phoenix import Phoenix, Refused, Socket
from flask_phoenix.server.upgrade import SOCKET
from tests.support.processes import HOST
from tests.support.wire import UPGRADE, Wire

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Handler(WSGIHandler):
    """Hands the request's socket over, as our own server does."""

    def get_environ(self) -> Any:
        return {**super().get_environ(), SOCKET: self.socket}


class Site:
    """An app with a socket, which something is done to; served in this process.

    :param early: before ``init_app``.
    """

    def __init__(self, change: Callable[[Flask], object] = bool, early: bool = False, **arguments: Any) -> None:
        self.app = Flask(__name__, **arguments)
        self.app.secret_key = "a secret for tests"
        if early:
            change(self.app)
        self.phoenix = Phoenix(self.app)
        if not early:
            change(self.app)
        self.calls = calls = list[tuple[Any, Any]]()

        @self.phoenix.socket("/socket", longpoll=True, connect_info=["uri"])
        @self.phoenix.socket("/shop/v1.0/<name>", longpoll=True)
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
                if "refuse" in params:
                    raise Refused("no")
                calls.append((params, info))

    @contextmanager
    def serve(self) -> Iterator[Callable[..., tuple[int, str, Wire]]]:
        """Serve the app; yields what sends a GET, and returns the status, the head and the rest of the answer."""
        server = WSGIServer((HOST, 0), self.app, handler_class=Handler, log=None)
        server.start()
        wires: list[Wire] = []

        def get(path: str, host: str = HOST, **headers: str) -> tuple[int, str, Wire]:
            sent = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
            wires.append(Wire(socket.create_connection((HOST, server.server_port or 0))))
            wires[-1].sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{sent}\r\n".encode())
            head = ""
            while not head.endswith("\r\n\r\n"):
                head += wires[-1].take(1).decode()
            return int(head.split()[1]), head, wires[-1]

        try:
            yield get
        finally:
            for wire in wires:
                wire.sock.close()
            server.stop()
            self.app.extensions["phoenix"].engine.stop()

    def works(self, path: str = "/socket", **options: Any) -> bool:
        """Tell whether both transports are served at a path."""
        with self.serve() as get:
            status, head, wire = get(f"{path}/websocket?vsn=2.0.0", **UPGRADE, **options)
            assert (status, head.count("HTTP/1.1")) == (101, 1), head
            wire.text('[null,"1","phoenix","heartbeat",{}]')
            assert wire.data() == '[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'
            wire.close()
            assert wire.close_code() == 1000
            assert get(f"{path}/websocket?refuse", **UPGRADE, **options)[0] == 403
            status, _, wire = get(f"{path}/longpoll?vsn=2.0.0", Connection="close", **options)
            body = b""
            while data := wire.sock.recv(65536):
                body += data
            return status == 200 and json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])["status"] == 410


# Hooks of Flask


class OwnResponse(Response):
    """A class of the app's own."""

    default_mimetype = "application/json"


class OwnRequest(Request):
    """A class of the app's own."""

    trusted_hosts = [HOST]  # noqa: RUF012


class OwnSessions(SecureCookieSessionInterface):
    """Sets a cookie with every answer."""

    def should_set_cookie(self, app: Flask, session: Any) -> bool:
        return True


def copied(response: Response) -> Response:
    """Make a new response of a response, as caches and compressors do."""
    return Response(response.get_data(), response.status, list(response.headers))


def read(response: Response) -> Response:
    """Read what hooks read of a response."""
    assert response.content_type is not None
    assert response.mimetype
    assert response.get_data() is not None
    response.headers["Content-Length"] = str(response.calculate_content_length())
    response.set_cookie("seen", "yes")
    return response


def look() -> None:
    """Look at the request, as hooks of extensions do."""
    assert request.endpoint is not None
    assert request.url_rule is not None
    assert request.blueprint is None or request.blueprint in current_app.blueprints
    assert request.host == HOST
    assert request.url_root == f"http://{HOST}/"
    assert request.values


def make_response(app: Flask) -> None:
    original = app.make_response
    app.make_response = lambda rv: copied(original(rv))  # type: ignore[method-assign]


def keep_session(app: Flask) -> None:
    app.session_interface = OwnSessions()
    app.before_request(lambda: session.update(n=1))


HOOKS: dict[str, Callable[[Flask], object]] = {
    "response_class": lambda app: setattr(app, "response_class", OwnResponse),
    "request_class": lambda app: setattr(app, "request_class", OwnRequest),
    "make_response": make_response,
    "after_request that reads": lambda app: app.after_request(read),
    "after_request that copies": lambda app: app.after_request(copied),
    "before_request": lambda app: app.before_request(look),
    "url_value_preprocessor": lambda app: app.url_value_preprocessor(
        lambda endpoint, values: (values or {}).pop("x", None)
    ),
    "teardown_request": lambda app: app.teardown_request(lambda error: None),
    "error handlers": lambda app: app.register_error_handler(Exception, lambda error: ("a page", 200)),
    "session": keep_session,
    "trapped errors": lambda app: app.config.update(TRAP_HTTP_EXCEPTIONS=True, TRAP_BAD_REQUEST_ERRORS=True),
}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("hook", HOOKS.values(), ids=list(HOOKS))
def test_hook_of_flask(hook: Callable[[Flask], object], early: bool) -> None:
    assert Site(hook, early).works()
    assert Site(hook, early).works("/shop/v1.0/7")


def test_a_hook_may_take_the_websocket_away() -> None:
    def deny(response: Response) -> Response:
        response.status_code = 418
        return response

    with Site(lambda app: app.after_request(deny)).serve() as get:
        status, _, _ = get("/socket/websocket", **UPGRADE)
        assert status == 418


def test_refusals_and_the_errors_that_an_app_traps() -> None:
    def gate() -> None:
        if "crash" in request.args:
            raise KeyError("of the author's")

    site = Site(lambda app: (app.config.update(TRAP_HTTP_EXCEPTIONS=True), app.before_request(gate)))
    with site.serve() as get:
        assert get("/socket/websocket?refuse", **UPGRADE)[0] == 403
        assert get("/socket/websocket", **UPGRADE, Origin="http://other.example")[0] == 403
        assert get("/socket/websocket")[0] == 400
        assert get("/socket/websocket?crash", **UPGRADE)[0] == 500


# Middlewares


def start_response_wrapped(app: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return app(environ, lambda status, headers, *info: start_response(status, [*headers, ("X-Outer", "1")], *info))

    return call


def write_forgotten(app: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        def start(status: str, headers: Any, exc_info: Any = None) -> None:
            start_response(status, headers)

        return app(environ, start)

    return call


def environ_copied(app: Wsgi) -> Wsgi:
    return lambda environ, start_response: app(dict(environ), start_response)


def replayed(app: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        first = app(environ, start_response)
        getattr(first, "close", bool)()
        return app(environ, lambda status, headers, *info: start_response(status, headers))

    return call


def generated(app: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield from app(environ, start_response)

    return call


def listed(app: Wsgi) -> Wsgi:
    return lambda environ, start_response: list(app(environ, start_response))


def nothing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("404 Not Found", [])
    return []


MIDDLEWARES: dict[str, Callable[[Any], Any]] = {
    "start_response wrapped": start_response_wrapped,
    "write forgotten": write_forgotten,
    "environ copied": environ_copied,
    "replayed": replayed,
    "generator": generated,
    "list": listed,
    "proxy": lambda app: ProxyFix(app, x_prefix=1),
    "dispatcher": lambda app: DispatcherMiddleware(app, {"/other": nothing}),
}


if sys.version_info < (3, 12):  # later ones have one profiler at a time, so that it serves no two requests at once
    MIDDLEWARES["profiler"] = lambda app: ProfilerMiddleware(app, stream=io.StringIO())


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("middleware", MIDDLEWARES.values(), ids=list(MIDDLEWARES))
def test_middleware(middleware: Callable[[Any], Any], early: bool) -> None:
    def wrap(app: Flask) -> None:
        app.wsgi_app = middleware(app.wsgi_app)  # type: ignore[method-assign]

    assert Site(wrap, early).works()


# Paths, hosts and rules


@pytest.mark.parametrize("path", ["/socket/", "//socket", "//socket//", "/shop//v1.0/7", "/shop/v1.0/7/"])
def test_empty_segments_of_a_path(path: str) -> None:
    def catch_all(app: Flask) -> None:
        app.add_url_rule("/<path:rest>", "page", lambda rest: rest)

    for site in (Site(), Site(catch_all), Site(lambda app: setattr(app.url_map, "merge_slashes", False))):
        assert site.works(path)
        assert [dict(params, vsn=None) for params, _ in site.calls] == 2 * [
            {"vsn": None} | ({"name": "7"} if "7" in path else {})
        ]


def test_slashes_at_the_end_of_a_path_and_in_other_paths() -> None:
    site = Site(lambda app: app.add_url_rule("/a/page", "page", lambda: "a page"))
    with site.serve() as get:
        absolute = "http://127.0.0.1/socket/websocket"  # RFC 6455, 4.2.1
        for path in ("/socket/websocket/", "/socket/websocket//", "/socket///websocket", absolute):
            assert get(path, **UPGRADE)[0] == 101
        assert [get(path)[0] for path in ("/a//page", "/other//page", "/socket//other")] == [308, 404, 404]


@pytest.mark.parametrize(
    ("arguments", "config", "hosts"),
    [
        ({"host_matching": True, "static_host": "static.example"}, {}, ["a.example", "b.example:4000"]),
        (
            {"subdomain_matching": True},
            {"SERVER_NAME": "example.com"},
            ["example.com", "a.example.com", "a.b.example.com"],
        ),
        ({}, {"SERVER_NAME": "example.com"}, ["example.com"]),
    ],
)
def test_hosts(arguments: dict[str, Any], config: dict[str, str], hosts: list[str]) -> None:
    for host in hosts:
        site = Site(lambda app: app.config.update(config), **arguments)
        assert site.works(host=host)
        assert site.works("/shop/v1.0/7/", host=host)
        assert [params.get("name") for params, _ in site.calls] == [None, None, "7", "7"]


def under_sub(app: Flask) -> None:
    app.wsgi_app = DispatcherMiddleware(nothing, {"/sub": app.wsgi_app})  # type: ignore[method-assign]


def behind_proxy(app: Flask) -> None:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1, x_host=1, x_proto=1)  # type: ignore[method-assign]


FORWARDED = {"X_Forwarded_Prefix": "/sub", "X_Forwarded_Host": "example.com", "X_Forwarded_Proto": "https"}


@pytest.mark.parametrize(
    ("change", "path", "headers", "uri"),
    [
        (under_sub, "/sub/socket", {}, {"scheme": "http", "host": HOST, "port": 80}),
        (behind_proxy, "/socket", FORWARDED, {"scheme": "https", "host": "example.com", "port": 443}),
    ],
)
def test_prefix(change: Callable[[Flask], None], path: str, headers: dict[str, str], uri: dict[str, Any]) -> None:
    site = Site(change)
    assert site.works(path, Origin=f"{uri['scheme']}://{uri['host']}", **headers)
    paths = [info["uri"].pop("path") for _, info in site.calls]
    assert paths == ["/sub/socket/websocket", "/sub/socket/longpoll"]
    assert site.calls[0][1]["uri"] == {**uri, "query": "vsn=2.0.0"}


def test_rules_have_what_others_read() -> None:
    app = Site().app
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("phoenix ")]
    assert len(rules) == 8
    for rule in rules:
        methods = rule.methods or set()
        assert "GET" in methods
        assert sorted(methods) == (["GET", "OPTIONS", "POST"] if rule.rule.endswith("longpoll") else ["GET"])
        assert rule.provide_automatic_options is False  # type: ignore[attr-defined]
        assert callable(app.view_functions[rule.endpoint])
    result = app.test_cli_runner().invoke(routes_command)
    assert result.exit_code == 0, result.output
    assert "/socket/websocket" in result.output


def test_an_app_whose_wsgi_app_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    def replace(app: Flask) -> None:
        app.wsgi_app = partial(Flask.wsgi_app, app)  # type: ignore[method-assign]

    with Site(replace).serve() as get:
        assert get("/socket/websocket", **UPGRADE)[0] == 501
    assert "wrap app.wsgi_app" in caplog.text
