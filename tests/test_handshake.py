"""Who is let in: queries, tokens, subprotocols, connect info, sessions, origins, and the order of the questions."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, Response, request, session
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from flask_phoenix import Phoenix, Refused, Socket
from flask_phoenix.exceptions import InvalidReturn, UnknownVersion
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.serializers import V1Serializer, V2Serializer, default_table
from flask_phoenix.testing import Client
from flask_phoenix.transports.handshake import (
    QUERY_LIMIT,
    ConnectInfo,
    check_origin,
    choose_protocol,
    csrf_token,
    decode_token,
    enter,
    offered_protocols,
    parse_query,
)
from flask_phoenix.transports.options import INFO_KEYS, Mount, make_mounts

TABLE = default_table(Json())
PREFIX = "base64url.bearer.phx."


class UserSocket(Socket):
    """Lets everybody in."""


@pytest.fixture
def app() -> Flask:
    app = Flask(__name__)
    app.secret_key = "a secret for tests"
    return app


@pytest.fixture
def requested(app: Flask) -> Iterator[None]:
    with app.test_request_context("/socket/websocket"):
        yield


def mount(socket: type[Socket] = UserSocket, **options: Any) -> Mount:
    (only,) = make_mounts("/socket", socket, options, {})
    return only


def status_of(refusal: pytest.ExceptionInfo[HTTPException]) -> int:
    response = refusal.value.get_response()
    assert isinstance(response, Response)
    return response.status_code


# The query string


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=1", {"": "1"}),
        ("a=1=2", {"a": "1=2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a=1&&b=2&", {"a": "1", "b": "2"}),
        ("&", {}),
        ("a+b=c+d", {"a b": "c d"}),
        ("a=%2B%26%3D", {"a": "+&="}),
        ("e=%C3%A9+x", {"e": "\u00e9 x"}),
        ("a=1;b=2", {"a": "1;b=2"}),
        ("b[c]=2", {"b": {"c": "2"}}),
        ("b[c]=2&b[d]=3", {"b": {"c": "2", "d": "3"}}),
        ("b[c]=2&b[c]=3", {"b": {"c": "3"}}),
        ("b[c][d]=1&b[c][e]=2", {"b": {"c": {"d": "1", "e": "2"}}}),
        ("b%5Bc%5D=2", {"b": {"c": "2"}}),
        ("d[]=3&d[]=4", {"d": ["3", "4"]}),
        ("d[]", {"d": [""]}),
        ("d[e][]=3&d[e][]=4", {"d": {"e": ["3", "4"]}}),
        ("d[][e]=3&d[][e]=4", {"d": [{"e": "3"}, {"e": "4"}]}),
        ("d[][]=1", {"d": [["1"]]}),
        ("user[id]=1&user[tags][0]=a&user[tags][1]=b", {"user": {"id": "1", "tags": {"0": "a", "1": "b"}}}),
        ("[a]=1", {"[a]": "1"}),
        ("a[=1", {"a[": "1"}),
        ("a[b=1", {"a[b": "1"}),
        ("a]=1", {"a]": "1"}),
        ("a[b]c=1", {"a[b]c": "1"}),
        ("a[b]c[d]=1", {"a[b]c[d]": "1"}),
        ("vsn=1.0.0&vsn=2.0.0", {"vsn": "2.0.0"}),
        (
            "a=1&b[c]=2&d[]=3&d[]=4&e=%C3%A9+x&f",
            {"a": "1", "b": {"c": "2"}, "d": ["3", "4"], "e": "\u00e9 x", "f": ""},
        ),
    ],
)
def test_query(query: str, params: dict[str, Any]) -> None:
    assert parse_query(query.encode()) == params


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("a=1&a[b]=2", {"a": {"b": "2"}}),
        ("a[b]=1&a=2", {"a": "2"}),
        ("a=1&a[]=2", {"a": ["2"]}),
        ("a[]=1&a=2", {"a": "2"}),
        ("a[]=1&a[b]=2", {"a": {"b": "2"}}),
        ("a[b]=1&a[]=2", {"a": ["2"]}),
        ("a[b]=1&a[b][c]=2", {"a": {"b": {"c": "2"}}}),
        ("a[b][c]=1&a[b]=2", {"a": {"b": "2"}}),
    ],
)
def test_contradictory_keys(query: str, params: dict[str, Any]) -> None:
    assert parse_query(query.encode()) == params


@pytest.mark.parametrize("query", ["a=%", "a=%4", "a=%zz", "%4x=1", "a=1&b=%u0041"])
def test_broken_escape(query: str) -> None:
    with pytest.raises(HTTPException) as refusal:
        parse_query(query.encode())
    assert status_of(refusal) == 400


@pytest.mark.parametrize("query", [b"a=%FF", b"%C3=1", b"a=\xff", b"a=%ED%A0%80"])
def test_query_that_is_not_utf8(query: bytes) -> None:
    with pytest.raises(HTTPException) as refusal:
        parse_query(query)
    assert status_of(refusal) == 400


def test_long_query() -> None:
    assert len(parse_query(b"a=" + b"x" * (QUERY_LIMIT - 2))["a"]) == QUERY_LIMIT - 2
    with pytest.raises(HTTPException) as refusal:
        parse_query(b"a=" + b"x" * (QUERY_LIMIT - 1))
    assert status_of(refusal) == 414


def test_deep_query() -> None:
    params = parse_query(b"a" + b"[a]" * 100_000 + b"=1")
    for _ in range(100_000):
        params = params["a"]
    assert params == {"a": "1"}


def outcome(query: str) -> dict[str, Any] | int:
    try:
        return parse_query(query.encode())
    except HTTPException as refusal:
        return refusal.get_response().status_code


@given(st.text(alphabet="ab[]=&+%4", max_size=30))
def test_any_query_is_read_or_refused(query: str) -> None:
    answer = outcome(query)
    assert isinstance(answer, dict) or answer == 400


# The auth token


def offer(app: Flask, header: str | None, **options: Any) -> tuple[list[str], str | None]:
    headers = {} if header is None else {"Sec-WebSocket-Protocol": header}
    with app.test_request_context("/socket/websocket", headers=headers):
        return offered_protocols(mount(**options))


@pytest.mark.parametrize("token", ["1234", "5678", "a", "ab", "abc", "\u00e9\u20ac", "??>>~~", "x" * 1000])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_auth_token(app: Flask, token: str, encode: Any, padded: bool) -> None:
    encoded = encode(token.encode()).decode()
    offered = f"phoenix, {PREFIX}{encoded if padded else encoded.rstrip('=')}"
    assert offer(app, offered, auth_token=True) == (["phoenix"], token)


def test_auth_token_of_the_javascript_client(app: Flask) -> None:
    assert offer(app, f"phoenix, {PREFIX}MTIzNA", auth_token=True) == (["phoenix"], "1234")


@pytest.mark.parametrize(
    ("header", "offered"),
    [
        (None, []),
        ("", []),
        ("phoenix", ["phoenix"]),
        ("phoenix, sip", ["phoenix", "sip"]),
        (f"phoenix, {PREFIX}MTIzNA, {PREFIX}NTY3OA", ["phoenix"]),
        (f"{PREFIX}MTIzNA,{PREFIX}MTIzNA", []),
    ],
)
def test_no_auth_token(app: Flask, header: str | None, offered: list[str]) -> None:
    assert offer(app, header, auth_token=True) == (offered, None)


def test_auth_token_alone(app: Flask) -> None:
    assert offer(app, f"{PREFIX}MTIzNA", auth_token=True) == ([], "1234")
    assert offer(app, PREFIX, auth_token=True) == ([], "")


def test_auth_token_that_nobody_asked_for(app: Flask) -> None:
    header = f"phoenix, {PREFIX}!!!"
    assert offer(app, header) == (["phoenix", f"{PREFIX}!!!"], None)


@pytest.mark.usefixtures("requested")
@pytest.mark.parametrize("token", ["!!!", "MTIz NA", "M", "MT=IzNA", "/w", "\xe9", "\u20ac"])
def test_auth_token_refused(token: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HTTPException) as refusal:
        decode_token(token)
    assert status_of(refusal) == 403
    assert "auth token" in caplog.text
    assert token not in caplog.text


# Subprotocols


@pytest.mark.parametrize(
    ("options", "offered", "chosen"),
    [
        ({}, [], None),
        ({}, ["phoenix"], "phoenix"),
        ({}, ["phoenix", "123"], "phoenix"),
        ({}, ["mqtt"], None),
        ({"subprotocols": ["sip"]}, [], None),
        ({"subprotocols": ["sip"]}, ["sip"], "sip"),
        ({"subprotocols": ["sip"]}, ["mqtt", "sip"], "sip"),
        ({"subprotocols": ["sip", "mqtt"]}, ["mqtt", "sip"], "sip"),
        ({"subprotocols": ["sip"]}, ["phoenix"], "phoenix"),
        ({"auth_token": True}, [], None),
        ({"auth_token": True}, ["phoenix"], "phoenix"),
        ({"auth_token": True, "subprotocols": ["sip"]}, ["sip"], "sip"),
    ],
)
def test_subprotocol(options: dict[str, Any], offered: list[str], chosen: str | None) -> None:
    assert choose_protocol(mount(**options), offered) == chosen


@pytest.mark.usefixtures("requested")
@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ({"subprotocols": ["sip"]}, ["mqtt"]),
        ({"subprotocols": ["sip"]}, ["SIP"]),
        ({"subprotocols": []}, ["mqtt"]),
        ({"auth_token": True}, ["mqtt"]),
    ],
)
def test_subprotocol_refused(options: dict[str, Any], offered: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(HTTPException) as refusal:
        choose_protocol(mount(**options), offered)
    assert status_of(refusal) == 403
    assert f"{offered}" in caplog.text
    assert "/socket" in caplog.text


def test_subprotocols_on_several_lines(app: Flask) -> None:
    headers = Headers([("Sec-WebSocket-Protocol", "sip"), ("Sec-WebSocket-Protocol", " phoenix ,,mqtt")])
    with app.test_request_context("/socket/websocket", headers=headers):
        assert offered_protocols(mount())[0] == ["sip", "phoenix", "mqtt"]


# What connect is told

HEADERS = {
    "X-Application": "Phoenix",
    "X-Real-Ip": "10.0.0.1",
    "traceparent": "00-trace",
    "tracestate": "a=b",
    "User-Agent": "foo/1.0",
    "Cookie": "secret=1",
    "Authorization": "Bearer secret",
    "Sec-WebSocket-Protocol": "phoenix, 123",
    "Sec-WebSocket-Version": "13",
}


def told(app: Flask, query: str = "", token: str | None = None, **options: Any) -> dict[str, Any]:
    """Return what a connect is told about a request with all kinds of headers."""
    heard: list[dict[str, Any]] = []

    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info)

    there = {"REMOTE_ADDR": "127.0.0.1", "REMOTE_PORT": "4711"}
    listening = mount(Listener, **options)
    path = f"/socket/websocket{query}"
    with app.test_request_context(path, headers=HEADERS, environ_overrides=there, base_url="http://example.com:8080"):
        enter(listening, "websocket", TABLE, token, {})
    return heard[0]


def test_nothing_is_told_by_itself(app: Flask) -> None:
    assert told(app) == {}


def test_connect_info(app: Flask) -> None:
    info = told(app, "?vsn=2.0.0&a=%20", connect_info=[*INFO_KEYS])
    assert info["peer_data"] == {"address": "127.0.0.1", "port": 4711}
    assert sorted(info["x_headers"]) == [("x-application", "Phoenix"), ("x-real-ip", "10.0.0.1")]
    assert sorted(info["trace_context_headers"]) == [("traceparent", "00-trace"), ("tracestate", "a=b")]
    assert sorted(info["sec_websocket_headers"]) == [
        ("sec-websocket-protocol", "phoenix, 123"),
        ("sec-websocket-version", "13"),
    ]
    assert info["user_agent"] == "foo/1.0"
    assert info["uri"] == {
        "scheme": "http",
        "host": "example.com",
        "port": 8080,
        "path": "/socket/websocket",
        "query": "vsn=2.0.0&a=%20",
    }
    assert info["session"] is None
    assert "secret" not in repr(info)


@pytest.mark.parametrize(("base", "port"), [("http://example.com", 80), ("https://example.com", 443)])
def test_uri_implies_a_port(app: Flask, base: str, port: int) -> None:
    heard: list[Any] = []

    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info["uri"]["port"])

    with app.test_request_context("/socket/websocket", base_url=base):
        enter(mount(Listener, connect_info=["uri"]), "websocket", TABLE, None, {})
    assert heard == [port]


def test_what_is_not_there_is_empty(app: Flask) -> None:
    heard: list[Any] = []

    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info)

    with app.test_request_context("/socket/websocket", environ_overrides={"HTTP_USER_AGENT": None}):
        listening = mount(Listener, connect_info=[*INFO_KEYS])
        enter(listening, "websocket", TABLE, None, {})
    (info,) = heard
    assert info["x_headers"] == info["trace_context_headers"] == info["sec_websocket_headers"] == []
    assert info["user_agent"] is None
    assert info["peer_data"]["port"] is None


def test_constants(app: Flask) -> None:
    info = told(app, connect_info=["user_agent", {"salt": "x", "limit": 3}, {"region": None}])
    assert info == {"user_agent": "foo/1.0", "salt": "x", "limit": 3, "region": None}


def test_auth_token_is_told(app: Flask) -> None:
    assert told(app, token="1234", auth_token=True) == {"auth_token": "1234"}
    assert told(app, auth_token=True) == {"auth_token": None}


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("uri", "connect_info=['uri']"),
        ("session", "connect_info=['session']"),
        ("auth_token", "auth_token=True"),
        ("cookies", "user_agent"),
    ],
)
def test_missing_key_names_its_remedy(key: str, remedy: str) -> None:
    info = ConnectInfo()
    with pytest.raises(KeyError) as missing:
        info[key]
    assert repr(key) in str(missing.value)
    assert remedy in str(missing.value)
    assert info.get(key) is None
    assert key not in info


# The session


def with_session(app: Flask, values: dict[str, Any]) -> dict[str, str]:
    """Return the header by which a client shows a session with these values."""

    @app.get("/login")
    def login() -> str:
        session.update(values)
        return ""

    http = app.test_client()
    http.get("/login")
    cookie = http.get_cookie("session")
    assert cookie is not None
    return {"Cookie": f"session={cookie.value}"}


def session_told(app: Flask, headers: dict[str, str], query: str, **options: Any) -> Any:
    heard: list[Any] = []

    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info["session"])

    with app.test_request_context(f"/socket/websocket{query}", headers=headers):
        listening = mount(Listener, connect_info=["session"], **options)
        enter(listening, "websocket", TABLE, None, {})
    return heard[0]


VALUES = {"_csrf_token": "tok\u00e9n", "from_session": "123"}


def test_session_with_its_token(app: Flask) -> None:
    headers = with_session(app, VALUES)
    assert session_told(app, headers, "?_csrf_token=tok%C3%A9n") == VALUES


@pytest.mark.parametrize("query", ["", "?_csrf_token=", "?_csrf_token=other", "?_csrf_token[]=tok%C3%A9n"])
def test_session_without_its_token(app: Flask, query: str) -> None:
    assert session_told(app, with_session(app, VALUES), query) is None


def test_session_of_nobody(app: Flask) -> None:
    assert session_told(app, {}, "?_csrf_token=tok%C3%A9n") is None
    assert session_told(app, {"Cookie": "session=forged"}, "?_csrf_token=tok%C3%A9n") is None


def test_session_that_has_no_token(app: Flask) -> None:
    headers = with_session(app, {"from_session": "123"})
    assert session_told(app, headers, "") is None
    assert session_told(app, headers, "?_csrf_token=None") is None


def test_session_without_the_check(app: Flask) -> None:
    assert session_told(app, with_session(app, VALUES), "", check_csrf=False) == VALUES


def test_session_with_a_key_of_its_own(app: Flask) -> None:
    headers = with_session(app, {"k": "abc", "_csrf_token": "def"})
    assert session_told(app, headers, "?_csrf_token=abc", csrf_token_key="k") is not None
    assert session_told(app, headers, "?_csrf_token=def", csrf_token_key="k") is None


def test_session_without_a_secret_key() -> None:
    assert session_told(Flask(__name__), {"Cookie": "session=x"}, "") is None


def test_csrf_token_is_kept(app: Flask) -> None:
    with app.test_request_context():
        token = csrf_token()
        assert len(token) >= 32
        assert csrf_token() == token == session["_csrf_token"]
        assert csrf_token("other") != token


def test_csrf_token_opens_the_session(app: Flask) -> None:
    phoenix = Phoenix(app)
    heard: list[Any] = []

    @phoenix.socket("/socket", connect_info=["session"])
    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info["session"])

    @app.get("/")
    def page() -> str:
        session["user"] = 7
        return phoenix.csrf_token()

    http = app.test_client()
    token = http.get("/").text
    cookie = http.get_cookie("session")
    assert cookie is not None
    with Client(app, params={"_csrf_token": token}, headers={"Cookie": f"session={cookie.value}"}):
        assert heard == [{"user": 7, "_csrf_token": token}]
    app.extensions["phoenix"].engine.stop()


# The origin


def may_come(app: Flask, origin: str | None, base: str = "http://example.com", **options: Any) -> bool:
    headers = {} if origin is None else {"Origin": origin}
    with app.test_request_context("/socket/websocket", headers=headers, base_url=base):
        return check_origin(mount(**options))


@pytest.mark.parametrize(
    ("origin", "options", "allowed"),
    [
        (None, {}, True),
        ("http://example.com", {}, True),
        ("https://example.com:8443", {}, True),
        ("http://notallowed.com", {}, False),
        ("null", {}, False),
        ("http://notallowed.com", {"check_origin": False}, True),
        ("https://example.org", {"check_origin": ["//example.org"]}, True),
        ("http://example.com", {"check_origin": ["//example.org"]}, False),
        ("http://example.com", {"check_origin": ":conn"}, True),
        ("https://example.com", {"check_origin": ":conn"}, False),
        ("http://example.com:8080", {"check_origin": ":conn"}, False),
        ("anything", {"check_origin": lambda origin: origin.path == "anything"}, True),
    ],
)
def test_origin(app: Flask, origin: str | None, options: dict[str, Any], allowed: bool) -> None:
    assert may_come(app, origin, **options) == allowed


@pytest.mark.parametrize(
    ("base", "origin", "allowed"),
    [
        ("https://example.com", "https://example.com", True),
        ("https://example.com", "https://example.com:4000", False),
        ("http://example.com:4000", "http://example.com:4000", True),
        ("http://[::1]:4000", "http://[::1]:4000", True),
    ],
)
def test_origin_of_the_very_address(app: Flask, base: str, origin: str, allowed: bool) -> None:
    assert may_come(app, origin, base, check_origin=":conn") == allowed


def test_refused_origin_is_explained(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    assert not may_come(app, "http://notallowed.com", check_origin=["//example.org"])
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    text = record.getMessage()
    assert "'http://notallowed.com'" in text
    assert "['//example.org']" in text
    assert '@phoenix.socket(..., check_origin=["//example.org", "http://notallowed.com"])' in text


@pytest.mark.parametrize("host", ["a:99999", "a:abc", "[::1", "", "a b", "\xe9"])
def test_origin_with_an_impossible_host(app: Flask, host: str) -> None:
    headers = {"Host": host, "Origin": "http://example.com"}
    with app.test_request_context("/socket/websocket", headers=headers):
        assert not check_origin(mount())


# Versions


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("", V1Serializer),
        ("?vsn=1.0.0", V1Serializer),
        ("?vsn=2.0.0", V2Serializer),
        ("?vsn=1.0.0&vsn=2.0.9", V2Serializer),
    ],
)
def test_version(app: Flask, query: str, kind: type) -> None:
    with app.test_request_context(f"/socket/websocket{query}"):
        assert type(enter(mount(), "websocket", TABLE, None, {}).serializer) is kind


@pytest.mark.parametrize("query", ["?vsn=123.1.1", "?vsn=2.0", "?vsn=", "?vsn[]=2.0.0", "?vsn[a]=2.0.0"])
def test_unknown_version_asks_nobody(app: Flask, query: str) -> None:
    class Silent(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            pytest.fail("connect is asked before the version is known")

    with app.test_request_context(f"/socket/websocket{query}"), pytest.raises(UnknownVersion):
        enter(mount(Silent), "websocket", TABLE, None, {})


# The author decides


def test_connect(app: Flask) -> None:
    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            assert params is self.params
            assert self.transport == "websocket"
            assert request.path == "/socket/websocket"
            self.assigns["user"] = params["user"]

        def id(self) -> str:
            return f"user:{self.assigns['user']}"

    with app.test_request_context("/socket/websocket?user=7&vsn=2.0.0"):
        entrance = enter(mount(Listener), "websocket", TABLE, None, {})
    assert entrance.id == "user:7"
    assert entrance.socket.params == {"user": "7", "vsn": "2.0.0"}
    assert entrance.socket.assigns == {"user": "7"}


def test_refusal_of_the_author(app: Flask) -> None:
    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            raise Refused("rate_limit")

    with app.test_request_context("/socket/websocket"), pytest.raises(Refused) as refusal:
        enter(mount(Listener), "websocket", TABLE, None, {})
    assert refusal.value.reason == "rate_limit"


@pytest.mark.parametrize("answer", [False, True, {}, "ok"])
def test_connect_that_returns_something(app: Flask, answer: Any) -> None:
    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
            return answer

    with app.test_request_context("/socket/websocket"), pytest.raises(InvalidReturn) as mistake:
        enter(mount(Listener), "websocket", TABLE, None, {})
    assert "Listener.connect" in str(mistake.value)
    assert "raise Refused" in str(mistake.value)


@pytest.mark.parametrize("name", [7, b"user:7", ("user", 7), True])
def test_id_that_is_no_string(app: Flask, name: Any) -> None:
    class Listener(Socket):
        def id(self) -> Any:
            return name

    with app.test_request_context("/socket/websocket"), pytest.raises(InvalidReturn) as mistake:
        enter(mount(Listener), "websocket", TABLE, None, {})
    assert "Listener.id" in str(mistake.value)


# Path variables


def test_path_variables_win(app: Flask) -> None:
    variables = {"socket_var": "123", "number": 456, "_hidden": "x"}
    with app.test_request_context("/custom/123/456/path?key=value&socket_var=query&_hidden=shown"):
        params = enter(mount(), "websocket", TABLE, None, variables).socket.params
    assert params == {"key": "value", "socket_var": "123", "number": "456", "_hidden": "shown"}


def test_path_variables_of_a_mount(app: Flask) -> None:
    phoenix = Phoenix(app)
    heard: list[Any] = []

    @phoenix.socket("/custom/<socket_var>/<int:_number>")
    class Listener(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(params)

    with Client(app, "/custom/caf%C3%A9/4", {"key": "value"}):
        assert heard == [{"vsn": "2.0.0", "key": "value", "socket_var": "caf\u00e9"}]
    app.extensions["phoenix"].engine.stop()
