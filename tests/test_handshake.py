"""The handshake: every refusal, what ``connect`` is told, the upgrade, and what of the app applies to it."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from flask import Blueprint, Flask, Request, Response, abort, g, render_template_string, request, session
from flask.testing import FlaskClient
from gevent import socket
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder, TestResponse

from flask_phoenix import Phoenix, RawSocket, Refused, Socket
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.protocol.messages import shown
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.server.upgrade import SOCKET
from flask_phoenix.testing import MemoryAdapter
from flask_phoenix.transports.handshake import QUERY_LIMIT, parse_query
from flask_phoenix.transports.options import INFO_KEYS
from tests.support.wire import ACCEPT, UPGRADE, Entry, Wire, open_foreign

URL = "/socket/websocket?vsn=2.0.0"
PREFIX = "base64url.bearer.phx."


class Call(NamedTuple):
    """The arguments of a call of ``connect``."""

    params: dict[str, Any]
    info: dict[str, Any]


#: Mounts a socket; returns the list to which each call of its ``connect`` is added.
Mounting = Callable[..., list[Call]]
#: Asks for a WebSocket: 101 if the client is admitted. Names of headers are written with underscores.
Asking = Callable[..., TestResponse]
#: Opens a WebSocket.
Entering = Callable[..., Entry]


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    app.secret_key = "a secret for tests"
    yield app
    app.extensions["phoenix"].engine.stop()


@pytest.fixture
def phoenix(app: Flask) -> Phoenix:
    return Phoenix(app)


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def mount(phoenix: Phoenix) -> Mounting:
    def mount(
        connect: Callable[[dict[str, Any]], Any] | None = None, at: str = "/socket", **options: Any
    ) -> list[Call]:
        calls: list[Call] = []

        @phoenix.socket(at, **options)
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
                calls.append(Call(params, info))
                return connect(params) if connect else None

        return calls

    return mount


@pytest.fixture
def ask(http: FlaskClient) -> Iterator[Asking]:
    with socket.socket() as ours:

        def ask(url: str = URL, environ: dict[str, Any] | None = None, base: str | None = None, **headers: str) -> Any:
            named = Headers(UPGRADE)
            named.update({name.replace("_", "-"): value for name, value in headers.items()})
            environ = {SOCKET: ours} if environ is None else environ
            return http.get(url, headers=named, environ_overrides=environ, base_url=base)

        yield ask


@pytest.fixture
def enter(app: Flask) -> Iterator[Entering]:
    opened: list[Entry] = []

    def enter(url: str = URL, foreign: bool = False, **headers: str) -> Entry:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        opened.append(Entry(app, url, named, foreign))
        return opened[-1]

    yield enter
    for each in opened:
        each.close()


def refuse(params: dict[str, Any]) -> None:
    raise Refused("rate_limit", retry=5)


def alive(opened: Entry) -> bool:
    """Tell whether the server answers on this WebSocket."""
    opened.wire.text('[null,"1","phoenix","heartbeat",{}]')
    return opened.wire.data() == '[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'


# Refusals


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["plain", "upgrade"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"])
def test_other_methods(http: FlaskClient, mount: Mounting, method: str, headers: dict[str, str]) -> None:
    calls = mount()
    answer = http.open(URL, method=method, headers=headers)
    assert (answer.status_code, answer.data) == (400, b"")
    assert not calls


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({"Connection": ""}, "'connection' header must contain 'upgrade', got []"),
        ({"Connection": "keep-alive"}, "'connection' header must contain 'upgrade', got ['keep-alive']"),
        ({"Upgrade": ""}, "'upgrade' header must contain 'websocket', got []"),
        ({"Upgrade": "h2c"}, "'upgrade' header must contain 'websocket', got ['h2c']"),
        ({"Connection": "upgrades"}, "'connection' header must contain 'upgrade', got ['upgrades']"),
        ({"Sec_WebSocket_Version": "8"}, "'sec-websocket-version' header must equal '13', got '8'"),
        ({"Sec_WebSocket_Version": "13, 8"}, "'sec-websocket-version' header must equal '13', got '13, 8'"),
    ],
)
def test_no_upgrade(ask: Asking, mount: Mounting, headers: dict[str, str], text: str) -> None:
    calls = mount()
    answer = ask(**headers)
    assert (answer.status_code, answer.mimetype) == (400, "text/plain")
    assert text in answer.text
    assert answer.headers["Sec-WebSocket-Version"] == "13"
    assert len(calls) == 1  # Phoenix asks connect before it looks at the headers


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, "a WebSocket needs HTTP/1.1"),
        ({"HTTP_HOST": None}, "'host' header is absent"),
        ({"HTTP_SEC_WEBSOCKET_KEY": None}, "'sec-websocket-key' header is absent"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": None}, "'sec-websocket-version' header is absent"),
    ],
)
def test_absent_header(ask: Asking, mount: Mounting, environ: dict[str, Any], text: str) -> None:
    mount()
    answer = ask(environ=environ)
    assert (answer.status_code, answer.text) == (400, text)


@pytest.mark.parametrize(
    "vsn", ["vsn=123.1.1", "vsn=2.1.0", "vsn=2.0", "vsn=", "vsn=abc", "vsn[]=2.0.0", "vsn[a]=2.0.0"]
)
def test_unknown_version(ask: Asking, mount: Mounting, vsn: str, caplog: pytest.LogCaptureFixture) -> None:
    calls = mount()
    answer = ask(f"/socket/websocket?{vsn}")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not calls
    assert "The client's requested transport version" in caplog.text


def test_error_handler(ask: Asking, mount: Mounting) -> None:
    def handler(refused: Refused) -> tuple[str, int, dict[str, str]]:
        return f"Too many requests: {refused.reason}", 429, {"Retry-After": str(refused.response["retry"])}

    mount(refuse, error_handler=handler)
    answer = ask()
    assert (answer.status_code, answer.text) == (429, "Too many requests: rate_limit")
    assert answer.headers["Retry-After"] == "5"
    # It is not asked where it was not the author who refused.
    assert ask("/socket/websocket?vsn=9.0.0").status_code == ask(Origin="http://other.example").status_code == 403


@pytest.mark.parametrize("body", [{"error": "no"}, Response("no", 418), "no"])
def test_error_handler_answers_what_a_view_may(ask: Asking, mount: Mounting, body: Any) -> None:
    mount(refuse, error_handler=lambda refused: body)
    assert "no" in ask().text


def test_connect_that_raises(app: Flask, ask: Asking, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount(lambda params: 1 / 0)
    assert ask().status_code == 500
    assert "ZeroDivisionError" in caplog.text
    app.testing = True
    with pytest.raises(ZeroDivisionError):
        ask()


@pytest.mark.parametrize("value", [False, True, {}, "ok"])
def test_connect_that_returns_something(
    ask: Asking, mount: Mounting, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mount(lambda params: value)
    answer = ask()
    assert (answer.status_code, answer.data) == (403, b"")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"UserSocket.connect returned {value!r}" in record.getMessage()
    assert "raise Refused('why')" in record.getMessage()


@pytest.mark.parametrize("name", [7, b"user:7", ("user", 7), True])
def test_id_that_is_no_string(ask: Asking, phoenix: Phoenix, name: Any, caplog: pytest.LogCaptureFixture) -> None:
    @phoenix.socket("/socket")
    class UserSocket(Socket):
        def id(self) -> Any:
            return name

    answer = ask()
    assert (answer.status_code, answer.data) == (403, b"")
    assert f"UserSocket.id returned {name!r}" in caplog.text


def test_server_without_websockets(ask: Asking, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount()
    answer = ask(environ={})
    assert answer.status_code == 501
    for text in (answer.text, caplog.text):
        assert all(command in text for command in ("flask run", "phoenix.run(app)", "gunicorn -k gevent"))


def test_draining(app: Flask, ask: Asking, mount: Mounting) -> None:
    calls = mount()
    app.extensions["phoenix"].engine.draining = True
    answer = ask()
    assert (answer.status_code, answer.data) == (503, b"")
    assert not calls


class Unready(MemoryAdapter):
    """Cannot start."""

    def start(self, *arguments: Any) -> None:
        raise PhoenixError("the sockets of the workers cannot be: use a shorter path")


@pytest.mark.parametrize("foreign", [False, True])
def test_a_node_that_cannot_start(foreign: bool, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask(__name__)
    Phoenix(app, adapter=Unready([])).socket("/socket")(Socket)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {"wsgi.websocket": open_foreign(ours)} if foreign else {SOCKET: ours}
        assert app.test_client().get(URL, headers=UPGRADE, environ_overrides=environ).status_code == 503
    (record,) = caplog.records
    assert record.getMessage() == (
        "refused a client of /socket, which cannot be served: the sockets of the workers cannot be: use a shorter path"
    )
    app.extensions["phoenix"].engine.stop()


@pytest.mark.parametrize("serving", [True, False])
def test_drain_while_a_client_is_admitted(
    app: Flask, ask: Asking, mount: Mounting, serving: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mount(lambda params: setattr(app.extensions["phoenix"].engine, "draining", "drain" in params))
    if serving:
        assert ask().status_code == 101
    assert ask(f"{URL}&drain").status_code == 503
    assert not caplog.records


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        (URL, {"Origin": f"http://{'x' * 5000}.example"}),
        (URL, {"Origin": "http://x\x1b[31m.example"}),
        (URL, {"Sec_WebSocket_Protocol": f"\x1b{'y' * 5000}"}),
        (f"/socket/websocket?vsn={'9' * 5000}.0.0", {}),
        ("/socket/websocket?vsn=%1b[31m" + "z" * 5000, {}),
    ],
)
def test_log_lines_hold_little_of_a_clients_text(
    ask: Asking, mount: Mounting, url: str, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    mount(auth_token=True)
    assert ask(url, **headers).status_code == 403
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 400


def test_values_of_clients_in_log_lines() -> None:
    deep: Any = "x"
    for _ in range(5000):
        deep = [deep]
    for value in (
        "x" * 10_000,
        "\x1b\n\u202e",
        b"\xff" * 1000,
        10**5000,
        -(10**5000),
        deep,
        [["x" * 999] * 99],
        {"a": 1.5},
    ):
        assert shown(value).isprintable()
        assert len(shown(value)) < 4 * 200 + 10
    assert shown("r\u00f6m:1\n") == "'r\u00f6m:1\\n'"


def test_order_of_the_questions(ask: Asking, mount: Mounting) -> None:
    """Each step of the handshake is passed only when those before it are."""
    calls = mount(refuse, check_origin=["//a.example"], auth_token=True, error_handler=lambda refused: ("", 418))
    wrong = {
        "Origin": "http://b.example",
        "Sec_WebSocket_Protocol": f"mqtt, {PREFIX}!!!",
        "Connection": "close",
    }
    assert ask("/socket/websocket?vsn=9.0.0", **wrong).status_code == 403
    wrong["Origin"] = "http://a.example"
    assert ask("/socket/websocket?vsn=9.0.0", **wrong).status_code == 403  # the token
    wrong["Sec_WebSocket_Protocol"] = "mqtt"
    assert ask("/socket/websocket?vsn=9.0.0", **wrong).status_code == 403  # the subprotocol
    wrong["Sec_WebSocket_Protocol"] = "phoenix"
    assert ask("/socket/websocket?vsn=9.0.0", **wrong).status_code == 403  # the version
    assert not calls
    assert ask(**wrong).status_code == 418  # the author
    assert len(calls) == 1


# The origin


@pytest.mark.parametrize(
    ("rule", "base", "origin", "allowed"),
    [
        (True, "http://example.com", "https://example.com:8443", True),
        (True, "http://example.com", "http://notallowed.com", False),
        (False, "http://example.com", "http://notallowed.com", True),
        (["//example.org"], "http://example.com", "https://example.org", True),
        (["//example.org"], "http://example.com", "http://example.com", False),
        (":conn", "http://example.com", "http://example.com", True),
        (":conn", "https://example.com", "https://example.com", True),
        (":conn", "https://example.com", "https://example.com:4000", False),
        (":conn", "http://[::1]:4000", "http://[::1]:4000", True),
        (":conn", "http://xn--bcher-kva.example", "http://xn--bcher-kva.example", True),
        (True, "http://xn--bcher-kva.example:81", "https://XN--bcher-kva.example", True),
        (True, "http://xn--bcher-kva.example", "https://xn--bcher-kvb.example", False),
        (lambda origin: origin.path == "anything", "http://example.com", "anything", True),
    ],
)
def test_origin(ask: Asking, mount: Mounting, rule: Any, base: str, origin: str, allowed: bool) -> None:
    mount(check_origin=rule)
    assert ask(base=base).status_code == 101
    assert ask(base=base, Origin=origin).status_code == (101 if allowed else 403)


def test_trusted_hosts(app: Flask, ask: Asking, mount: Mounting) -> None:
    # Where Flask 3.1 keeps its setting TRUSTED_HOSTS.
    app.request_class = type("TrustingRequest", (Request,), {"trusted_hosts": ["localhost"]})
    mount()
    assert ask(Origin="http://localhost").status_code == 101
    assert ask(Host="stranger.example", Origin="http://stranger.example").status_code == 400


def test_the_host_that_a_proxy_was_asked_for(app: Flask, ask: Asking, mount: Mounting) -> None:
    mount()
    told = {"Origin": "https://shop.example", "X_Forwarded_Host": "shop.example"}
    assert ask(**told).status_code == 403
    app.wsgi_app = ProxyFix(app.wsgi_app, x_host=1)  # type: ignore[method-assign]
    assert ask(**told).status_code == 101


def test_refused_origin_is_explained(ask: Asking, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount(check_origin=["//example.org"])
    answer = ask(Origin="http://notallowed.com")
    assert (answer.status_code, answer.data) == (403, b"")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("flask_phoenix.handshake", logging.ERROR)
    remedy = '@phoenix.socket(..., check_origin=["//example.org", "http://notallowed.com"])'
    assert remedy in record.getMessage()


@pytest.mark.parametrize("host", ["a:99999", "a:abc", "[::1", "a b", "\xe9"])
def test_origin_with_an_impossible_host(app: Flask, mount: Mounting, host: str) -> None:
    mount()
    statuses: list[str] = []
    environ = EnvironBuilder(URL, headers=[*UPGRADE.items(), ("Origin", "http://example.com")]).get_environ()
    # Not by Flask's client: that of Werkzeug before 3.1.9 reads the host too, and raises.
    app({**environ, "HTTP_HOST": host}, lambda status, headers, error=None: statuses.append(status))  # type: ignore[arg-type]
    assert statuses[0][:3] in ("400", "403")


# The auth token and subprotocols


@pytest.mark.parametrize("token", ["1234", "a", "ab", "abc", "", "\u00e9\u20ac", "??>>~~", "x" * 1000])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_auth_token(ask: Asking, mount: Mounting, token: str, encode: Any, padded: bool) -> None:
    calls = mount(auth_token=True)
    encoded = encode(token.encode()).decode()
    offered = f"phoenix, {PREFIX}{encoded if padded else encoded.rstrip('=')}"
    assert ask(Sec_WebSocket_Protocol=offered).status_code == 101
    assert calls[0].info["auth_token"] == token


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (f"phoenix, {PREFIX}MTIzNA", "1234"),
        (f"{PREFIX}MTIzNA", "1234"),
        (f"phoenix,{PREFIX}6fw", "\xe9\xfc"),  # what btoa makes of Latin-1
        ("phoenix", None),
        (f"phoenix, {PREFIX}MTIzNA, {PREFIX}NTY3OA", None),
    ],
)
def test_one_auth_token_or_none(ask: Asking, mount: Mounting, header: str, token: str | None) -> None:
    calls = mount(auth_token=True)
    answer = ask(Sec_WebSocket_Protocol=header)
    assert answer.status_code == 101
    assert answer.headers.get("Sec-WebSocket-Protocol") == ("phoenix" if header.startswith("phoenix") else None)
    assert calls[0].info["auth_token"] == token


@pytest.mark.parametrize("token", ["!!!", "MTIz NA", "M", "MT=IzNA", "\xe9"])
def test_auth_token_that_is_not_base64(
    ask: Asking, mount: Mounting, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = mount(auth_token=True)
    answer = ask(Sec_WebSocket_Protocol=f"phoenix, {PREFIX}{token}")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not calls
    assert "auth token" in caplog.text
    assert token not in caplog.text


@pytest.mark.parametrize(
    ("options", "offered", "chosen"),
    [
        ({}, "phoenix, 123", "phoenix"),
        ({}, "mqtt", None),
        ({"subprotocols": ["sip"]}, "mqtt, sip", "sip"),
        ({"subprotocols": ["sip", "mqtt"]}, "mqtt, sip", "sip"),
        ({"subprotocols": ["sip"]}, "phoenix", "phoenix"),
        ({"auth_token": True, "subprotocols": ["sip"]}, "sip", "sip"),
    ],
)
def test_subprotocol(ask: Asking, mount: Mounting, options: dict[str, Any], offered: str, chosen: str | None) -> None:
    mount(**options)
    answer = ask(Sec_WebSocket_Protocol=offered)
    assert (answer.status_code, answer.headers.get("Sec-WebSocket-Protocol")) == (101, chosen)
    assert "Sec-WebSocket-Protocol" not in ask().headers


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({"subprotocols": ["sip"]}, "mqtt"),
        ({"subprotocols": ["sip"]}, "SIP"),
        ({"subprotocols": []}, "mqtt"),
        ({"auth_token": True}, "mqtt"),
    ],
)
def test_subprotocol_refused(
    ask: Asking, mount: Mounting, options: dict[str, Any], offered: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls = mount(**options)
    answer = ask(Sec_WebSocket_Protocol=offered)
    assert (answer.status_code, answer.data) == (403, b"")
    assert not calls
    assert f"a client of /socket: it offers the subprotocols '{offered}'" in caplog.text


# The query string


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("a&b=&=1", {"a": "", "b": "", "": "1"}),
        ("a=1=2", {"a": "1=2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a+b=c+d", {"a b": "c d"}),
        ("a=%2B%26%3D&e=%C3%A9", {"a": "+&=", "e": "\u00e9"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("b[c]=2&b[d]=3&b[d]=4", {"b": {"c": "2", "d": "4"}}),
        ("b[c][d]=1&b%5Bc%5D%5Be%5D=2", {"b": {"c": {"d": "1", "e": "2"}}}),
        ("d[]=3&d[]=4", {"d": ["3", "4"]}),
        ("d[]", {"d": [""]}),
        ("d[e][]=3&d[e][]=4", {"d": {"e": ["3", "4"]}}),
        ("d[][e]=3&d[][e]=4&f[][]=1", {"d": [{"e": "3"}, {"e": "4"}], "f": [["1"]]}),
        ("user[id]=1&user[tags][0]=a&user[tags][1]=b", {"user": {"id": "1", "tags": {"0": "a", "1": "b"}}}),
        ("[a]=1&a[=1&a[b=1&a]=1", {"[a]": "1", "a[": "1", "a[b": "1", "a]": "1"}),
        ("a[b]c=1&a[b]c[d]=1", {"a[b]c": "1", "a[b]c[d]": "1"}),
        # Of contradictory keys the last wins.
        ("a=1&a[b]=2", {"a": {"b": "2"}}),
        ("a[b]=1&a=2", {"a": "2"}),
        ("a[]=1&a[b]=2", {"a": {"b": "2"}}),
        ("a[b]=1&a[]=2", {"a": ["2"]}),
        ("a[b]=1&a[b][c]=2", {"a": {"b": {"c": "2"}}}),
        ("a[b][c]=1&a[b]=2", {"a": {"b": "2"}}),
    ],
)
def test_query(query: str, params: dict[str, Any]) -> None:
    assert parse_query(query.encode()) == params


def test_deep_query() -> None:
    params = parse_query(b"a" + b"[a]" * 100_000 + b"=1")
    for _ in range(100_000):
        params = params["a"]
    assert params == {"a": "1"}


def test_long_query(ask: Asking, mount: Mounting) -> None:
    mount()
    assert len(parse_query(b"a=" + b"x" * (QUERY_LIMIT - 2))["a"]) == QUERY_LIMIT - 2
    assert ask(f"/socket/websocket?{'x' * (QUERY_LIMIT + 1)}").status_code == 414


@pytest.mark.parametrize("query", ["a=%", "a=%4", "a=%zz", "%4x=1", "b=%u0041", "a=%FF", "%C3=1", "a=%ED%A0%80"])
def test_broken_query(ask: Asking, mount: Mounting, query: str) -> None:
    calls = mount()
    assert ask(f"{URL}&{query}").status_code == 400
    assert not calls


@given(st.text(alphabet="ab[]=&+%4", max_size=30))
def test_any_query_is_read_or_refused(query: str) -> None:
    try:
        answer: Any = parse_query(query.encode())
    except HTTPException as refusal:
        answer = refusal.get_response().status_code
    assert isinstance(answer, dict) or answer == 400


# What connect is told


HEADERS = {
    "X_Application": "Phoenix",
    "X_Real_Ip": "10.0.0.1",
    "traceparent": "00-trace",
    "tracestate": "a=b",
    "User_Agent": "foo/1.0",
    "Cookie": "secret=1",
    "Authorization": "Bearer secret",
    "Sec_WebSocket_Protocol": "phoenix, 123",
}
PLACE = {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "4711"}


def test_connect_info(ask: Asking, mount: Mounting) -> None:
    calls = mount(connect_info=[*INFO_KEYS])
    ask(f"{URL}&a=%20", base="http://example.com:8080", environ=PLACE, **HEADERS)
    ((_, info),) = calls
    assert info["peer_data"] == {"address": "127.0.0.1", "port": 4711}
    assert sorted(info["x_headers"]) == [("x-application", "Phoenix"), ("x-real-ip", "10.0.0.1")]
    assert sorted(info["trace_context_headers"]) == [("traceparent", "00-trace"), ("tracestate", "a=b")]
    assert ("sec-websocket-protocol", "phoenix, 123") in info["sec_websocket_headers"]
    assert ("sec-websocket-version", "13") in info["sec_websocket_headers"]
    assert info["user_agent"] == "foo/1.0"
    uri = {
        "scheme": "http",
        "host": "example.com",
        "port": 8080,
        "path": "/socket/websocket",
        "query": "vsn=2.0.0&a=%20",
    }
    assert info["uri"] == uri
    assert info["session"] is None
    assert "secret" not in repr(info)


@pytest.mark.parametrize(
    ("base", "scheme", "host", "port", "path"),
    [
        ("http://example.com", "http", "example.com", 80, "/socket/websocket"),
        ("https://Example.com/", "https", "example.com", 443, "/socket/websocket"),
        ("https://xn--bcher-kva.example:444", "https", "xn--bcher-kva.example", 444, "/socket/websocket"),
        ("http://[::1]:4000/sub/", "http", "[::1]", 4000, "/sub/socket/websocket"),
    ],
)
def test_uri(ask: Asking, mount: Mounting, base: str, scheme: str, host: str, port: int, path: str) -> None:
    calls = mount(connect_info=["uri"])
    ask(base=base)
    assert calls[0].info["uri"] == {"scheme": scheme, "host": host, "port": port, "path": path, "query": "vsn=2.0.0"}


def test_what_is_not_there_is_empty(ask: Asking, mount: Mounting) -> None:
    calls = mount(connect_info=[*INFO_KEYS])
    ask(environ={"HTTP_USER_AGENT": None})
    ((_, info),) = calls
    assert info["x_headers"] == info["trace_context_headers"] == []
    assert info["user_agent"] is None
    assert info["peer_data"]["port"] is None


def test_connect_is_told_what_the_mount_lists(ask: Asking, mount: Mounting) -> None:
    calls = mount(), mount(at="/o", connect_info=["user_agent", {"salt": "x"}, {"region": None}], auth_token=True)
    for path in ("/socket", "/o"):
        ask(f"{path}/websocket", User_Agent="foo/1.0")
    told = [info for ((_, info),) in calls]
    assert told == [{}, {"user_agent": "foo/1.0", "salt": "x", "region": None, "auth_token": None}]
    for key, remedy in (("uri", "connect_info=['uri']"), ("auth_token", "auth_token=True"), ("cookies", "user_agent")):
        with pytest.raises(KeyError, match=f"'{key}'") as missing:
            told[0][key]
        assert remedy in str(missing.value)


@pytest.mark.parametrize(
    ("kept", "options", "query", "given"),
    [
        ({"_csrf_token": "tok\u00e9n", "user": 7}, {}, "_csrf_token=tok%C3%A9n", True),
        ({"_csrf_token": "token"}, {}, "", False),
        ({"_csrf_token": "token"}, {}, "_csrf_token=", False),
        ({"_csrf_token": "token"}, {}, "_csrf_token=other", False),
        ({"_csrf_token": "token"}, {}, "_csrf_token[]=token", False),
        ({"user": 7}, {}, "_csrf_token=None", False),
        ({}, {}, "_csrf_token=token", False),
        ({"user": 7}, {"check_csrf": False}, "", True),
        ({"k": "abc", "_csrf_token": "def"}, {"csrf_token_key": "k"}, "_csrf_token=abc", True),
        ({"k": "abc", "_csrf_token": "def"}, {"csrf_token_key": "k"}, "_csrf_token=def", False),
    ],
)
def test_session(
    http: FlaskClient,
    ask: Asking,
    mount: Mounting,
    kept: dict[str, Any],
    options: dict[str, Any],
    query: str,
    given: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = mount(connect_info=["session"], **options)
    with http.session_transaction() as kept_session:
        kept_session.update(kept)
    for _ in range(2):
        ask(f"{URL}&{query}")
    assert [call.info["session"] for call in calls] == [kept if given else None] * 2
    assert caplog.text.count("is not told to connect") == (bool(kept) and not given)


def test_a_session_without_its_csrf_token_is_hinted_at_once(
    http: FlaskClient, ask: Asking, mount: Mounting, caplog: pytest.LogCaptureFixture
) -> None:
    mount(connect_info=["session"], csrf_token_key="k")
    with http.session_transaction() as kept:
        kept["user"] = 7
    for query in ("", "", "_csrf_token=other", "_csrf_token=another"):
        ask(f"{URL}&{query}")
    none, other = (record.getMessage() for record in caplog.records)
    assert "/socket is not told to connect: the client sends no _csrf_token" in none
    assert "{{ phoenix_csrf_token('k') }}" in none
    assert "is not that of its session" in other


def test_session_without_a_secret_key(app: Flask, ask: Asking, mount: Mounting) -> None:
    app.secret_key = None
    calls = mount(connect_info=["session"])
    ask(Cookie="session=x")
    assert calls[0].info["session"] is None


def test_csrf_token_gives_the_session(
    app: Flask, phoenix: Phoenix, http: FlaskClient, ask: Asking, mount: Mounting
) -> None:
    @app.get("/")
    def page() -> dict[str, str]:
        session["user"] = 7
        again = render_template_string("{{ phoenix_csrf_token() }}")
        other = render_template_string("{{ phoenix_csrf_token('other') }}")
        assert other == phoenix.csrf_token("other")
        return {"token": phoenix.csrf_token(), "again": again, "other": other}

    calls = mount(connect_info=["session"])
    tokens = http.get("/").get_json()
    assert len(tokens["token"]) >= 32
    assert tokens["token"] == tokens["again"] != tokens["other"]
    ask(f"{URL}&_csrf_token={tokens['token']}")
    assert calls[0].info["session"]["user"] == 7


def test_path_variables_win_over_parameters(ask: Asking, mount: Mounting) -> None:
    calls = mount(at="/shop/<name>/<int:_number>", path="<int:size>")
    ask("/shop/caf%C3%A9/4/5?key=value&name=query&_number=query")
    assert calls[0].params == {"key": "value", "name": "caf\u00e9", "_number": "query", "size": "5"}


def test_socket_in_connect(phoenix: Phoenix, enter: Entering) -> None:
    @phoenix.socket("/socket")
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            assert (params is self.params, self.transport, request.path) == (True, "websocket", "/socket/websocket")
            self.assigns["user"] = params["user"]

        def id(self) -> str:
            return f"user:{self.assigns['user']}"

    opened = enter(f"{URL}&user=7")
    assert alive(opened)
    phoenix.disconnect("user:7")
    assert opened.wire.close_code() == 1001


# After a 101 that gevent-websocket has sent before anybody was asked


@pytest.mark.parametrize(
    ("connect", "headers", "code"),
    [
        (refuse, {}, 1008),
        (lambda params: False, {}, 1008),
        (None, {"Origin": "http://other.example"}, 1008),
        (lambda params: 1 / 0, {}, 1011),
        ("draining", {}, 1012),
    ],
)
def test_refusal_after_a_foreign_101(
    app: Flask, ask: Asking, mount: Mounting, connect: Any, headers: dict[str, str], code: int
) -> None:
    mount(None if connect == "draining" else connect, error_handler=lambda refused: ("Too many requests", 429))
    app.extensions["phoenix"].engine.draining = connect == "draining"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        answer = ask(environ={"wsgi.websocket": open_foreign(ours)}, **headers)
        assert Wire(theirs).close_code() == code
    assert (answer.status_code == 429) == (connect is refuse)


# The upgrade


def test_upgrade(mount: Mounting, enter: Entering) -> None:
    mount()
    for headers in ({}, {"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket"}):
        opened = enter(**headers)
        assert opened.status == "101 Switching Protocols"
        assert opened.headers == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
        assert opened.written == [b""]  # the head leaves at once
        assert alive(opened)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec_WebSocket_Protocol": ""},
        {"Sec_WebSocket_Protocol": ", ,"},
        {"Sec_WebSocket_Protocol": f"{PREFIX}M/+=="},
        {"Sec_WebSocket_Protocol": "a b, (c), d=@"},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": ""},
        {"Sec_WebSocket_Version": " 13 "},
        {"Sec_WebSocket_Extensions": ""},
        {"Sec_WebSocket_Extensions": "permessage-deflate; =, x; y="},
        {"Connection": "keep-alive, , UPGRADE"},
        {"Upgrade": "h2c, WebSocket"},
        {"Host": "EXAMPLE.com:99"},
    ],
)
def test_headers_that_phoenix_accepts(ask: Asking, mount: Mounting, headers: dict[str, str]) -> None:
    mount()
    mount(at="/other", compress=True, auth_token=True, subprotocols=["d=@"])
    assert ask(**headers).status_code == 101
    assert ask("/other/websocket?vsn=2.0.0", **headers).status_code == 101


@pytest.mark.parametrize("path", ["/socket", "/socket/", "/socket/other", "/socket/websocket/other"])
def test_nothing_else_is_there(ask: Asking, http: FlaskClient, mount: Mounting, path: str) -> None:
    mount()
    assert (http.get(path).status_code, ask(path).status_code) == (404, 404)


@pytest.mark.parametrize("compress", [True, False])
def test_compression(mount: Mounting, enter: Entering, compress: bool) -> None:
    mount(compress=compress)
    opened = enter(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    assert opened.headers.get("Sec-WebSocket-Extensions", "").startswith("permessage-deflate") == compress
    for topic in ("short", "long " * 200):
        opened.wire.text(f'["1","1","{topic}","phx_join",{{}}]')
        assert opened.wire.frame().rsv1 == (compress and len(topic) > 512)
    assert "Sec-WebSocket-Extensions" not in enter(Sec_WebSocket_Extensions="x-unheard-of").headers
    offers = "x; =, permessage-deflate; client_max_window_bits=99, permessage-deflate; server_no_context_takeover"
    agreed = enter(Sec_WebSocket_Extensions=offers).headers.get("Sec-WebSocket-Extensions")
    alike = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert agreed == (alike if compress else None)


def test_client_that_is_gone_before_the_101(app: Flask, mount: Mounting) -> None:
    def gone(data: bytes) -> None:
        raise BrokenPipeError

    mount()
    with socket.socket() as ours:
        environ = {**EnvironBuilder(URL, headers=Headers(UPGRADE)).get_environ(), SOCKET: ours}
        assert list(app(environ, lambda status, headers, exc_info=None: gone)) == []
    assert not app.extensions["phoenix"].engine.connections


def test_foreign_101(mount: Mounting, enter: Entering) -> None:
    mount(compress=True)
    opened = enter(foreign=True, Sec_WebSocket_Extensions="permessage-deflate")
    assert (opened.status, opened.written) == ("", [])
    assert alive(opened)  # uncompressed: the other server has agreed on nothing


def test_limits_of_the_mount(mount: Mounting, enter: Entering) -> None:
    mount(max_frame_size=100, timeout=0.2)
    opened = enter()
    opened.wire.text("x" * 101)
    assert opened.wire.close_code() == 1009
    assert enter().wire.close_code() == 1002


def test_versions_of_the_mount(phoenix: Phoenix, ask: Asking, enter: Entering) -> None:
    phoenix.socket("/socket", serializer=[(V2Serializer, "~> 3.0.0")])(Socket)
    assert alive(enter("/socket/websocket?vsn=3.0.0"))
    assert ask().status_code == 403


@pytest.mark.parametrize(
    ("vsn", "served"),
    [("2.0.0", {"2.0.0", "2.0.9"}), (["1.0.0", "2.0.5"], {"", "1.0.0", "2.0.9"}), (["1.0.1"], set())],
)
def test_versions_that_a_mount_names(ask: Asking, mount: Mounting, vsn: Any, served: set[str]) -> None:
    mount(vsn=vsn)
    queries = {asked: f"?vsn={asked}" if asked else "" for asked in ("", "1.0.0", "2.0.0", "2.0.9")}
    assert {asked for asked, query in queries.items() if ask(f"/socket/websocket{query}").status_code == 101} == served


def test_raw_socket(phoenix: Phoenix, enter: Entering) -> None:
    @phoenix.socket("/socket")
    class EchoSocket(RawSocket):
        def open(self) -> None:
            self.send("welcome")

        def handle_frame(self, frame: str | bytes) -> None:
            self.send(frame)

    opened = enter("/socket/websocket")
    assert opened.wire.data() == "welcome"
    opened.wire.send(Opcode.BINARY, b"\x01")
    assert opened.wire.data() == b"\x01"


# The app around it


def test_ordinary_routes_are_untouched(app: Flask, http: FlaskClient, ask: Asking, mount: Mounting) -> None:
    admin = Blueprint("admin", __name__, url_prefix="/admin")
    admin.get("/")(lambda: "admin")
    app.add_url_rule("/", "home", lambda: request.method, methods=["GET", "POST"])
    app.add_url_rule("/ws", "ws", lambda: "another WebSocket", websocket=True)
    mount()
    app.register_blueprint(admin)
    assert [http.get("/").text, http.post("/").text, http.get("/admin/").text] == ["GET", "POST", "admin"]
    assert http.get("/nowhere").status_code == 404
    assert ask("/ws").text == "another WebSocket"


def test_functions_before_and_after_apply(app: Flask, mount: Mounting, enter: Entering) -> None:
    order: list[str] = []

    @app.before_request
    def before() -> None:
        g.user = 7
        order.append("before")

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["X-After"] = "yes"
        session["seen"] = True
        order.append("after")
        return response

    app.teardown_request(lambda error: order.append("teardown"))
    mount(lambda params: order.append(f"connect {g.user}"))
    opened = enter()
    assert opened.headers["X-After"] == "yes"
    assert "session=" in opened.headers["Set-Cookie"]
    assert order == ["before", "connect 7", "after", "teardown"]
    assert alive(opened)


def test_before_request_may_refuse(app: Flask, ask: Asking, mount: Mounting) -> None:
    app.before_request(lambda: ("log in first", 401))
    calls = mount()
    assert ask().status_code == 401
    assert not calls


def test_error_pages_of_the_app(app: Flask, http: FlaskClient, ask: Asking, mount: Mounting) -> None:
    @app.errorhandler(403)
    @app.errorhandler(HTTPException)
    def page(error: Exception) -> tuple[str, int]:
        return "<h1>a page for people</h1>", 200

    @app.errorhandler(500)
    def sorry(error: Exception) -> tuple[str, int]:
        return "sorry", 500

    mount(lambda params: refuse(params) if "refuse" in params else abort(404) if "abort" in params else 1 / 0)
    assert ask(f"{URL}&abort").text == "<h1>a page for people</h1>"
    assert (ask(f"{URL}&refuse").status_code, ask(f"{URL}&refuse").data) == (403, b"")
    assert (http.post(URL).status_code, ask(Origin="http://other.example").data) == (400, b"")
    assert ask().text == "sorry"
