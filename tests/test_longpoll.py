"""Long polling, over HTTP: sessions and their tokens, polls, posts, refusals, and requests that land elsewhere."""

from __future__ import annotations

import gzip
import io
import json
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask, Response, g, has_app_context, has_request_context, request
from flask_seasurf import SeaSurf
from flask_wtf.csrf import CSRFProtect
from gevent.event import Event
from gevent.queue import Queue
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder, TestResponse

from flask_phoenix import (
    Broadcast,
    Channel,
    InvalidOption,
    Phoenix,
    RawSocket,
    Refused,
    Reply,
    Socket,
    Unsupported,
    on,
)
from flask_phoenix.exceptions import NotPublished
from flask_phoenix.pubsub import hub
from flask_phoenix.runtime.inbox import INBOX_LIMIT
from flask_phoenix.runtime.settings import Settings
from flask_phoenix.server.drain import drain
from flask_phoenix.testing import Clock, MemoryAdapter
from flask_phoenix.transports.longpoll import carrier, remote
from flask_phoenix.transports.longpoll import registry as sessions
from flask_phoenix.transports.longpoll.endpoint import BATCH, PIECE
from flask_phoenix.transports.options import Options
from tests.support.clients import JOINED
from tests.support.loop import in_thread, turn
from tests.support.processes import DEADLINE
from tests.support.wire import UPGRADE

URL, RAW = "/socket/longpoll", "/raw/longpoll"
NDJSON = "application/x-ndjson"
KEY = "a secret for tests"
#: A window that no test waits for, and one that a test may.
LONG, SHORT = 10 * DEADLINE, DEADLINE / 100

JOIN = ["1", "1", "room:1", "phx_join", {}]
CRASHED = ["1", "1", "room:1", "phx_error", {"reason": "channel_crash"}]


class Site:
    """An app whose clients may poll: rooms at ``/socket``, frames at ``/raw``."""

    def __init__(self, network: list[MemoryAdapter] | None = None, **options: Any) -> None:
        self.app = Flask(__name__)
        self.app.secret_key = KEY
        self.adapter: Any = None if network is None else MemoryAdapter(network)
        self.phoenix = Phoenix(self.app, adapter=self.adapter)
        #: What each connect was told, and how raw sockets and rooms ended.
        self.told: list[dict[str, Any]] = []
        self.reasons: Queue[Any] = Queue()
        self.frames: list[str | bytes] = []
        #: What a connect does, and what the event ``wait`` waits for.
        self.connect: Callable[[dict[str, Any]], Any] = lambda params: None
        self.release = Event()
        longpoll = {"window": LONG, **options.pop("longpoll", {})}
        self._serve_rooms(longpoll, options)
        self._serve_frames(longpoll, options)

    @property
    def engine(self) -> Any:
        """The app's engine."""
        return self.app.extensions["phoenix"].engine

    def stop(self) -> None:
        """End the sessions, and what runs for them."""
        for connection in list(self.engine.connections):
            connection.close(1000, "closed")
        self.engine.stop()

    def _serve_rooms(self, longpoll: dict[str, Any], options: dict[str, Any]) -> None:
        site = self

        @self.phoenix.socket("/socket", longpoll=longpoll, **options)
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
                site.told.append({"params": params, "transport": self.transport, **info})
                return site.connect(params)

            def id(self) -> str | None:
                return self.params.get("user")

        @UserSocket.channel("room:*")
        class RoomChannel(Channel):
            def join(self, payload: Any) -> None:
                return None

            @on("echo")
            def echo(self, payload: Any) -> Reply:
                return Reply("ok", payload)

            @on("say")
            def say(self, payload: Any) -> Any:
                self.broadcast("said", payload)
                return {}

            @on("push_bytes")
            def push_bytes(self, payload: Any) -> None:
                self.push("pushed", b"\x01")

            @on("wait")
            def wait(self, payload: Any) -> None:
                site.release.wait(DEADLINE)

            @on("note")
            def note(self, payload: Any) -> None:
                pass

            def terminate(self, reason: Any) -> None:
                site.reasons.put(reason)

    def _serve_frames(self, longpoll: dict[str, Any], options: dict[str, Any]) -> None:
        site = self

        @self.phoenix.socket("/raw", longpoll=longpoll, **options)
        class EchoSocket(RawSocket):
            def id(self) -> str | None:
                return self.params.get("user")

            def handle_frame(self, frame: str | bytes) -> None:
                site.frames.append(frame)
                if frame == "[stop":
                    self.close(1001, "stopped")
                self.send(frame if isinstance(frame, str) else repr(frame))  # behind the end too: to nobody

            def terminate(self, reason: Any) -> None:
                site.reasons.put(reason)


class Browser:
    """A client that polls, through all of an app's WSGI stack."""

    def __init__(self, site: Site, url: str = URL, **query: str) -> None:
        self.http = site.app.test_client()
        self.url = url
        self.query = {"vsn": "2.0.0", **query}
        self.token = ""

    def get(self, token: str | None = None, **headers: str) -> TestResponse:
        """Poll, with the token in the query as older clients send it; headers are named with underscores."""
        query = self.query if token is None else {**self.query, "token": token}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.get(self.url, query_string=query, headers=named, buffered=True)

    def post(self, body: Any, kind: str | None = None, token: str | None = None, **environ: Any) -> TestResponse:
        """Send what is written, with the token of the session."""
        query = {**self.query, "token": self.token if token is None else token}
        return self.http.post(
            self.url, query_string=query, data=body, content_type=kind, environ_overrides=environ or None
        )

    def open(self, **headers: str) -> Browser:
        """Begin a session."""
        self.token = logical(self.get(**headers), 410)["token"]
        turn()
        return self

    def join(self) -> Browser:
        """Begin a session, and join ``room:1``, in vsn 2.0.0."""
        self.open().send(JOIN)
        assert self.poll() == [["1", "1", "room:1", "phx_reply", JOINED]]
        return self

    def raw(self, status: int = 200) -> list[str]:
        """Return the frames that wait, or come."""
        answer = logical(self.get(self.token), status)
        assert answer["token"] == self.token or status == 410
        frames: list[str] = answer["messages"]
        return frames

    def poll(self) -> list[Any]:
        """Return the messages that wait, or come."""
        return [json.loads(frame) for frame in self.raw()]

    def wait(self, status: int = 200) -> gevent.Greenlet[..., list[str]]:
        """Let a poll wait."""
        poll = gevent.spawn(self.raw, status)
        turn()
        return poll

    def send(self, *messages: Any) -> None:
        """Send messages in one batch, as newer clients do."""
        assert logical(self.post("\n".join(map(json.dumps, messages)), NDJSON), 200) == {"status": 200}

    def say(self, ref: str, event: str, payload: Any = None) -> None:
        """Send an event on ``room:1``."""
        self.send(["1", ref, "room:1", event, payload or {}])

    def gone(self) -> bool:
        """Tell whether the session has ended."""
        return bool(json.loads(self.post("", NDJSON).data)["status"] == 410)


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


def refs(messages: list[Any]) -> list[Any]:
    return [message[1] for message in messages]


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site() -> Iterator[MakeSite]:
    """Make apps, and stop them in the end."""
    sites: list[Site] = []

    def make_site(*arguments: Any, **options: Any) -> Site:
        sites.append(Site(*arguments, **options))
        return sites[-1]

    yield make_site
    for site in sites:
        site.stop()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site)


# Sessions and their tokens


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "....", "\u03c0", "a" * 4000, "\0"])
def test_a_session_begins(browser: Browser, token: str | None) -> None:
    answer = logical(browser.get(token), 410)
    assert answer == {"status": 410, "token": answer["token"], "messages": []}
    assert answer["token"] not in ("", token)
    browser.token = answer["token"]
    browser.send(JOIN)
    assert refs(browser.poll()) == ["1"]


def test_each_session_has_its_own_token_which_can_stand_in_an_address(site: Site, browser: Browser) -> None:
    tokens = {browser.open().token for _ in range(3)}
    assert len(tokens) == site.phoenix.connection_count() == 3
    assert all(character.isascii() and (character.isalnum() or character in "-_.") for character in "".join(tokens))


class Past(TimestampSigner):
    """Signs as it was done some seconds ago."""

    age = 3

    def get_timestamp(self) -> int:
        return super().get_timestamp() - self.age


def signed(token: str, key: str = KEY, salt: str = URL, **options: Any) -> str:
    """Sign what a token says in another way."""
    content = URLSafeTimedSerializer(KEY, salt=URL).loads(token)
    return str(URLSafeTimedSerializer(key, salt=salt, **options).dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-2],
        lambda token: ("A" if token[0] != "A" else "B") + token[1:],
        lambda token: token.replace(".", ".A", 1),
        lambda token: signed(token, key="another key"),
        lambda token: signed(token, salt="/other/longpoll"),
        lambda token: signed(token, signer=Past),
    ],
    ids=["cut", "changed", "added", "another key", "another mount", "too old"],
)
def test_a_token_that_is_not_good_begins_a_session_anew(make_site: MakeSite, change: Callable[[str], str]) -> None:
    browser = Browser(make_site(longpoll={"token_max_age": 2})).open()
    bad = change(browser.token)
    assert logical(browser.post("[]", token=bad), 410) == {"status": 410}
    assert logical(browser.get(bad), 410)["token"] != bad
    assert logical(browser.post("", NDJSON, token=signed(browser.token)), 200) == {"status": 200}


def test_a_token_of_the_future_is_good(make_site: MakeSite) -> None:
    browser = Browser(make_site()).open()
    # By another host, whose clock is ahead.
    future = signed(browser.token, signer=type("Future", (Past,), {"age": -10}))
    assert logical(browser.post("", NDJSON, token=future), 200) == {"status": 200}


@pytest.mark.parametrize("key", [None, ""])
def test_a_secret_key_is_needed(site: Site, browser: Browser, key: str | None) -> None:
    site.app.secret_key, site.app.testing = key, True
    with pytest.raises(Unsupported, match=r"set app\.secret_key \(SECRET_KEY\)"):
        browser.get()
    with pytest.raises(Unsupported, match=r"app\.secret_key"):
        browser.post("[]", token="x")


def test_keys_are_rotated(site: Site, browser: Browser) -> None:
    browser.open()
    site.app.config["SECRET_KEY_FALLBACKS"], site.app.secret_key = ["an older one", KEY], "a newer one"
    newer = Browser(site).open()
    assert not browser.gone()
    site.app.config["SECRET_KEY_FALLBACKS"] = []
    assert (browser.gone(), newer.gone()) == (True, False)


def test_the_token_in_the_header_wins(site: Site, browser: Browser) -> None:
    other = Browser(site).open()
    browser.open().send(JOIN)
    assert logical(browser.get("bogus", X_Phoenix_Longpoll_Token=browser.token), 200)["token"] == browser.token
    assert logical(browser.get(browser.token, X_Phoenix_Longpoll_Token="bogus"), 410)["token"] != browser.token
    for token, status in ((browser.token, 200), ("bogus", 410)):
        headers = {"x-phoenix-longpoll-token": token, "Content-Type": NDJSON}
        logical(browser.http.post(URL, headers=headers, query_string={"token": other.token}), status)


@pytest.mark.parametrize("where", ["query", "header"])
def test_a_parameter_of_the_app_may_be_named_token(site: Site, where: str) -> None:
    browser = Browser(site, token="of-the-app").open()
    assert site.told[0]["params"] == {"vsn": "2.0.0", "token": "of-the-app"}
    # Every client appends its session's token, and Phoenix takes the last of equal parameters.
    query = f"token={browser.token}" if where == "query" else ""
    headers = {"x-phoenix-longpoll-token": browser.token} if where == "header" else {}
    url = f"{URL}?vsn=2.0.0&token=of-the-app&{query}"
    assert logical(browser.http.post(url, data=json.dumps(JOIN), headers=headers), 200) == {"status": 200}
    assert logical(browser.http.get(url, headers=headers), 200)["token"] == browser.token
    assert site.phoenix.connection_count() == 1


def test_a_client_that_uses_none_of_its_sessions_is_slowed(
    site: Site, phoenix_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    browser, other = Browser(site), Browser(site, user="ann")
    for _ in range(sessions.UNUSED_SESSIONS):
        opening = gevent.spawn(browser.open)
        phoenix_clock.advance(0)
        opening.get(block=False)
    first = browser.token
    opening = gevent.spawn(browser.open)
    phoenix_clock.advance(sessions.UNUSED_DELAY - 0.1)
    assert not opening.ready()
    phoenix_clock.advance(0.1)
    opening.get(block=False)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("flask_phoenix.longpoll", "WARNING")
    assert f"has begun {sessions.UNUSED_SESSIONS} sessions and used none" in record.message
    opening = gevent.spawn(browser.open)
    other.open()
    turn()
    assert not opening.ready()
    for token in (first, browser.token):  # a session that is used makes room at once, and so does one that ends
        browser.post("", NDJSON, token=token)
    opening.get(timeout=DEADLINE / 2)


# Refusals


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
def test_origin(make_site: MakeSite, method: str, caplog: pytest.LogCaptureFixture) -> None:
    site = make_site(check_origin=["//allowed.example"])
    answer = site.app.test_client().open(URL, method=method, headers={"Origin": "http://other.example"})
    assert logical(answer, 403) == {"status": 403}
    assert not site.told
    assert "http://other.example" in caplog.text
    browser = Browser(site).open(Origin="http://allowed.example")
    assert logical(browser.get(browser.token, Origin="http://other.example"), 403) == {"status": 403}


def refuse(params: dict[str, Any]) -> None:
    raise Refused("rate_limit")


@pytest.mark.parametrize(
    ("vsn", "connect", "asked", "said"),
    [
        ("2.0.0", refuse, 1, ""),
        ("2.0.0", lambda params: False, 1, "connect returned False"),
        ("123.1.1", None, 0, "The client's requested transport version"),
        ("abc", None, 0, "The client's requested transport version"),
    ],
)
def test_a_client_that_is_refused(
    make_site: MakeSite, vsn: str, connect: Any, asked: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(error_handler=lambda refused: pytest.fail("it is not asked here"))
    site.connect = connect or site.connect
    assert logical(Browser(site, vsn=vsn).get(), 403) == {"status": 403}
    assert len(site.told) == asked
    assert said in caplog.text


def test_a_connect_that_raises(site: Site, browser: Browser) -> None:
    site.connect = lambda params: 1 / 0
    assert browser.get().status_code == 500


@pytest.mark.parametrize(
    ("query", "status"),
    [("a=%zz", 400), ("a=%FF", 400), ("a=\xff", 400), (f"a={'x' * 1_000_000}", 414), ("a=1&a[b]=2&&token[]=x", 200)],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_query(browser: Browser, method: str, query: str, status: int) -> None:
    bare(browser.http.open(URL, method=method, environ_overrides={"QUERY_STRING": query}), status)


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["plain", "upgrade"])
@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"])
def test_other_methods(site: Site, browser: Browser, method: str, headers: dict[str, str]) -> None:
    answer = browser.http.open(URL, method=method, headers=headers)
    bare(answer, 400)
    assert answer.data == b""
    assert not site.told


def test_error_pages_and_gates_of_the_app(site: Site, browser: Browser) -> None:
    @site.app.errorhandler(400)
    @site.app.errorhandler(503)
    @site.app.errorhandler(HTTPException)
    @site.app.errorhandler(Exception)
    def page(error: Exception) -> tuple[str, int]:
        return "<h1>a page for people</h1>", 200

    @site.app.before_request
    def gate() -> Any:
        return ("log in first", 401) if "stranger" in request.args else None

    bare(browser.http.put(URL), 400)
    site.engine.draining = True
    bare(browser.get(), 503)
    assert Browser(site, stranger="yes").get().status_code == 401
    assert not site.told


@pytest.mark.parametrize("wanted", ["x-phoenix-authtoken, content-type", "x-phoenix-longpoll-token", ""])
def test_preflight(site: Site, browser: Browser, wanted: str) -> None:
    headers = {"Origin": "http://localhost", "Access-Control-Request-Method": "POST"}
    asked = {"Access-Control-Request-Headers": wanted} if wanted else {}
    answer = browser.http.options(URL, headers={**headers, **asked})
    bare(answer, 200)
    assert answer.data == b""
    assert answer.headers["Access-Control-Allow-Headers"] == wanted
    assert answer.headers["Access-Control-Allow-Methods"] == "get, post, options"
    assert answer.headers["Access-Control-Max-Age"] == "3600"
    assert not site.told


# Where it is


def test_where_it_is(browser: Browser) -> None:
    for url in ("/socket", "/socket/", "/socket/other", "/socket/longpoll/other"):
        assert browser.http.get(url).status_code == 404
    browser.url += "/"
    browser.join()


def test_it_is_off_until_asked_for_and_may_be_alone() -> None:
    app = Flask(__name__)
    phoenix = Phoenix(app)
    phoenix.socket("/socket")(Socket)
    phoenix.socket("/polled", longpoll=True, websocket=False)(Socket)
    with pytest.raises(InvalidOption, match="two sockets are mounted at /one/same"):
        phoenix.socket("/one", path="/same", longpoll={"path": "/same"})(Socket)
    http = app.test_client()
    assert http.get(URL).status_code == 404
    assert http.get("/polled/websocket", headers=UPGRADE).status_code == 404


# What connect is told


def test_connect_is_asked_once(site: Site, browser: Browser) -> None:
    browser.join()
    assert site.told == [{"params": {"vsn": "2.0.0"}, "transport": "longpoll"}]


@pytest.mark.parametrize("token", ["1234", "any thing at all", None])
def test_auth_token(make_site: MakeSite, token: str | None) -> None:
    takes, does_not = make_site(auth_token=True, subprotocols=["sip"]), make_site()
    for site in (takes, does_not):
        Browser(site).open(Sec_WebSocket_Protocol="mqtt", **({"X_Phoenix_AuthToken": token} if token else {}))
    assert takes.told[0]["auth_token"] == token
    assert "auth_token" not in does_not.told[0]


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
    # What a handler says comes before its reply.
    assert browser.poll() == [
        message("1", "phx_reply", JOINED),
        message("2", "phx_reply", {"status": "ok", "response": {"n": 1}}),
        message(None, "said", {"a": "\u00e9\u2603"}, None),
        message("3", "phx_reply", JOINED),
    ]
    browser.send(message("4", "phx_leave", {}))
    assert browser.poll() == [
        message("4", "phx_reply", JOINED),
        message("1" if vsn == "2.0.0" else None, "phx_close", {}),
    ]


def test_a_poll_that_waits_is_woken_by_a_reply_and_by_a_broadcast(site: Site, browser: Browser) -> None:
    poll = browser.join().wait()
    assert not poll.ready()
    browser.say("2", "echo")
    assert len(poll.get(timeout=DEADLINE)) == 1
    others = [browser.wait(), *(Browser(site).join().wait() for _ in range(3))]
    in_thread(site.phoenix.broadcast, "room:1", "said", {"n": 1})
    for poll in others:
        assert poll.get(timeout=DEADLINE) == ['[null,null,"room:1","said",{"n":1}]']


def test_a_burst_is_one_answer_however_many_poll(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrier, "BURST", DEADLINE)
    monkeypatch.setattr(hub, "RECEIVERS_PER_TURN", 4)
    polls = [Browser(site).join().wait() for _ in range(10)]
    for n in range(10):
        site.phoenix.broadcast("room:1", "said", {"n": n})
    burst = [[None, None, "room:1", "said", {"n": n}] for n in range(10)]
    for poll in polls:
        assert [json.loads(frame) for frame in poll.get(timeout=DEADLINE)] == burst


def test_a_window_without_frames(phoenix_clock: Clock, make_site: MakeSite) -> None:
    browser = Browser(make_site(longpoll={"window": 10}), RAW).open()
    poll = gevent.spawn(browser.get, browser.token)
    phoenix_clock.advance(9.9)
    assert not poll.ready()
    phoenix_clock.advance(0.1)
    answer = logical(poll.get(timeout=DEADLINE), 204)
    assert answer == {"status": 204, "token": browser.token, "messages": []}
    browser.post("late")
    assert browser.raw() == ["late"]


def test_a_client_that_polls_is_there_and_one_that_only_sends_is_gone(
    phoenix_clock: Clock, make_site: MakeSite
) -> None:
    site = make_site(longpoll={"window": 10})
    there, silent = Browser(site, RAW).open(), Browser(site, RAW).open()
    for status in (200, 200, 410):
        poll = there.wait(204)
        phoenix_clock.advance(10)
        assert poll.get(timeout=DEADLINE) == []
        assert json.loads(silent.post("a").data)["status"] == status
    assert site.reasons.get(timeout=DEADLINE) == "inactive"
    assert not there.gone()
    there.wait(204).kill()  # a poll that is cut short
    phoenix_clock.advance(30)
    assert site.reasons.get(timeout=DEADLINE) == "inactive"
    assert there.gone()
    assert site.phoenix.connection_count() == 0


def test_a_process_that_stood_still_ends_nobody(phoenix_clock: Clock, make_site: MakeSite) -> None:
    site = make_site(longpoll={"window": 10})
    browser = Browser(site, RAW).open()
    (connection,) = site.engine.connections
    its: Any = connection.carrier
    # As if nobody had looked for an hour.
    its._polled -= 3600
    its._checked -= 3600
    phoenix_clock.advance(16)
    assert not browser.gone()


def test_a_newer_poll_takes_the_place_of_the_older(make_site: MakeSite) -> None:
    with Clock() as clock:
        browser = Browser(make_site(longpoll={"window": 10}), RAW).open()
        older, newer = browser.wait(204), browser.wait()
        browser.post("a")
        assert newer.get(timeout=DEADLINE) == ["a"]
        assert not older.ready()
        clock.advance(1)
        browser.post("b")
        assert browser.raw() == ["b"]
        newest = browser.wait(204)
        clock.advance(9)
        assert (older.get(block=False), newest.ready()) == ([], False)
        clock.advance(1)
        assert newest.get(block=False) == []
    newest.kill()
    browser.post("c")
    assert browser.raw() == ["c"]


def test_a_poll_that_comes_while_the_older_one_wakes_gets_the_frames(browser: Browser) -> None:
    browser.url = RAW
    older = browser.open().wait(204)
    browser.post("a")
    assert browser.raw() == ["a"]
    assert older.get(timeout=DEADLINE) == []


def test_too_much_that_waits_ends_the_session(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    site = make_site(outbox_limit=10)
    slow, other = Browser(site, RAW).open(), Browser(site, RAW).open()
    for text in ("x" * 100, "y" * 10):  # one message may be larger, and what was fetched waits no more
        slow.post(text)
        assert slow.raw() == [text]
    for text in ("x" * 5, "y" * 5):
        slow.post(text)
    assert not slow.gone()
    slow.post("z")
    assert slow.gone()
    assert not other.gone()
    assert site.reasons.get(timeout=DEADLINE) == "too slow"
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "flask_phoenix.connection")
    assert "EchoSocket polls too slowly: 10 characters wait (outbox_limit)" in record.message


def test_a_poll_gets_what_waited_when_there_is_too_much(make_site: MakeSite) -> None:
    browser = Browser(make_site(outbox_limit=10), RAW).open()
    poll = browser.wait()
    for text in ("x" * 10, "y"):
        browser.post(text)
    assert poll.get(timeout=DEADLINE) == ["x" * 10]


def test_bytes_do_not_go_to_a_client_that_polls(site: Site, browser: Browser) -> None:
    browser.join().say("2", "push_bytes")
    assert browser.poll() == [CRASHED]
    other = Browser(site).join()
    for payload in (b"\x01", {"n": 1}):  # a broadcast of bytes goes to the others
        site.phoenix.broadcast("room:1", "said", payload)
    assert other.poll() == [[None, None, "room:1", "said", {"n": 1}]]


# The end


def test_disconnect_and_a_session_anew(site: Site) -> None:
    browser, other = Browser(site, user="ann").join(), Browser(site, user="bob").join()
    poll, stays = browser.wait(410), other.wait()
    site.phoenix.disconnect("ann")
    assert poll.get(timeout=DEADLINE) == []
    assert site.reasons.get(timeout=DEADLINE) == "disconnected"
    assert not stays.ready()
    assert logical(browser.post("[]", NDJSON), 410) == {"status": 410}
    old = browser.token
    assert browser.join().token != old
    stays.kill()


def test_an_end_wakes_every_poll_and_last_words_are_fetched(site: Site) -> None:
    browser = Browser(site, RAW, user="ann").open()
    older, newer = browser.wait(410), browser.wait()
    browser.post("last words")
    site.phoenix.disconnect("ann")
    assert newer.get(timeout=DEADLINE) == ["last words"]
    assert older.get(timeout=DEADLINE) == []


def test_drain(site: Site, browser: Browser) -> None:
    poll = browser.join().wait(410)
    drain(site.engine)
    assert poll.get(timeout=DEADLINE) == []
    assert site.reasons.get(timeout=DEADLINE) == "draining"
    bare(browser.get(), 503)
    bare(browser.get(browser.token), 503)
    assert browser.gone()


def test_polls_of_a_session_are_answered_while_draining(site: Site, browser: Browser) -> None:
    browser.join()
    site.engine.draining = True
    browser.say("2", "echo")
    assert refs(browser.poll()) == ["2"]


# Posts


def test_a_batch_is_handled_in_order_up_to_a_hundred_lines(browser: Browser) -> None:
    lines = [["1", str(ref), "room:1", "echo", {}] for ref in range(2, BATCH + 2)]
    browser.open().send(JOIN, *lines)
    assert refs(browser.poll()) == [str(ref) for ref in range(1, 101)]
    browser.send(["9", "10", "room:9", "echo", {}])
    unmatched = {"status": "error", "response": {"reason": "unmatched topic"}}
    assert browser.poll() == [[None, "10", "room:9", "phx_reply", unmatched]]


@pytest.mark.parametrize(
    "text",
    ["{0}\r\n{1}", "{0}\n{1}\n", "{0}\r\n{1}\r\n", "\n{0}\n\n{1}", "\r\n{0}\r\n\r\n\n{1}\n\n\n"],
)
def test_ends_of_lines(browser: Browser, text: str) -> None:
    lines = [json.dumps(["1", ref, "room:1", "echo", {}]) for ref in ("2", "3")]
    assert logical(browser.join().post(text.format(*lines), NDJSON), 200) == {"status": 200}
    assert refs(browser.poll()) == ["2", "3"]
    for nothing in ("", "\n", "\r\n\r\n"):
        assert logical(browser.post(nothing, NDJSON), 200) == {"status": 200}


@pytest.mark.parametrize(
    ("body", "kind", "frames"),
    [
        ("[ping\nAAEC\n/+8=\n{}", NDJSON, ["[ping", b"\x00\x01\x02", b"\xff\xef", "{}"]),
        ("[x\u2028y\u0085z", NDJSON, ["[x\u2028y\u0085z"]),
        ("AAEC", None, ["AAEC"]),
        ("", None, [""]),
        ("\tx\n[", "text/plain", ["\tx\n["]),
        ("ping", "application/x-ndjson; charset=utf-8", ["ping"]),
        ("ping", "application/octet-stream", ["ping"]),
    ],
)
def test_frames_of_a_body(site: Site, body: str, kind: str | None, frames: list[str | bytes]) -> None:
    browser = Browser(site, RAW).open()
    assert logical(browser.post(body, kind), 200) == {"status": 200}
    assert site.frames == frames
    assert browser.raw() == [frame if isinstance(frame, str) else repr(frame) for frame in frames]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("{", None),
        ("", None),
        ("AAEC", None),
        ("[]\n[]", "application/json"),
        (b'["1","2","room:1","echo",{"a":"\xff"}]', None),
        ('["1","1","room:1","echo",NaN]', None),
        ("[", NDJSON),
        (" []", NDJSON),
        ("!!!not base64", NDJSON),
        ("AA=A", NDJSON),
        ("\u00e9\u00e9\u00e9\u00e9", NDJSON),
        ("AAEC", NDJSON),
        ('["1","2","room:1","echo",{}]\n[\n["1","3","room:1","echo",{}]', NDJSON),
        ("[" + "x" * 1000, NDJSON),
    ],
)
def test_what_is_no_message_ends_the_session_at_once(
    make_site: MakeSite, body: str | bytes, kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(max_frame_size=1000)
    browser = Browser(site).join()
    poll = browser.wait(200 if str(body).count("echo") == 2 else 410)
    begin = monotonic()
    assert logical(browser.post(body, kind), 408) == {"status": 408}
    assert monotonic() - begin < DEADLINE
    assert len(poll.get(timeout=DEADLINE)) in (0, 1)
    assert logical(browser.post(body, kind), 410) == {"status": 410}
    assert site.reasons.get(timeout=DEADLINE) == "invalid message"
    (record,) = [record for record in caplog.records if "what is no message" in record.message]
    assert (record.levelno, record.name) == (logging.ERROR, "flask_phoenix.connection")
    assert "UserSocket" in record.message


def test_a_session_that_ends_within_a_batch(site: Site) -> None:
    browser = Browser(site, RAW).open()
    assert logical(browser.post("[stop\n[late", NDJSON), 410) == {"status": 410}
    assert site.frames == ["[stop"]
    assert site.reasons.get(timeout=DEADLINE) == "stopped"


@pytest.fixture
def behind(make_site: MakeSite) -> tuple[Site, Browser, str]:
    """Return a client whose channel has a full inbox, and one line more for it."""
    site = make_site(longpoll={"window": 5})
    browser = Browser(site).join()
    note = json.dumps(["1", None, "room:1", "note", {}])
    browser.say("2", "wait")
    for _ in range(INBOX_LIMIT // BATCH - 1):
        assert logical(browser.post("\n".join([note] * BATCH), NDJSON), 200) == {"status": 200}
    assert logical(browser.post("\n".join([note] * (BATCH - 1)), NDJSON), 200) == {"status": 200}
    return site, browser, note


def test_a_channel_that_is_far_behind_delays_a_post_for_a_window(
    behind: tuple[Site, Browser, str], phoenix_clock: Clock
) -> None:
    site, browser, note = behind
    posting = gevent.spawn(browser.post, note)
    phoenix_clock.advance(4.9)
    assert not posting.ready()
    phoenix_clock.advance(0.1)
    assert logical(posting.get(block=False), 408) == {"status": 408}
    site.release.set()
    browser.say("3", "echo")
    assert refs(browser.poll()) == ["3"]


def test_a_post_goes_on_when_the_channel_does(behind: tuple[Site, Browser, str]) -> None:
    site, browser, note = behind
    posting = gevent.spawn(browser.post, f'{note}\n["1","3","room:1","echo",{{}}]', NDJSON)
    turn()
    assert not posting.ready()
    site.release.set()
    assert logical(posting.get(timeout=DEADLINE), 200) == {"status": 200}
    assert refs(browser.poll()) == ["3"]


def test_a_time_limit_of_somebody_else_is_not_ours(behind: tuple[Site, Browser, str]) -> None:
    site, browser, note = behind
    site.app.testing = True
    limit = gevent.Timeout(SHORT)
    with pytest.raises(gevent.Timeout) as expired, limit:
        browser.post(note)
    assert expired.value is limit
    site.release.set()


class BrokenOff(io.RawIOBase):
    """The body of a client that goes before it is whole."""

    def read(self, size: int = -1) -> bytes:
        raise OSError("unexpected end of file while reading request at position 3")


@pytest.mark.parametrize("environ", [{"CONTENT_LENGTH": "9"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_a_client_that_goes_within_its_body(browser: Browser, environ: dict[str, Any]) -> None:
    browser.open()
    environ |= {"wsgi.input": BrokenOff(), "wsgi.input_terminated": True}
    bare(browser.post(None, **environ), 400)


CHUNKED: dict[str, Any] = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}


class Endless(io.RawIOBase):
    """Gives what it is asked for, for ever."""

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= Options.max_body_size + 1, "all of it is read"
        return b" " * size


@pytest.mark.parametrize("environ", [{}, CHUNKED, {**CHUNKED, "wsgi.input": Endless()}])
def test_a_body_that_is_too_long(browser: Browser, environ: dict[str, Any]) -> None:
    browser.open()
    bare(browser.post(None if "wsgi.input" in environ else b" " * (Options.max_body_size + 1), **environ), 400)
    assert logical(browser.post(json.dumps(JOIN), **CHUNKED), 200) == {"status": 200}
    assert refs(browser.poll()) == ["1"]


class Unread(io.RawIOBase):
    """A body at which nobody is to look."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("it is read")


@pytest.mark.parametrize("token", ["", "forged"])
def test_a_body_for_no_session_is_not_read(browser: Browser, token: str) -> None:
    environ: dict[str, Any] = {"CONTENT_LENGTH": "9", "wsgi.input": Unread(), "wsgi.input_terminated": True}
    assert logical(browser.post(None, token=token, **environ), 410) == {"status": 410}


def test_the_longest_body_is_a_batch_of_the_longest_lines(make_site: MakeSite) -> None:
    site = make_site(max_frame_size=1000)
    browser = Browser(site).open()
    bare(browser.post(b" " * (BATCH * (1000 * 4 // 3 + 8) + 1)), 400)
    browser = Browser(make_site(longpoll={"max_body_size": 10})).open()
    bare(browser.post(b"12345678901"), 400)


class Stalled(io.RawIOBase):
    """A body that begins, and goes on when it may."""

    def __init__(self, pieces: int = 1) -> None:
        self.begun, self.goes_on = Event(), Event()
        self._pieces = [b" " * PIECE] * pieces

    def read(self, size: int = -1) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self.begun.set()
        self.goes_on.wait(DEADLINE)
        return b""


def test_a_body_has_a_time_limit(make_site: MakeSite) -> None:
    site = make_site(longpoll={"body_timeout": SHORT})
    browser = Browser(site).open()
    bare(browser.post(None, **{**CHUNKED, "wsgi.input": Stalled()}), 408)
    assert site.engine.limits == {"body_timeout": 1}
    assert not browser.gone()


def test_a_time_limit_of_somebody_else_within_a_body_is_not_ours(site: Site, browser: Browser) -> None:
    browser.open()
    site.app.testing = True
    limit = gevent.Timeout(SHORT)
    with pytest.raises(gevent.Timeout) as expired, limit:
        browser.post(None, **{**CHUNKED, "wsgi.input": Stalled()})
    assert expired.value is limit


def test_all_bodies_have_a_bound_and_small_ones_are_always_read(site: Site, browser: Browser) -> None:
    site.engine.configure(Settings(bodies_total=3 * PIECE))
    browser.open()
    stalled = [Stalled(2), Stalled(2)]
    first, second = (gevent.spawn(browser.post, None, **{**CHUNKED, "wsgi.input": body}) for body in stalled)
    assert all(body.begun.wait(DEADLINE) for body in stalled)
    answer = browser.post(b" " * (3 * PIECE))
    bare(answer, 503)
    assert answer.headers["Retry-After"] == "10"
    assert site.engine.limits == {"bodies_total": 1}
    browser.send(JOIN)
    for body in stalled:
        body.goes_on.set()
    bare(first.get(timeout=DEADLINE), 200)
    bare(second.get(timeout=DEADLINE), 200)
    bare(browser.post(b" " * (3 * PIECE)), 200)


# The app around it


def test_functions_before_and_after_apply(site: Site, browser: Browser) -> None:
    order: list[str] = []

    @site.app.before_request
    def before() -> None:
        g.user = 7
        request.get_data()  # a body may have been read before
        order.append(f"before {request.method}")

    @site.app.after_request
    def after(response: Response) -> Response:
        response.headers["X-After"] = "yes"
        if not response.is_streamed:
            response.set_data(gzip.compress(response.get_data()))
            response.content_encoding = "gzip"
        order.append("after")
        return response

    site.app.teardown_request(lambda error: order.append("teardown"))
    site.connect = lambda params: order.append(f"connect {g.user}")
    answers = [browser.get()]
    browser.token = json.loads(gzip.decompress(answers[0].data))["token"]
    answers += [browser.post('[null,"1","phoenix","heartbeat",{}]'), browser.get(browser.token)]
    assert [answer.headers["X-After"] for answer in answers] == ["yes"] * 3
    assert len(logical(answers[2], 200)["messages"]) == 1
    assert order == [
        *("before GET", "connect 7", "after", "teardown"),
        *("before POST", "after", "teardown"),
        *("before GET", "after", "teardown"),
    ]


def test_nothing_of_the_request_is_open_while_a_poll_waits(site: Site, browser: Browser) -> None:
    torn: list[str] = []
    site.app.teardown_request(lambda error: torn.append("request"))
    site.app.teardown_appcontext(lambda error: torn.append("app"))
    browser.open()
    torn.clear()
    started: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Callable[[bytes], object]:
        started.append(status)
        return lambda data: None

    body = iter(site.app(EnvironBuilder(URL, query_string={"token": browser.token}).get_environ(), start_response))
    # What waits is the iteration, in this very context.
    assert (started, torn) == (["200 OK"], ["request", "app"])
    assert not has_request_context()
    assert not has_app_context()
    poll = gevent.spawn(lambda: b"".join(body))
    turn()
    assert not poll.ready()
    browser.send([None, "1", "phoenix", "heartbeat", {}])
    assert json.loads(poll.get(timeout=DEADLINE))["status"] == 200


def start_poll(browser: Browser) -> Any:
    """Let the app begin an answer; return its body, which the server is to iterate over."""
    environ = EnvironBuilder(browser.url, query_string={"token": browser.token}).get_environ()
    return browser.http.application(environ, lambda *_: lambda data: None)


def check_lost_answer(browser: Browser, sender: Browser) -> None:
    """Send frames to a poll whose client is gone when the answer is written; the next poll is to have them."""
    sender.post("[1\n[2", NDJSON)
    body = start_poll(browser)
    assert json.loads(next(iter(body)))["messages"] == ["[1", "[2"]
    body.close()  # as a server does after an error
    turn()
    sender.post("3")
    assert browser.raw() == ["[1", "[2", "3"]
    poll = browser.wait()
    sender.post("4")
    assert poll.get(timeout=DEADLINE) == ["4"]


def test_an_answer_that_could_not_be_written_is_the_next_polls(site: Site) -> None:
    browser = Browser(site, RAW).open()
    check_lost_answer(browser, browser)


@pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning:flask_seasurf")
@pytest.mark.parametrize("check", ["Flask-WTF before", "Flask-WTF after", "SeaSurf"])
def test_a_check_against_forged_requests_lets_messages_pass(check: str) -> None:
    app = Flask(__name__)
    app.secret_key = KEY
    phoenix = Phoenix(None if check == "Flask-WTF before" else app)
    phoenix.socket("/socket", longpoll=True)(type("UserSocket", (Socket,), {}))
    app.post("/form")(lambda: "")
    if check == "SeaSurf":
        SeaSurf(app).exempt_urls(("/socket/",))
    else:
        CSRFProtect(app)
    if check == "Flask-WTF before":
        phoenix.init_app(app)
    site = SimpleNamespace(app=app, engine=app.extensions["phoenix"].engine)
    browser = Browser(site).open()  # type: ignore[arg-type]
    browser.send([None, "1", "phoenix", "heartbeat", {}])
    assert refs(browser.poll()) == ["1"]
    assert browser.http.post("/form").status_code in (400, 403)  # all else is checked
    Site.stop(site)  # type: ignore[arg-type]


# Several nodes


@pytest.fixture
def nodes(make_site: MakeSite) -> list[Browser]:
    """Return the same client at two apps that hear each other; a session of frames lives at the first."""
    network: list[MemoryAdapter] = []
    here, there = (Browser(make_site(network), RAW, user="ann") for _ in range(2))
    there.token = here.open().token
    return [here, there]


def test_requests_may_land_anywhere(nodes: list[Browser]) -> None:
    here, there = nodes
    here.url = there.url = URL
    there.token = here.open().token
    there.send(JOIN)
    assert refs(there.poll()) == ["1"]
    poll = there.wait()
    here.say("2", "say", {"caf\u00e9": "\u2603"})
    assert "\u2603" in poll.get(timeout=DEADLINE)[0]
    begin = monotonic()
    assert logical(there.post("{"), 408) == {"status": 408}
    assert monotonic() - begin < DEADLINE
    assert here.gone()


@pytest.mark.parametrize("told", [True, False])
def test_a_link_lost_for_a_moment_ends_no_session(
    nodes: list[Browser], monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Whether the adapter knows that it has lost a message, or not."""
    monkeypatch.setattr(remote, "REPEAT_AFTER", 0.05)
    monkeypatch.setattr(remote, "REPEAT_ACKNOWLEDGED_AFTER", 0.05)
    here, there = nodes
    here.url = there.url = URL
    there.token = here.open().token
    publish, failed = MemoryAdapter.publish, set[tuple[int, str, bytes]]()

    def fail_at_first(adapter: MemoryAdapter, topic: str, data: bytes) -> None:
        """Lose what is published, each for its first time: questions, acknowledgements and answers."""
        each = id(adapter), topic, data
        if topic.startswith("phx:lp:") and each not in failed:
            failed.add(each)
            if told:
                raise NotPublished("the link is lost")
        else:
            publish(adapter, topic, data)

    monkeypatch.setattr(MemoryAdapter, "publish", fail_at_first)
    there.send(JOIN)
    assert refs(there.poll()) == ["1"]
    assert failed


def test_a_client_whose_poll_is_held_elsewhere_is_there(
    make_site: MakeSite, phoenix_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: list[MemoryAdapter] = []
    sites = [make_site(network, longpoll={"window": 2, "pubsub_timeout": 9}) for _ in range(2)]
    here, there = (Browser(site, RAW) for site in sites)
    there.token = here.open().token
    there.post("a")
    publish = MemoryAdapter.publish

    def lose_answers(adapter: MemoryAdapter, topic: str, data: bytes) -> None:
        if b"frames" not in data or phoenix_clock.elapsed > 7:
            publish(adapter, topic, data)

    monkeypatch.setattr(MemoryAdapter, "publish", lose_answers)
    poll = there.wait()
    phoenix_clock.advance(8.5)
    assert poll.get(timeout=DEADLINE) == ["a"]


def test_frames_that_land_elsewhere(nodes: list[Browser]) -> None:
    _, there = nodes
    assert logical(there.post("AAEC\n[1]", NDJSON), 200) == {"status": 200}
    assert logical(there.post("a"), 200) == {"status": 200}
    assert there.raw() == ["b'\\x00\\x01\\x02'", "[1]", "a"]


def test_an_answer_elsewhere_that_could_not_be_written(nodes: list[Browser]) -> None:
    here, there = nodes
    check_lost_answer(there, here)


def test_a_node_that_is_killed_is_not_waited_for(make_site: MakeSite) -> None:
    network: list[MemoryAdapter] = []
    sites = [make_site(network, longpoll={"pubsub_timeout": LONG}) for _ in range(2)]
    here, there = (Browser(site, RAW) for site in sites)
    there.token = here.open().token
    poll = there.wait(410)
    sites[0].adapter.stop()  # as when its process is killed, which the others notice
    begin = monotonic()
    assert poll.get(timeout=DEADLINE) == []
    assert there.gone()
    assert logical(there.get(there.token), 410)["token"] != there.token
    assert monotonic() - begin < DEADLINE


def test_a_session_elsewhere_that_ends_while_a_poll_waits(nodes: list[Browser], phoenix_clock: Clock) -> None:
    _, there = nodes
    poll = there.wait(410)
    assert not poll.ready()
    there.http.application.extensions["phoenix"].engine.broadcast(Broadcast("ann", "disconnect", {}))
    phoenix_clock.advance(Options.pubsub_timeout)
    assert poll.get(block=False) == []


def test_a_window_elsewhere(phoenix_clock: Clock, make_site: MakeSite) -> None:
    network: list[MemoryAdapter] = []
    here, there = (Browser(make_site(network, longpoll={"window": 10}), RAW) for _ in range(2))
    there.token = here.open().token
    poll = there.wait(204)
    phoenix_clock.advance(9.9)
    assert not poll.ready()
    phoenix_clock.advance(0.1)
    assert poll.get(timeout=DEADLINE) == []


@pytest.mark.parametrize("ended", ["session", "node"])
def test_a_session_elsewhere_that_is_gone(make_site: MakeSite, ended: str) -> None:
    network: list[MemoryAdapter] = []
    sites = [make_site(network, longpoll={"pubsub_timeout": SHORT}) for _ in range(2)]
    here, there = (Browser(site, RAW, user="ann") for site in sites)
    there.token = here.open().token
    if ended == "session":
        sites[0].phoenix.disconnect("ann")
        turn()
    else:
        sites[0].stop()
    begin = monotonic()
    assert there.gone()
    assert logical(there.get(there.token), 410)["token"] != there.token
    assert monotonic() - begin < DEADLINE


def test_a_node_that_has_the_session_and_never_answers(phoenix_clock: Clock, make_site: MakeSite) -> None:
    network: list[MemoryAdapter] = []
    slow, hasty = make_site(network), make_site(network, longpoll={"window": 5, "pubsub_timeout": 1})
    here, there = Browser(slow, RAW), Browser(hasty, RAW)
    there.token = here.open().token
    polling = there.wait(410)
    phoenix_clock.advance(5.9)
    assert not polling.ready()
    phoenix_clock.advance(0.1)
    assert polling.get(block=False) == []


def test_without_an_adapter_a_session_elsewhere_is_gone_at_once(make_site: MakeSite) -> None:
    here, there = Browser(make_site(), RAW), Browser(make_site(), RAW)
    there.token = here.open().token
    assert there.gone()
    assert logical(there.get(there.token), 410)["token"] != there.token
