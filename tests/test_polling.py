"""What answers a client that polls: every answer of the transport, over HTTP, and what of the app applies to it."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from flask import Flask, Response, g, has_app_context, has_request_context, request, session
from flask.testing import FlaskClient
from gevent.event import Event
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, TestResponse

from flask_phoenix import Channel, InvalidOption, Phoenix, RawSocket, Refused, Reply, Socket, Unsupported, on
from flask_phoenix.extension import MANY_PROCESSES
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.server.gevent import drain
from flask_phoenix.testing import MemoryAdapter
from flask_phoenix.transports.longpoll.endpoint import BATCH, BODY_LIMIT
from tests.processes import DEADLINE
from tests.roads import JOINED, turn
from tests.wire import UPGRADE

URL = "/socket/longpoll"
NDJSON = "application/x-ndjson"
#: A window that a test may wait for.
SHORT = DEADLINE / 100


def serve_rooms(phoenix: Phoenix, **options: Any) -> type[Socket]:
    """Mount a socket with rooms, for clients that poll; one is named by its parameter ``user``."""

    @phoenix.socket("/socket", **{"longpoll": True, **options})
    class UserSocket(Socket):
        def id(self) -> str | None:
            return self.params.get("user")

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            return None

        @on("echo")
        def echo(self, payload: Any) -> Reply:
            return Reply("ok", payload)

        @on("size")
        def size(self, payload: bytes) -> Any:
            return {"size": len(payload)}

        @on("say")
        def say(self, payload: Any) -> None:
            self.broadcast("said", payload)

    return UserSocket


class Browser:
    """A client that polls, through all of an app's WSGI stack."""

    def __init__(self, http: FlaskClient, vsn: str = "2.0.0", url: str = URL) -> None:
        self.http = http
        self.query = {"vsn": vsn}
        self.url = url
        self.token = ""

    def get(self, token: str | None = None, **headers: str) -> TestResponse:
        """Poll, with the token in the query as older clients send it; headers are named with underscores."""
        query = self.query if token is None else {**self.query, "token": token}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.get(self.url, query_string=query, headers=named, buffered=True)

    def post(self, body: str | bytes, kind: str | None = None, token: str | None = None) -> TestResponse:
        """Send what is written, with the token of the session."""
        query = {**self.query, "token": self.token if token is None else token}
        return self.http.post(self.url, query_string=query, data=body, content_type=kind)

    def open(self, **headers: str) -> Browser:
        """Begin a session."""
        self.token = logical(self.get(**headers), 410)["token"]
        return self

    def poll(self) -> list[Any]:
        """Return the messages that wait, or come."""
        answer = logical(self.get(self.token), 200)
        assert answer["token"] == self.token
        return [json.loads(message) for message in answer["messages"]]

    def wait(self) -> gevent.Greenlet[[], list[Any]]:
        """Let a poll wait."""
        poll = gevent.spawn(self.poll)
        turn()
        return poll

    def send(self, *messages: Any) -> None:
        """Send messages in one batch, as newer clients do."""
        assert logical(self.post("\n".join(map(json.dumps, messages)), NDJSON), 200) == {"status": 200}

    def join(self) -> Browser:
        """Join ``room:1``, in vsn 2.0.0."""
        self.send(["1", "1", "room:1", "phx_join", {}])
        assert self.poll() == [["1", "1", "room:1", "phx_reply", JOINED]]
        return self


def logical(answer: TestResponse, status: int) -> dict[str, Any]:
    """Return the body of an answer, whose status is inside."""
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]
    content: dict[str, Any] = json.loads(answer.data)
    assert content["status"] == status
    return content


def bare(answer: TestResponse, status: int) -> None:
    """See that an answer is a refusal by HTTP, which any page may read."""
    assert answer.status_code == status
    assert answer.headers.getlist("Access-Control-Allow-Origin") == ["*"]


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    app.secret_key = "a secret for tests"
    yield app
    stop(app)


@pytest.fixture
def phoenix(app: Flask) -> Phoenix:
    return Phoenix(app)


@pytest.fixture
def http(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def browser(phoenix: Phoenix, http: FlaskClient) -> Browser:
    serve_rooms(phoenix)
    return Browser(http)


#: Mounts a socket whose connect is a function.
Mounting = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def mount(phoenix: Phoenix) -> Mounting:
    def mount(connect: Callable[[dict[str, Any]], Any] | None = None, **options: Any) -> list[dict[str, Any]]:
        """Mount; return the list in which what each connect is told is put."""
        told: list[dict[str, Any]] = []

        @phoenix.socket("/socket", **{"longpoll": True, **options})
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
                told.append({"params": params, "transport": self.transport, **info})
                return connect(params) if connect else None

        return told

    return mount


def stop(app: Flask) -> None:
    """End the sessions of an app, and what runs for them."""
    engine = app.extensions["phoenix"].engine
    for connection in list(engine.connections):
        connection.close(1000, "closed")
    engine.stop()


# A session begins


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "\u03c0"])
def test_a_session_begins(browser: Browser, token: str | None) -> None:
    answer = logical(browser.get(token), 410)
    assert answer == {"status": 410, "token": answer["token"], "messages": []}
    assert isinstance(answer["token"], str)
    assert answer["token"] not in ("", token)
    browser.token = answer["token"]
    browser.join()


def test_each_session_has_its_token(browser: Browser, app: Flask) -> None:
    tokens = {browser.open().token for _ in range(3)}
    assert len(tokens) == 3
    assert len(app.extensions["phoenix"].engine.connections) == 3


def test_a_session_begins_anew(browser: Browser, phoenix: Phoenix, app: Flask) -> None:
    old = browser.open().token
    with app.app_context():
        for connection in list(app.extensions["phoenix"].engine.connections):
            connection.close(1001, "disconnected")
    assert logical(browser.post("[]", NDJSON), 410) == {"status": 410}
    assert logical(browser.get(old), 410)["token"] != old


def test_a_token_that_is_too_old(phoenix: Phoenix, http: FlaskClient, app: Flask) -> None:
    serve_rooms(phoenix, longpoll={"token_max_age": 1})
    browser = Browser(http).open()
    content = URLSafeTimedSerializer(app.secret_key or "", salt=URL).loads(browser.token)

    class Past(TimestampSigner):
        def get_timestamp(self) -> int:
            return super().get_timestamp() - 3

    old = URLSafeTimedSerializer(app.secret_key or "", salt=URL, signer=Past).dumps(content)
    assert logical(browser.post("[]", token=str(old)), 410) == {"status": 410}
    assert logical(browser.get(str(old)), 410)["token"] != old


def test_a_token_of_another_mount(phoenix: Phoenix, http: FlaskClient) -> None:
    serve_rooms(phoenix)
    phoenix.socket("/other", longpoll=True)(Socket)
    token = Browser(http, url="/other/longpoll").open().token
    assert logical(Browser(http).post("[]", token=token), 410) == {"status": 410}


def test_a_secret_key_is_needed(app: Flask, browser: Browser) -> None:
    app.secret_key = None
    app.testing = True
    with pytest.raises(Unsupported, match=r"set app\.secret_key \(SECRET_KEY\)"):
        browser.get()
    with pytest.raises(Unsupported, match=r"app\.secret_key"):
        browser.post("[]", token="x")


def test_keys_are_rotated(app: Flask, browser: Browser) -> None:
    token = browser.open().token
    app.config["SECRET_KEY_FALLBACKS"] = ["an older one", app.secret_key]
    app.secret_key = "a newer one"
    browser.join()
    newer = Browser(browser.http).open()
    app.config["SECRET_KEY_FALLBACKS"] = []
    newer.join()
    assert logical(browser.post("[]", token=token), 410) == {"status": 410}


# Refusals


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
def test_origin(http: FlaskClient, mount: Mounting, method: str, caplog: pytest.LogCaptureFixture) -> None:
    told = mount(check_origin=["//allowed.example"])
    answer = http.open(URL, method=method, headers={"Origin": "http://other.example"})
    assert logical(answer, 403) == {"status": 403}
    assert not told
    assert "http://other.example" in caplog.text


def test_origin_of_a_live_session(http: FlaskClient, mount: Mounting) -> None:
    mount(check_origin=["//allowed.example"])
    browser = Browser(http).open(Origin="http://allowed.example")
    assert logical(browser.get(browser.token, Origin="http://other.example"), 403) == {"status": 403}
    assert logical(browser.get(browser.token + "x", Origin="https://allowed.example"), 410)["messages"] == []


def test_refused(http: FlaskClient, mount: Mounting) -> None:
    def refuse(params: dict[str, Any]) -> None:
        raise Refused("rate_limit")

    told = mount(refuse, error_handler=lambda refused: pytest.fail("it is not asked here"))
    assert logical(Browser(http).get(), 403) == {"status": 403}
    assert len(told) == 1


@pytest.mark.parametrize("vsn", ["123.1.1", "2.1.0", "abc"])
def test_version(http: FlaskClient, mount: Mounting, vsn: str, caplog: pytest.LogCaptureFixture) -> None:
    told = mount()
    assert logical(Browser(http, vsn).get(), 403) == {"status": 403}
    assert not told
    assert "The client's requested transport version" in caplog.text


def test_connect_that_returns_something(http: FlaskClient, mount: Mounting, caplog: pytest.LogCaptureFixture) -> None:
    mount(lambda params: False)
    assert logical(Browser(http).get(), 403) == {"status": 403}
    assert "connect returned False" in caplog.text


def test_connect_that_raises(http: FlaskClient, mount: Mounting) -> None:
    mount(lambda params: 1 / 0)
    assert Browser(http).get().status_code == 500


@pytest.mark.parametrize(
    ("query", "status"), [("a=%zz", 400), ("a=%FF", 400), (f"a={'x' * 1_000_000}", 414), ("a=1&a[b]=2&&", 200)]
)
def test_query(http: FlaskClient, mount: Mounting, query: str, status: int) -> None:
    mount()
    bare(http.get(f"{URL}?{query}"), status)


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["plain", "upgrade"])
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"])
def test_other_methods(http: FlaskClient, mount: Mounting, method: str, headers: dict[str, str]) -> None:
    told = mount()
    answer = http.open(URL, method=method, headers=headers)
    bare(answer, 400)
    assert answer.data == b""
    assert not told


def test_draining(app: Flask, browser: Browser) -> None:
    browser.open().join()
    poll = gevent.spawn(lambda: browser.get(browser.token))
    turn()
    drain(app.extensions["phoenix"].engine)
    assert logical(poll.get(timeout=DEADLINE), 410)["messages"] == []
    bare(browser.get(), 503)
    bare(browser.get(browser.token), 503)
    assert logical(browser.post("[]"), 410) == {"status": 410}


def test_polls_are_answered_while_draining(app: Flask, browser: Browser) -> None:
    browser.open().join()
    app.extensions["phoenix"].engine.draining = True
    browser.send(["1", "2", "room:1", "echo", {}])
    assert [message[1] for message in browser.poll()] == ["2"]


# The preflight


@pytest.mark.parametrize("wanted", ["x-phoenix-authtoken, content-type", "x-phoenix-longpoll-token", ""])
def test_preflight(http: FlaskClient, mount: Mounting, wanted: str) -> None:
    told = mount()
    headers = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    answer = http.options(URL, headers={**headers, **({"Access-Control-Request-Headers": wanted} if wanted else {})})
    bare(answer, 200)
    assert answer.data == b""
    assert answer.headers["Access-Control-Allow-Headers"] == wanted
    assert answer.headers["Access-Control-Allow-Methods"] == "get, post, options"
    assert answer.headers["Access-Control-Max-Age"] == "3600"
    assert not told


# Polls


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0", None])
def test_conversation(browser: Browser, vsn: str | None) -> None:
    browser.query = {} if vsn is None else {"vsn": vsn}
    browser.open()

    def message(ref: str | None, event: str, payload: Any, join_ref: str | None = "1") -> Any:
        if vsn == "2.0.0":
            return [join_ref, ref, "room:1", event, payload]
        return {"topic": "room:1", "event": event, "payload": payload, "ref": ref}

    for ref, event, payload in [("1", "phx_join", {}), ("2", "echo", {"n": 1}), ("3", "say", {"a": "\u00e9\u2603"})]:
        answer = browser.post(json.dumps(message(ref, event, payload)), "application/json")
        assert logical(answer, 200) == {"status": 200}
    turn()
    assert browser.poll() == [
        message("1", "phx_reply", JOINED),
        message("2", "phx_reply", {"status": "ok", "response": {"n": 1}}),
        message(None, "said", {"a": "\u00e9\u2603"}, None),
    ]
    browser.send(message("4", "phx_leave", {}))
    assert browser.poll() == [
        message("4", "phx_reply", JOINED),
        message("1" if vsn == "2.0.0" else None, "phx_close", {}),
    ]


def test_frames_are_strings(browser: Browser) -> None:
    browser.open().send(["1", "1", "room:1", "phx_join", {}])
    (frame,) = logical(browser.get(browser.token), 200)["messages"]
    assert frame == '["1","1","room:1","phx_reply",{"status":"ok","response":{}}]'


def test_a_poll_waits(browser: Browser) -> None:
    poll = browser.open().join().wait()
    assert not poll.ready()
    browser.send(["1", "2", "room:1", "echo", {}])
    assert [message[1] for message in poll.get(timeout=DEADLINE)] == ["2"]


def test_a_broadcast_reaches_polls_that_wait(browser: Browser, phoenix: Phoenix) -> None:
    others = [Browser(browser.http).open().join().wait() for _ in range(3)]
    phoenix.broadcast("room:1", "said", {"n": 1})
    for poll in others:
        assert poll.get(timeout=DEADLINE) == [[None, None, "room:1", "said", {"n": 1}]]


def test_nothing_within_the_window(phoenix: Phoenix, http: FlaskClient) -> None:
    serve_rooms(phoenix, window=SHORT)
    browser = Browser(http).open()
    answer = logical(browser.get(browser.token), 204)
    assert answer == {"status": 204, "token": browser.token, "messages": []}


def test_a_client_that_stays_away(phoenix: Phoenix, http: FlaskClient, app: Flask) -> None:
    gone = Event()
    serve_rooms(phoenix, window=SHORT)

    @phoenix.socket("/raw", longpoll={"window": SHORT})
    class Raw(RawSocket):
        def terminate(self, reason: Any) -> None:
            assert reason == "inactive"
            gone.set()

    browser = Browser(http, url="/raw/longpoll").open()
    assert gone.wait(DEADLINE)
    assert logical(browser.post("x"), 410) == {"status": 410}
    assert not app.extensions["phoenix"].engine.connections


def test_disconnect(browser: Browser, phoenix: Phoenix) -> None:
    browser.query["user"] = "ann"
    browser.open().join()
    poll = gevent.spawn(lambda: browser.get(browser.token))
    turn()
    phoenix.disconnect("ann")
    assert logical(poll.get(timeout=DEADLINE), 410)["messages"] == []
    assert logical(browser.post("[]"), 410) == {"status": 410}
    assert logical(browser.get(browser.token), 410)["token"] != browser.token


def test_sessions_are_connections(browser: Browser, phoenix: Phoenix) -> None:
    browser.open()
    assert phoenix.connection_count() == 1


# Where the token stands


def test_token_in_the_header(browser: Browser) -> None:
    browser.open().send(["1", "1", "room:1", "phx_join", {}])
    answer = logical(browser.get(X_Phoenix_Longpoll_Token=browser.token), 200)
    assert answer["token"] == browser.token
    headers = {"x-phoenix-longpoll-token": browser.token}
    assert logical(browser.http.post(URL, headers=headers, data='["1","2","room:1","echo",{}]'), 200) == {"status": 200}
    assert [message[1] for message in browser.poll()] == ["2"]


def test_the_header_wins(browser: Browser) -> None:
    other = Browser(browser.http).open()
    browser.open().send(["1", "1", "room:1", "phx_join", {}])
    assert logical(browser.get("bogus", X_Phoenix_Longpoll_Token=browser.token), 200)["token"] == browser.token
    assert logical(browser.get(browser.token, X_Phoenix_Longpoll_Token="bogus"), 410)["token"] != browser.token
    headers = {"x-phoenix-longpoll-token": "bogus"}
    answer = browser.http.post(URL, headers=headers, query_string={"token": other.token}, data="[]")
    assert logical(answer, 410) == {"status": 410}


# Posts


def test_no_session(browser: Browser) -> None:
    assert logical(browser.http.post(URL, data="[]"), 410) == {"status": 410}
    assert logical(browser.post("[]", token="bogus"), 410) == {"status": 410}


def test_a_reply_that_is_an_error_is_taken(browser: Browser) -> None:
    browser.open().send(["1", "12300", "room:1", "echo", {}])
    unmatched = {"status": "error", "response": {"reason": "unmatched topic"}}
    assert browser.poll() == [[None, "12300", "room:1", "phx_reply", unmatched]]


def test_a_batch_is_handled_in_order(browser: Browser) -> None:
    echoes = [["1", str(ref), "room:1", "echo", {"n": ref}] for ref in range(2, 10)]
    browser.open().send(["1", "1", "room:1", "phx_join", {}], *echoes, ["9", "10", "room:1", "echo", {}])
    assert [message[1] for message in browser.poll()] == ["1", *(str(ref) for ref in range(2, 10))]


def test_a_hundred_lines_are_taken(browser: Browser) -> None:
    browser.open().join().send(*(["1", str(ref), "room:1", "echo", {}] for ref in range(BATCH + 1)))
    assert [message[1] for message in browser.poll()] == [str(ref) for ref in range(100)]


@pytest.mark.parametrize(
    "text",
    ["{0}\r\n{1}", "{0}\n{1}\n", "{0}\r\n{1}\r\n", "\n{0}\n\n{1}", "\r\n{0}\r\n\r\n\n{1}\n\n\n"],
)
def test_ends_of_lines(browser: Browser, text: str) -> None:
    lines = [json.dumps(["1", ref, "room:1", "echo", {}]) for ref in ("2", "3")]
    assert logical(browser.open().join().post(text.format(*lines), NDJSON), 200) == {"status": 200}
    assert [message[1] for message in browser.poll()] == ["2", "3"]


@pytest.mark.parametrize("text", ["", "\n", "\r\n\r\n"])
def test_a_batch_of_nothing(browser: Browser, text: str) -> None:
    assert logical(browser.open().join().post(text, NDJSON), 200) == {"status": 200}
    browser.send(["1", "2", "room:1", "echo", {}])
    assert [message[1] for message in browser.poll()] == ["2"]


def test_other_line_ends_are_part_of_a_line(browser: Browser) -> None:
    text = json.dumps(["1", "2", "room:1", "echo", {"a": "x\u2028y\u0085z"}], ensure_ascii=False)
    assert logical(browser.open().join().post(text, NDJSON), 200) == {"status": 200}
    assert browser.poll()[0][4]["response"] == {"a": "x\u2028y\u0085z"}


def test_binary_lines_between_text(browser: Browser) -> None:
    push = base64.b64encode(b"\x00\x01\x01\x06\x0413room:1size\x01\x02\x03").decode()
    echo = json.dumps(["1", "2", "room:1", "echo", {}]), json.dumps(["1", "4", "room:1", "echo", {}])
    assert logical(browser.open().join().post(f"{echo[0]}\n{push}\n{echo[1]}", NDJSON), 200) == {"status": 200}
    assert [[message[1], message[4]["response"]] for message in browser.poll()] == [
        ["2", {}],
        ["3", {"size": 3}],
        ["4", {}],
    ]


@pytest.mark.parametrize(
    "kind",
    [None, "", "application/json", "text/plain", "application/x-ndjson; charset=utf-8", "application/octet-stream"],
)
def test_any_other_content_type_is_one_text(browser: Browser, kind: str | None) -> None:
    browser.open().join()
    # A line end within JSON is white space.
    text = '["1","2","room:1",\n"echo",{}]'
    assert logical(browser.post(text, kind), 200) == {"status": 200}
    assert [message[1] for message in browser.poll()] == ["2"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("{", None),
        ("", None),
        ("AAEC", None),
        ("[]\n[]", "application/json"),
        ("[", NDJSON),
        ("!!!not base64", NDJSON),
        ("AAEC", NDJSON),
        ('["1","2","room:1","echo",{}]\n[', NDJSON),
    ],
)
def test_what_is_no_message(browser: Browser, body: str, kind: str | None) -> None:
    browser.open().join()
    assert logical(browser.post(body, kind), 408) == {"status": 408}
    assert logical(browser.post(body, kind), 410) == {"status": 410}
    assert logical(browser.get(browser.token), 410)["token"] != browser.token


def test_what_is_not_utf8(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    body = b'["1","2","room:1","echo",{"a":"\xff"}]'
    browser.open().join()
    assert logical(browser.post(body), 408) == {"status": 408}
    assert logical(browser.post(body), 410) == {"status": 410}
    assert "(not UTF-8)" in caplog.text


def test_a_channel_that_is_far_behind(phoenix: Phoenix, http: FlaskClient) -> None:
    release = Event()
    user = serve_rooms(phoenix, window=SHORT)

    @user.channel("slow")
    class Slow(Channel):
        def join(self, payload: Any) -> None:
            release.wait(DEADLINE)

    browser = Browser(http).open()
    browser.send(["1", "1", "slow", "phx_join", {}])
    notes = "\n".join([json.dumps(["1", None, "slow", "note", {}])] * BATCH)
    answers = [logical(browser.post(notes, NDJSON), 200) for _ in range(INBOX_LIMIT // BATCH - 1)]
    assert answers == [{"status": 200}] * (INBOX_LIMIT // BATCH - 1)
    assert logical(browser.post(notes, NDJSON), 408) == {"status": 408}
    release.set()
    turn()
    browser.send([None, "2", "phoenix", "heartbeat", {}])


def test_a_body_that_is_too_long(browser: Browser) -> None:
    browser.open()
    answer = browser.post(b" " * (BODY_LIMIT + 1))
    bare(answer, 400)
    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    query = {**browser.query, "token": browser.token}
    chunked = browser.http.post(URL, query_string=query, data=b" " * (BODY_LIMIT + 1), environ_overrides=environ)
    bare(chunked, 400)
    browser.join()


def test_a_body_without_an_end(browser: Browser) -> None:
    class Endless(io.RawIOBase):
        """Gives what it is asked for, for ever."""

        def read(self, size: int = -1) -> bytes:
            assert 0 <= size <= BODY_LIMIT + 1, "all of it is read"
            return b" " * size

    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "wsgi.input": Endless()}
    query = {**browser.query, "token": browser.open().token}
    bare(browser.http.post(URL, query_string=query, environ_overrides=environ), 400)
    browser.join()


def test_a_body_of_unknown_length(browser: Browser) -> None:
    browser.open()
    environ = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    query = {**browser.query, "token": browser.token}
    text = '["1","1","room:1","phx_join",{}]'
    answer = browser.http.post(URL, query_string=query, data=text, environ_overrides=environ)
    assert logical(answer, 200) == {"status": 200}
    assert browser.poll() == [["1", "1", "room:1", "phx_reply", JOINED]]


def test_raw_socket(phoenix: Phoenix, http: FlaskClient) -> None:
    @phoenix.socket("/raw", longpoll=True)
    class Ping(RawSocket):
        def handle_frame(self, frame: str | bytes) -> None:
            self.send("pong" if frame == "ping" else repr(frame))

    browser = Browser(http, url="/raw/longpoll").open()
    assert logical(browser.post("ping"), 200) == {"status": 200}
    assert logical(browser.get(browser.token), 200)["messages"] == ["pong"]
    assert logical(browser.post("[ping\nAAEC", NDJSON), 200) == {"status": 200}
    assert logical(browser.get(browser.token), 200)["messages"] == ["'[ping'", "b'\\x00\\x01\\x02'"]


# What connect is told


def test_connect_is_asked_once(http: FlaskClient, mount: Mounting) -> None:
    told = mount()
    browser = Browser(http).open()
    browser.send([None, "1", "phoenix", "heartbeat", {}])
    browser.poll()
    assert told == [{"params": {"vsn": "2.0.0"}, "transport": "longpoll"}]


@pytest.mark.parametrize("token", ["1234", "any thing at all", None])
def test_auth_token(http: FlaskClient, mount: Mounting, token: str | None) -> None:
    told = mount(auth_token=True)
    Browser(http).open(**({"X_Phoenix_AuthToken": token} if token else {}))
    assert [each["auth_token"] for each in told] == [token]


def test_auth_token_that_was_not_asked_for(http: FlaskClient, mount: Mounting) -> None:
    told = mount()
    Browser(http).open(X_Phoenix_AuthToken="1234")
    assert "auth_token" not in told[0]


def test_subprotocols_are_of_no_account(http: FlaskClient, mount: Mounting) -> None:
    mount(subprotocols=["sip"])
    Browser(http).open(Sec_WebSocket_Protocol="mqtt")


def test_connect_info(http: FlaskClient, mount: Mounting) -> None:
    listed = ["peer_data", "x_headers", "trace_context_headers", "user_agent", "uri", {"salt": "x"}]
    told = mount(connect_info=listed)
    Browser(http).open(X_Application="Phoenix", Traceparent="00-1", User_Agent="foo/1.0")
    assert told[0]["peer_data"]["address"] == "127.0.0.1"
    assert ("x-application", "Phoenix") in told[0]["x_headers"]
    assert told[0]["trace_context_headers"] == [("traceparent", "00-1")]
    assert told[0]["user_agent"] == "foo/1.0"
    assert told[0]["uri"] == {
        "scheme": "http",
        "host": "localhost",
        "port": 80,
        "path": URL,
        "query": "vsn=2.0.0",
    }
    assert told[0]["salt"] == "x"


def test_session_of_the_app(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    told = mount(connect_info=["session"], check_csrf=False)

    @app.get("/login")
    def login() -> str:
        session["user"] = "ann"
        return ""

    Browser(http).open()
    http.get("/login")
    Browser(http).open()
    assert [each["session"] for each in told] == [None, {"user": "ann"}]


def test_path_variables(phoenix: Phoenix, http: FlaskClient) -> None:
    told: list[dict[str, Any]] = []

    @phoenix.socket("/shop/<shop_id>", longpoll={"path": "/at/<int:counter>"})
    class Visitor(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            told.append(params)

    browser = Browser(http, url="/shop/7/at/3").open()
    browser.send([None, "1", "phoenix", "heartbeat", {}])
    assert [message[1] for message in browser.poll()] == ["1"]
    assert told == [{"vsn": "2.0.0", "shop_id": "7", "counter": "3"}]
    assert http.get("/shop/7/longpoll").status_code == 404


# Where it is


def test_it_is_off_until_asked_for(phoenix: Phoenix, http: FlaskClient) -> None:
    phoenix.socket("/socket")(Socket)
    assert http.get(URL).status_code == 404


@pytest.mark.parametrize("url", ["/socket", "/socket/", "/socket/other", "/socket/longpoll/other"])
def test_nothing_else_is_there(browser: Browser, url: str) -> None:
    assert browser.http.get(url).status_code == 404


def test_slash_at_the_end(browser: Browser) -> None:
    browser.url += "/"
    browser.open().join()


def test_two_sockets_at_one_url(phoenix: Phoenix) -> None:
    with pytest.raises(InvalidOption, match="two sockets are mounted at /socket/same"):
        phoenix.socket("/socket", path="/same", longpoll={"path": "/same"})(Socket)


def test_without_websockets(phoenix: Phoenix, http: FlaskClient) -> None:
    serve_rooms(phoenix, websocket=False)
    assert http.get("/socket/websocket", headers=UPGRADE).status_code == 404
    Browser(http).open().join()


# The app around it


def test_functions_before_and_after_apply(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    order: list[str] = []

    @app.before_request
    def before() -> None:
        g.user = 7
        order.append(f"before {request.method}")

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["X-After"] = "yes"
        order.append("after")
        return response

    @app.teardown_request
    def teardown(error: BaseException | None) -> None:
        order.append("teardown")

    mount(lambda params: order.append(f"connect {g.user}"))
    browser = Browser(http).open()
    browser.send([None, "1", "phoenix", "heartbeat", {}])
    answer = browser.get(browser.token)
    assert answer.headers["X-After"] == "yes"
    assert len(logical(answer, 200)["messages"]) == 1
    assert order == [
        *("before GET", "connect 7", "after", "teardown"),
        *("before POST", "after", "teardown"),
        *("before GET", "after", "teardown"),
    ]


def test_before_request_may_refuse(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    @app.before_request
    def gate() -> tuple[str, int]:
        return "log in first", 401

    told = mount()
    assert Browser(http).get().status_code == 401
    assert not told


def test_error_pages_of_the_app_stay_out(app: Flask, http: FlaskClient, mount: Mounting) -> None:
    @app.errorhandler(400)
    @app.errorhandler(503)
    @app.errorhandler(HTTPException)
    @app.errorhandler(Exception)
    def page(error: Exception) -> tuple[str, int]:
        return "<h1>a page for people</h1>", 200

    mount()
    bare(http.put(URL), 400)
    app.extensions["phoenix"].engine.draining = True
    bare(http.get(URL), 503)


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_nothing_of_the_request_is_open_while_a_poll_waits(app: Flask, browser: Browser, vsn: str) -> None:
    torn: list[str] = []

    @app.teardown_request
    def request_is_over(error: BaseException | None) -> None:
        torn.append("request")

    @app.teardown_appcontext
    def app_is_over(error: BaseException | None) -> None:
        torn.append("app")

    browser.query["vsn"] = vsn
    browser.open()
    torn.clear()
    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        started.append(status)
        return lambda data: None

    environ = EnvironBuilder(URL, query_string={"token": browser.token}).get_environ()
    body = iter(app(environ, start_response))
    # What waits is the iteration, in this very context.
    assert started == ["200 OK"]
    assert torn == ["request", "app"]
    assert not has_request_context()
    assert not has_app_context()
    poll = gevent.spawn(lambda: b"".join(body))
    turn()
    assert not poll.ready()
    text = '[null,"1","phoenix","heartbeat",{}]'
    browser.post(text if vsn == "2.0.0" else '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}')
    assert json.loads(poll.get(timeout=DEADLINE))["status"] == 200


def test_the_apps_json_writes_the_answers(app: Flask, http: FlaskClient) -> None:
    app.config["PHOENIX_JSON"] = "json"
    serve_rooms(Phoenix(app))
    Browser(http).open().join()


def test_processes_that_are_not_joined_are_warned_of_once(
    app: Flask, http: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    app.config["PHOENIX_PUBSUB_URL"] = "none"
    serve_rooms(Phoenix(app))
    for _ in range(2):
        http.get(URL, environ_overrides={"wsgi.multiprocess": True})
    assert [record.message for record in caplog.records] == [MANY_PROCESSES]


def test_an_adapter_joins_several_processes(app: Flask, http: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    serve_rooms(Phoenix(app, adapter=MemoryAdapter([])))
    http.get(URL, environ_overrides={"wsgi.multiprocess": True})
    assert not caplog.records


def test_a_body_that_somebody_has_read(app: Flask, browser: Browser) -> None:
    @app.before_request
    def note() -> None:
        request.get_data()

    browser.open().join()


def test_answers_that_the_app_compresses(app: Flask, browser: Browser) -> None:
    @app.after_request
    def compress(response: Response) -> Response:
        if not response.is_streamed:
            response.set_data(gzip.compress(response.get_data()))
            response.content_encoding = "gzip"
        return response

    def content(answer: TestResponse) -> Any:
        return json.loads(gzip.decompress(answer.data) if answer.content_encoding == "gzip" else answer.data)

    browser.token = content(browser.get())["token"]
    browser.post('[null,"1","phoenix","heartbeat",{}]')
    answer = browser.get(browser.token)
    assert content(answer)["status"] == 200


# Two nodes


@pytest.fixture
def nodes(app: Flask) -> Iterator[list[Browser]]:
    """Return the same client at two apps that hear each other; a session lives at the first."""
    network: list[MemoryAdapter] = []
    apps = [app, Flask("other")]
    for each in apps:
        each.secret_key = "a secret for both"
        phoenix = Phoenix(each, adapter=MemoryAdapter(network))
        serve_rooms(phoenix, longpoll={"pubsub_timeout": SHORT})
    yield [Browser(each.test_client()) for each in apps]
    stop(apps[1])


def test_requests_may_land_anywhere(nodes: list[Browser]) -> None:
    here, there = nodes
    there.token = here.open().token
    there.send(["1", "1", "room:1", "phx_join", {}])
    assert there.poll() == [["1", "1", "room:1", "phx_reply", JOINED]]
    poll = there.wait()
    here.send(["1", "2", "room:1", "echo", {}])
    assert [message[1] for message in poll.get(timeout=DEADLINE)] == ["2"]
    assert logical(there.post("{"), 408) == {"status": 408}
    assert logical(here.post("[]"), 410) == {"status": 410}


def test_a_session_of_elsewhere_that_is_gone(nodes: list[Browser], app: Flask) -> None:
    here, there = nodes
    there.token = here.open().token
    stop(app)
    assert logical(there.post("[]"), 410) == {"status": 410}
    token = logical(there.get(there.token), 410)["token"]
    assert token != there.token
    there.token = token
    there.join()


def test_clients_of_two_nodes_meet(nodes: list[Browser]) -> None:
    here, there = (browser.open().join() for browser in nodes)
    poll = here.wait()
    there.send(["1", "2", "room:1", "say", {"n": 1}])
    said = [None, None, "room:1", "said", {"n": 1}]
    assert poll.get(timeout=DEADLINE) == [said]
    assert there.poll() == [said]
