"""What answers at a mount: every refusal, the upgrade, and what of the app applies to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, g, request, session
from flask.testing import FlaskClient
from gevent import socket
from websockets.frames import Opcode
from werkzeug.exceptions import HTTPException
from werkzeug.test import TestResponse

from flask_phoenix import InvalidOption, Phoenix, RawSocket, Refused, Socket
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.testing import Client
from tests.wire import ACCEPT, UPGRADE, Entry, Wire, open_foreign

URL = "/socket/websocket?vsn=2.0.0"


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


#: Mounts a socket whose connect is a function.
Mounting = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def mount(phoenix: Phoenix) -> Mounting:
    def mount(connect: Callable[[dict[str, Any]], Any] | None = None, **options: Any) -> list[dict[str, Any]]:
        """Mount; return the list in which the parameters of each connect are put."""
        asked: list[dict[str, Any]] = []

        @phoenix.socket("/socket", **options)
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
                asked.append(params)
                return connect(params) if connect else None

        return asked

    return mount


def ask(http: FlaskClient, url: str = URL, websocket: Any = None, **headers: str) -> TestResponse:
    """Ask for a WebSocket; the headers' names are written with underscores."""
    environ = {"wsgi.websocket": websocket} if websocket else {}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.get(url, headers={**UPGRADE, **named}, environ_overrides=environ)


# Refusals


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["plain", "upgrade"])
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"])
def test_other_methods(http: FlaskClient, mount: Mounting, method: str, headers: dict[str, str]) -> None:
    asked = mount()
    answer = http.open(URL, method=method, headers=headers)
    assert (answer.status_code, answer.data) == (400, b"")
    assert not asked


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "'connection' header must contain 'upgrade', got []"),
        ({"Connection": "keep-alive"}, "'connection' header must contain 'upgrade', got ['keep-alive']"),
        ({"Connection": "Upgrade"}, "'upgrade' header must contain 'websocket', got []"),
        ({**UPGRADE, "Sec-WebSocket-Version": "7"}, "Sec-WebSocket-Version"),
        ({**UPGRADE, "Sec-WebSocket-Key": "short"}, "Sec-WebSocket-Key"),
    ],
)
def test_no_upgrade(http: FlaskClient, mount: Mounting, headers: dict[str, str], text: str) -> None:
    asked = mount()
    answer = http.get(URL, headers=headers)
    assert answer.status_code == 400
    assert answer.mimetype == "text/plain"
    assert text in answer.text
    assert len(asked) == 1  # Phoenix asks connect before it looks at the headers


def test_origin(http: FlaskClient, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    asked = mount(check_origin=["//allowed.example"])
    answer = ask(http, Origin="http://other.example")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not asked
    assert "http://other.example" in caplog.text
    assert ask(http, Origin="http://allowed.example").status_code == 501


def test_auth_token(http: FlaskClient, mount: Mounting) -> None:
    asked = mount(auth_token=True)
    answer = ask(http, Sec_WebSocket_Protocol="phoenix, base64url.bearer.phx.!!!")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not asked


def test_subprotocol(http: FlaskClient, mount: Mounting) -> None:
    asked = mount(subprotocols=["sip"])
    answer = ask(http, Sec_WebSocket_Protocol="mqtt")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not asked


@pytest.mark.parametrize("vsn", ["123.1.1", "2.1.0", "abc"])
def test_version(http: FlaskClient, mount: Mounting, vsn: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = mount()
    answer = ask(http, f"/socket/websocket?vsn={vsn}")
    assert (answer.status_code, answer.data) == (403, b"")
    assert not asked
    assert "The client's requested transport version" in caplog.text
    assert vsn in caplog.text


@pytest.mark.parametrize(
    ("query", "status"), [("a=%zz", 400), ("a=%FF", 400), (f"a={'x' * 1_000_000}", 414), ("a=1&a[b]=2", 501)]
)
def test_query(http: FlaskClient, mount: Mounting, query: str, status: int) -> None:
    mount()
    assert ask(http, f"{URL}&{query}").status_code == status


def refuse(params: dict[str, Any]) -> None:
    raise Refused("rate_limit", retry=5)


def test_refused(http: FlaskClient, mount: Mounting) -> None:
    mount(refuse)
    answer = ask(http)
    assert (answer.status_code, answer.data) == (403, b"")


def test_error_handler(http: FlaskClient, mount: Mounting) -> None:
    heard: list[Refused] = []

    def handler(refused: Refused) -> tuple[str, int, dict[str, str]]:
        heard.append(refused)
        return "Too many requests", 429, {"Retry-After": str(refused.response["retry"])}

    mount(refuse, error_handler=handler)
    answer = ask(http)
    assert (answer.status_code, answer.text) == (429, "Too many requests")
    assert answer.headers["Retry-After"] == "5"
    assert [refused.reason for refused in heard] == ["rate_limit"]


@pytest.mark.parametrize("body", [{"error": "no"}, Response("no", 418), "no"])
def test_error_handler_answers_what_a_view_may(http: FlaskClient, mount: Mounting, body: Any) -> None:
    mount(refuse, error_handler=lambda refused: body)
    assert "no" in ask(http).text


def test_error_handler_is_for_refusals_of_the_author(http: FlaskClient, mount: Mounting) -> None:
    mount(error_handler=lambda refused: pytest.fail("it was not the author who refused"))
    assert ask(http, "/socket/websocket?vsn=9.0.0").status_code == 403
    assert ask(http, Origin="http://other.example").status_code == 403


def test_connect_that_raises(app: Flask, http: FlaskClient, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount(lambda params: 1 / 0)
    assert ask(http).status_code == 500
    assert "ZeroDivisionError" in caplog.text
    app.testing = True
    with pytest.raises(ZeroDivisionError):
        ask(http)


def test_connect_that_returns_something(http: FlaskClient, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount(lambda params: False)
    answer = ask(http)
    assert (answer.status_code, answer.data) == (403, b"")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "raise Refused('why')" in record.getMessage()


def test_id_that_is_no_string(http: FlaskClient, phoenix: Phoenix, caplog: pytest.LogCaptureFixture) -> None:
    @phoenix.socket("/socket")
    class UserSocket(Socket):
        def id(self) -> Any:
            return 7

    answer = ask(http)
    assert (answer.status_code, answer.data) == (403, b"")
    assert "UserSocket.id returned 7" in caplog.text


def test_server_without_websockets(http: FlaskClient, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount()
    answer = ask(http)
    assert answer.status_code == 501
    for text in (answer.text, caplog.text):
        assert "flask run" in text
        assert "phoenix.run(app)" in text
        assert "gunicorn -k gevent" in text


def test_draining(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    asked = mount()
    app.extensions["phoenix"].engine.draining = True
    answer = ask(http)
    assert (answer.status_code, answer.data) == (503, b"")
    assert not asked


def test_order_of_the_questions(http: FlaskClient, mount: Mounting) -> None:
    """Each step of the handshake is passed only when those before it are."""
    asked = mount(refuse, check_origin=["//a.example"], auth_token=True, error_handler=lambda refused: ("", 418))
    wrong: dict[str, str] = {
        "Origin": "http://b.example",
        "Sec_WebSocket_Protocol": "mqtt, base64url.bearer.phx.!!!",
        "Connection": "close",
    }
    url = "/socket/websocket?vsn=9.0.0"

    def status() -> int:
        return ask(http, url, **wrong).status_code

    assert status() == 403  # the origin
    wrong["Origin"] = "http://a.example"
    assert status() == 403  # the token
    wrong["Sec_WebSocket_Protocol"] = "mqtt"
    assert status() == 403  # the subprotocol
    wrong["Sec_WebSocket_Protocol"] = "phoenix"
    assert status() == 403  # the version
    assert not asked
    url = URL
    assert status() == 418  # the author
    assert len(asked) == 1


# Behind a server that has said 101 before anybody was asked


@pytest.fixture
def foreign() -> Iterator[tuple[Any, Wire]]:
    """Return gevent-websocket's WebSocket, and the client at its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield open_foreign(ours), Wire(theirs)


@pytest.mark.parametrize(
    ("connect", "headers", "code"),
    [
        (refuse, {}, 1008),
        (lambda params: False, {}, 1008),
        (None, {"Origin": "http://other.example"}, 1008),
        (lambda params: 1 / 0, {}, 1011),
    ],
)
def test_refusal_behind_a_foreign_101(
    http: FlaskClient, mount: Mounting, foreign: tuple[Any, Wire], connect: Any, headers: dict[str, str], code: int
) -> None:
    mount(connect)
    websocket, client = foreign
    ask(http, websocket=websocket, **headers)
    assert client.close_code() == code


def test_error_handler_behind_a_foreign_101(http: FlaskClient, mount: Mounting, foreign: tuple[Any, Wire]) -> None:
    mount(refuse, error_handler=lambda refused: ("Too many requests", 429))
    websocket, client = foreign
    assert ask(http, websocket=websocket).status_code == 429
    assert client.close_code() == 1008


def test_draining_behind_a_foreign_101(
    app: Flask, http: FlaskClient, mount: Mounting, foreign: tuple[Any, Wire]
) -> None:
    mount()
    app.extensions["phoenix"].engine.draining = True
    websocket, client = foreign
    ask(http, websocket=websocket)
    assert client.close_code() == 1012


# The upgrade


@pytest.fixture
def enter(app: Flask, http: FlaskClient) -> Iterator[Callable[..., Entry]]:
    opened: list[Entry] = []

    def enter(url: str = URL, foreign: bool = False, **headers: str) -> Entry:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        opened.append(Entry(app, url, named, foreign))
        return opened[-1]

    yield enter
    for each in opened:
        each.close()


HEARTBEAT = '[null,"1","phoenix","heartbeat",{}]'
ALIVE = '[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'


def alive(opened: Entry) -> bool:
    """Tell whether the server answers on this WebSocket."""
    opened.wire.text(HEARTBEAT)
    return opened.wire.data() == ALIVE


def test_upgrade(app: Flask, mount: Mounting, enter: Callable[..., Entry]) -> None:
    mount()
    opened = enter()
    assert opened.status == "101 Switching Protocols"
    assert opened.headers == {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": ACCEPT}
    assert opened.written == [b""]  # the head leaves at once
    assert alive(opened)


@pytest.mark.parametrize("url", ["/socket/websocket/?vsn=2.0.0", "/socket/websocket?vsn=2.0.0"])
def test_slash_at_the_end(mount: Mounting, enter: Callable[..., Entry], url: str) -> None:
    mount()
    assert alive(enter(url))


@pytest.mark.parametrize("url", ["/socket", "/socket/", "/socket/other", "/socket/websocket/other"])
def test_nothing_else_is_there(http: FlaskClient, mount: Mounting, url: str) -> None:
    mount()
    assert http.get(url).status_code == 404
    assert ask(http, url).status_code == 404


def test_subprotocol_is_answered(mount: Mounting, enter: Callable[..., Entry]) -> None:
    mount(subprotocols=["sip"])
    assert enter(Sec_WebSocket_Protocol="sip").headers["Sec-WebSocket-Protocol"] == "sip"
    assert "Sec-WebSocket-Protocol" not in enter().headers


def test_auth_token_of_the_javascript_client(phoenix: Phoenix, enter: Callable[..., Entry]) -> None:
    heard: list[Any] = []

    @phoenix.socket("/socket", auth_token=True)
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            heard.append(info["auth_token"])

    opened = enter(Sec_WebSocket_Protocol="phoenix, base64url.bearer.phx.MTIzNA")
    assert opened.headers["Sec-WebSocket-Protocol"] == "phoenix"
    assert heard == ["1234"]


def test_compression(mount: Mounting, enter: Callable[..., Entry]) -> None:
    mount(compress=True)
    opened = enter(Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
    assert opened.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
    opened.wire.text(HEARTBEAT)
    assert opened.wire.frame().rsv1


def test_foreign_101(mount: Mounting, enter: Callable[..., Entry]) -> None:
    mount(compress=True)
    opened = enter(foreign=True, Sec_WebSocket_Extensions="permessage-deflate")
    assert (opened.status, opened.written) == ("", [])
    assert alive(opened)  # uncompressed: the other server has agreed on nothing


def test_limits_of_the_mount(mount: Mounting, enter: Callable[..., Entry]) -> None:
    mount(max_frame_size=100, timeout=0.2)
    opened = enter()
    opened.wire.text("x" * 101)
    assert opened.wire.close_code() == 1009
    assert enter().wire.close_code() == 1002


def test_channels_of_the_mount(phoenix: Phoenix, enter: Callable[..., Entry]) -> None:
    phoenix.socket("/socket", max_channels=1)(Socket)
    opened = enter()
    opened.wire.text('["1","1","room:1","phx_join",{}]')
    assert "unmatched topic" in str(opened.wire.data())


def test_versions_of_the_mount(phoenix: Phoenix, http: FlaskClient, enter: Callable[..., Entry]) -> None:
    phoenix.socket("/socket", serializer=[(V2Serializer, "~> 3.0.0")])(Socket)
    assert alive(enter("/socket/websocket?vsn=3.0.0"))
    assert ask(http).status_code == 403


def test_versions_that_cannot_be(app: Flask, phoenix: Phoenix) -> None:
    with pytest.raises(InvalidOption):
        phoenix.socket("/socket", serializer=[(V2Serializer, "2.0.0")])(Socket)


def test_raw_socket(phoenix: Phoenix, enter: Callable[..., Entry]) -> None:
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


def test_one_socket_at_two_mounts(phoenix: Phoenix, http: FlaskClient) -> None:
    for path, host in (("/one", "one.example"), ("/other", "other.example")):
        phoenix.socket(path, check_origin=[f"//{host}"])(Socket)
    for path, host in (("/one", "one.example"), ("/other", "other.example"), ("/one", "one.example")):
        statuses = [
            ask(http, f"{path}/websocket", Origin=f"http://{origin}.example").status_code for origin in ("one", "other")
        ]
        assert statuses == ([501, 403] if host == "one.example" else [403, 501])


def test_names_of_the_rules(app: Flask, mount: Mounting) -> None:
    mount()
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule == "/socket/websocket"]
    assert sorted(bool(rule.websocket) for rule in rules) == [False, True]
    assert {rule.endpoint for rule in rules} == {"phoenix /socket/websocket"}


# The app around it


def test_ordinary_routes_are_untouched(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    admin = Blueprint("admin", __name__, url_prefix="/admin")

    @admin.get("/")
    def index() -> str:
        return "admin"

    @app.route("/", methods=["GET", "POST"])
    def home() -> str:
        return request.method

    @app.route("/ws", websocket=True)
    def ws() -> str:
        return "another WebSocket"

    mount()
    app.register_blueprint(admin)
    assert http.get("/").text == "GET"
    assert http.post("/").text == "POST"
    assert http.get("/admin/").text == "admin"
    assert http.get("/nowhere").status_code == 404
    assert ask(http, "/ws").text == "another WebSocket"


def test_functions_before_and_after_apply(app: Flask, mount: Mounting, enter: Callable[..., Entry]) -> None:
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

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        order.append("teardown")

    mount(lambda params: order.append(f"connect {g.user}"))
    opened = enter()
    assert opened.headers["X-After"] == "yes"
    assert "session=" in opened.headers["Set-Cookie"]
    assert order == ["before", "connect 7", "after", "teardown"]
    assert alive(opened)


def test_before_request_may_refuse(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    @app.before_request
    def gate() -> tuple[str, int]:
        return "log in first", 401

    asked = mount()
    assert ask(http).status_code == 401
    assert not asked


def test_error_pages_of_the_app_stay_out(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    @app.errorhandler(403)
    @app.errorhandler(400)
    @app.errorhandler(HTTPException)
    @app.errorhandler(Exception)
    def page(error: Exception) -> tuple[str, int]:
        return "<h1>a page for people</h1>", 200

    mount(refuse)
    assert (ask(http).status_code, ask(http).data) == (403, b"")
    assert http.post(URL).status_code == 400
    assert ask(http, Origin="http://other.example").data == b""


def test_error_page_for_500_applies(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    @app.errorhandler(500)
    def page(error: Exception) -> tuple[str, int]:
        return "sorry", 500

    mount(lambda params: 1 / 0)
    assert ask(http).text == "sorry"


def test_in_memory_client_sees_refusals(app: Flask, mount: Mounting) -> None:
    mount(lambda params: refuse(params) if "no" in params else None, check_origin=["//a.example"])
    with pytest.raises(Refused):
        Client(app, params={"no": "1"})
    with pytest.raises(HTTPException):
        Client(app, headers={"Origin": "http://b.example"})
    with pytest.raises(HTTPException):
        Client(app, params={"vsn": "9.0.0"})
