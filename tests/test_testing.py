"""The client and the adapter that authors test with."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from flask import Flask, Response, abort, g, request, session
from gevent.event import Event
from gevent.queue import Queue
from werkzeug.exceptions import HTTPException

from flask_phoenix import (
    Channel,
    InvalidPayload,
    NotPublished,
    Phoenix,
    Refused,
    Reply,
    Socket,
    UnknownEvent,
    clock,
    on,
)
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.testing import ANYTHING, Client, Clients, Clock, LiveServer, MemoryAdapter, settling
from flask_phoenix.testing.matching import difference
from tests.support.clients import fails
from tests.support.loop import turn
from tests.support.processes import DEADLINE, ROOT

phoenix = Phoenix()

NO_METHOD = (
    "Counter has no method for 'crash': write one under @on('crash'), or Counter.handle_in, into the class of"
    " Counter.join"
)


@phoenix.socket("/shop/<shop_id>", connect_info=["session", "x_headers", "user_agent"], check_csrf=False)
class Visitor(Socket):
    """Lets those in who may."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if params.get("token") == "bad":
            raise Refused("bad token")
        if "seconds" in params:
            self.expires_at = time.time() + float(params["seconds"])
        self.assigns.update(info, seen_before=getattr(g, "seen_before", None))

    def id(self) -> str | None:
        return self.params.get("name")


@Visitor.channel("counter:*")
class Counter(Channel):
    """Answers in every way."""

    def join(self, payload: Any) -> Any:
        if payload == {"refuse": True}:
            raise Refused(reason="closed", until=9)
        if payload == {"crash": True}:
            raise KeyError
        return {"payload": payload, "params": self.params, "topic": self.topic}

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("fail")
    def fail(self, payload: Any) -> Any:
        raise Refused("no")

    @on("push")
    def tell(self, payload: Any) -> None:
        self.push("pushed", payload)

    @on("say")
    def say(self, payload: Any) -> None:
        self.broadcast("said", payload)

    @on("assigns")
    def show(self, payload: Any) -> Any:
        return dict(self.assigns)


@phoenix.socket("/strict", check_origin=["//example.com"])
class Strict(Socket):
    """Serves a page of one origin."""


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    app.secret_key = "secret"
    phoenix.init_app(app)

    @app.before_request
    def look() -> None:
        g.seen_before = request.path

    yield app
    app.extensions["phoenix"].engine.stop()


@pytest.fixture
def client(app: Flask) -> Iterator[Client]:
    with Client(app, "/shop/7") as client:
        yield client


def test_it_connects_through_the_handshake(app: Flask) -> None:
    @app.get("/login")
    def login() -> str:
        session["user"] = "ann"
        return "ok"

    http = app.test_client()
    http.get("/login")
    cookie = http.get_cookie("session")
    assert cookie is not None
    headers = {"X-Thing": "1", "User-Agent": "tests", "Cookie": f"session={cookie.value}"}
    with Client(app, "/shop/7", {"name": "ann", "list": "a"}, headers) as client:
        joined = client.join("counter:1", {"since": 3})
        params = {"vsn": "2.0.0", "shop_id": "7", "name": "ann", "list": "a"}
        assert joined.response == {"payload": {"since": 3}, "params": params, "topic": "counter:1"}
        assigns = joined.call("assigns").response
        assert (assigns["seen_before"], assigns["user_agent"]) == ("/shop/7/websocket", "tests")
        assert assigns["session"] == {"user": "ann"}
        assert ["x-thing", "1"] in assigns["x_headers"]
    with Client(app, "/strict", headers={"Origin": "http://example.com"}) as client:
        assert client.closed is None


@pytest.mark.parametrize(
    ("path", "params", "headers"),
    [("/strict", {}, {"Origin": "http://elsewhere.com"}), ("/shop/7", {"vsn": "9.0.0"}, {})],
)
def test_handshake_may_refuse(app: Flask, path: str, params: dict[str, Any], headers: dict[str, str]) -> None:
    with pytest.raises(HTTPException) as refused:
        Client(app, path, params, headers)
    assert refused.value.get_response().status_code == 403


@pytest.mark.parametrize("how", ["return", "abort"])
def test_app_may_refuse(app: Flask, how: str) -> None:
    @app.before_request
    def refuse() -> Any:
        if how == "abort":
            abort(401)
        return Response("go away", 401)

    with pytest.raises(HTTPException) as refused:
        Client(app, "/shop/7")
    assert refused.value.get_response().status_code == 401


def test_socket_or_channel_may_refuse(app: Flask, client: Client) -> None:
    with pytest.raises(Refused) as refused:
        Client(app, "/shop/7", {"token": "bad"})
    assert refused.value.response == {"reason": "bad token"}
    with pytest.raises(Refused) as refused:
        client.join("counter:1", {"refuse": True})
    assert refused.value.response == {"reason": "closed", "until": 9}
    with pytest.raises(Refused, match="unmatched topic"):
        client.join("nowhere")
    with pytest.raises(PhoenixError, match=r"/shop/<shop_id>/websocket.*/strict/websocket"):
        Client(app, "/nowhere")


def test_joins_and_messages_have_refs_of_their_own(client: Client) -> None:
    one, other = client.join("counter:1"), client.join("counter:2", [])
    assert (one.topic, one.join_ref, one.response["payload"]) == ("counter:1", "1", {})
    assert (other.topic, other.join_ref, other.response["payload"]) == ("counter:2", "2", [])
    refs = [one.push("echo", {"n": number}) for number in range(3)]
    assert refs == ["3", "4", "5"]
    assert [client.reply(ref).response["n"] for ref in reversed(refs)] == [2, 1, 0]


@pytest.mark.parametrize("payload", [{"n": 1}, b"\x00\xff", b""], ids=repr)
def test_payloads_of_both_kinds(client: Client, payload: Any) -> None:
    joined = client.join("counter:caf\u00e9")
    assert joined.call("echo", payload) == Reply("ok", payload)
    for event in ("push", "say"):
        joined.push(event, payload)
    assert (joined.assert_push("said"), joined.assert_push("pushed")) == (payload, payload)


def test_calls(client: Client) -> None:
    joined = client.join("counter:1")
    assert joined.call("echo") == Reply("ok", {})
    assert joined.call("fail") == Reply("error", {"reason": "no"})
    assert client.reply(client.push("counter:9", "echo", {})) == Reply("error", {"reason": "unmatched topic"})
    joined.push("crash")
    assert joined.assert_push("phx_error") == {"reason": "channel_crash"}


def test_what_comes_in_between_is_kept(app: Flask, client: Client) -> None:
    one, other = client.join("counter:1"), client.join("counter:2")
    for joined, number in ((one, 1), (other, 2), (one, 3)):
        joined.push("push", {"n": number})
    with app.app_context():
        phoenix.broadcast("counter:1", "news", {"n": 1})
    assert one.assert_push("news") == {"n": 1}
    assert other.assert_push("pushed") == {"n": 2}
    assert [one.assert_push("pushed")["n"] for _ in range(2)] == [1, 3]
    one.refute_push("pushed")


def test_push_of_an_older_channel_is_not_the_newer_ones(client: Client) -> None:
    old = client.join("counter:1")
    old.push("push", {"n": 1})
    new = client.join("counter:1")
    new.refute_push("pushed")
    assert (old.assert_push("pushed"), old.assert_push("phx_close")) == ({"n": 1}, {})
    assert new.leave() == Reply("ok", {})
    assert new.assert_push("phx_close") == {}


def test_ends(app: Flask) -> None:
    with Client(app, "/shop/7", {"name": "ann"}) as client, app.app_context():
        client.join("counter:1").call("echo")
        phoenix.disconnect("ann")
        client.refute(lambda message: True)
        assert client.closed == (1001, "disconnected")
    with Client(app, "/shop/7") as client:
        client.join("counter:1")
        client.close()
    assert client.closed is None
    assert not app.extensions["phoenix"].engine.connections


def test_what_it_says(client: Client) -> None:
    joined = client.join("counter:1")
    joined.push("push", {"n": 1})
    joined.push("crash")
    with pytest.raises(AssertionError) as failed:
        joined.assert_push("pushed", {"n": 2}, within=0)
    said = re.sub(rf" \({__file__}, line \d+\)", "", str(failed.value))
    lines = [re.sub(r"^ +[\d.]+ ", "0.000 ", line) for line in said.splitlines()]
    assert lines == [
        "client 1: expected 'pushed' on 'counter:1' with {'n': 2}",
        "  one came in which payload['n'] is 1, not 2",
        "  What happened (s; * is what no assertion has taken):",
        "0.000   client 1 -> phx_join on counter:1 (ref 1): {}",
        f"0.000   client 1 <- reply to 1 on counter:1: ok {joined.response}",
        "0.000   client 1 -> push on counter:1 (ref 2): {'n': 1}",
        "0.000 * client 1 <- pushed on counter:1: {'n': 1}",
        "0.000   client 1 -> crash on counter:1 (ref 3): {}",
        f"0.000   app !! {UnknownEvent(NO_METHOD)!r}",
        "0.000 * client 1 <- phx_error on counter:1 (ref 1): {'reason': 'channel_crash'}",
    ]
    with pytest.raises(AssertionError, match="client 1: expected a reply to 99, and it has not come"):
        client.reply("99", within=0)
    with pytest.raises(AssertionError, match="client 1: expected a message, and it has not come"):
        client.receive(lambda message: message.event == "other", within=0)
    with pytest.raises(AssertionError, match=r"expected no 'pushed' on 'counter:1'; got 'pushed': \{'n': 1\}"):
        joined.refute_push("pushed")
    joined.assert_push("phx_error")
    client.join("counter:2").push("phx_leave")
    with pytest.raises(AssertionError, match="expected no message; got 'phx_close'"):
        client.refute(lambda message: message.event == "phx_close")


def test_a_crash_that_nothing_asserts_fails_a_test(app: Flask) -> None:
    def play(connect: Clients) -> Client:
        left = connect("/shop/7")
        left.join("counter:1").push("crash")
        left.close()
        return left

    wrong = "the channel of 'counter:1' has crashed; if it is to, assert_push"
    with pytest.raises(AssertionError, match=wrong) as told, Clients(app) as connect:
        play(connect)
    assert isinstance(told.value.__cause__, UnknownEvent)
    with pytest.raises(AssertionError, match=wrong), Client(app, "/shop/7") as alone:
        alone.join("counter:1").push("crash")
    with pytest.raises(ZeroDivisionError), Clients(app) as connect:
        fails(ZeroDivisionError)(play(connect))  # what the test itself says comes first


def test_a_crash_is_told_at_once_with_its_cause(client: Client) -> None:
    joined = client.join("counter:1")
    with pytest.raises(AssertionError, match="'crash' on 'counter:1' \\(ref 2\\), and the channel has crashed") as told:
        joined.call("crash", within=DEADLINE * 100)
    assert isinstance(told.value.__cause__, UnknownEvent)
    with pytest.raises(Refused, match="join crashed") as refused:
        client.join("counter:2", {"crash": True})
    assert isinstance(refused.value.__cause__, KeyError)


def test_a_broadcast_as_another_subscriber_sends_it(client: Client) -> None:
    joined = client.join("counter:1")
    joined.broadcast_from("news", {"n": 1})
    assert joined.assert_push("news") == joined.assert_broadcast("news") == {"n": 1}
    client.broadcast_from("counter:1", "news", b"2")
    joined.assert_push("news", b"2")


def test_time_limit_of_the_tests_own_is_its_own(client: Client) -> None:
    joined = client.join("counter:1")
    limit = gevent.Timeout(0.001)
    with pytest.raises(gevent.Timeout) as expired, limit:
        joined.assert_push("never")
    assert expired.value is limit


def test_publisher_of_a_network() -> None:
    network: list[MemoryAdapter] = []
    adapter = MemoryAdapter(network)
    heard: Queue[Any] = Queue()
    publisher = adapter.publisher()
    for publish in (publisher.publish, adapter.publish):
        with pytest.raises(NotPublished, match=r"with (its|the) first connection"):
            publish("all", b"1")
    adapter.start("node", lambda topic, data: heard.put((topic, data)), lambda node: None)
    adapter.subscribe("all")
    publisher.publish("none", b"2")
    publisher.publish("all", b"3")
    assert heard.empty(), "nobody hears anything in the turn in which it is said"
    turn()
    assert (heard.get_nowait(), heard.empty()) == (("all", b"3"), True)
    publisher.publish("all", b"4")
    adapter.unsubscribe("all")
    turn()
    assert heard.empty(), "it was left before"
    publisher.close()
    adapter.stop()


# What payloads fit


@pytest.mark.parametrize(
    ("expected", "actual", "wrong"),
    [
        (ANYTHING, b"1", None),
        ({}, {"n": 1}, None),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}, "d": 3}, None),
        ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, None),
        ({"n": int, "s": str}, {"n": 1, "s": "1"}, None),
        ({"n": lambda n: n > 1}, {"n": 2}, None),
        (b"1", b"1", None),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "payload['a']['b'] is 2, not 1"),
        ({"a": 1}, {}, "payload has no 'a'"),
        ({"a": 1}, b"1", "payload is b'1', not {'a': 1}"),
        ([1], [1, 2], "payload has 2 items, not 1"),
        ([{"a": 1}], [{"a": 2}], "payload[0]['a'] is 2, not 1"),
        ({"n": str}, {"n": 1}, "payload['n'] is 1, no str"),
        (callable, 1, "payload is 1, which callable does not take"),
    ],
)
def test_payloads_that_fit(expected: Any, actual: Any, wrong: str | None) -> None:
    assert difference(expected, actual) == wrong


def test_payloads_that_fit_exactly() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, exact=True) == "payload['a'] has 'c', too"
    assert difference({"a": [1]}, {"a": [1]}, exact=True) is None


def test_payloads_choose_the_message(client: Client) -> None:
    joined = client.join("counter:1")
    for number in range(3):
        joined.push("push", {"n": number, "more": 1})
    assert joined.assert_push("pushed", {"n": 2}) == {"n": 2, "more": 1}
    joined.refute_push("pushed", {"n": 2})
    joined.assert_push("pushed", lambda payload: payload["n"] == 1)
    with pytest.raises(AssertionError, match="one came in which payload has 'more', too"):
        joined.assert_push("pushed", {"n": 0}, exact=True, within=0)
    joined.assert_push("pushed", {"n": 0})


def test_replies_are_told_apart(client: Client) -> None:
    joined = client.join("counter:1")
    ref = joined.push("fail")
    with pytest.raises(AssertionError, match=r"on 'counter:1' \(ref 2\) to be 'ok', any payload; it is 'error'"):
        joined.assert_reply(ref)
    ref = joined.push("echo", {"n": 1})
    with pytest.raises(AssertionError, match=r"response\['n'\] is 1, not 2"):
        joined.assert_reply(ref, "ok", {"n": 2})
    ref = joined.push("echo", {"n": 1})
    joined.refute_reply(ref, "error")
    joined.refute_reply(ref, "ok", {"n": 2})
    with pytest.raises(AssertionError, match=r"expected no reply to 'echo' on 'counter:1' \(ref 4\)"):
        joined.refute_reply(ref)
    joined.refute_reply(joined.push("say"))


def test_broadcasts_are_known_by_topic_whoever_gets_them(app: Flask) -> None:
    with Clients(app) as connect:
        ann, bob = connect("/shop/7", name="ann"), connect("/shop/7", name="bob")
        one, other = ann.join("counter:1"), bob.join("counter:2")
        one.push("say", {"n": 1})
        for client in (ann, bob):
            assert client.assert_broadcast("counter:1", "said", {"n": 1}) == {"n": 1}
            client.refute_broadcast("counter:1", "said")
        other.refute_broadcast("said")
        other.refute_push("said")
        with pytest.raises(AssertionError, match="bob: expected 'said' to be broadcast on 'counter:2'"):
            other.assert_broadcast("said", within=0)
        one.push("say", {"n": 2})
        with pytest.raises(AssertionError, match="one came in which payload\\['n'\\] is 2, not 3"):
            one.assert_broadcast("said", {"n": 3}, within=0)
        with pytest.raises(AssertionError, match="expected 'said' not to be broadcast"):
            one.refute_broadcast("said")
        late = connect("/shop/7")
        late.refute_broadcast("counter:1", "said")
    assert not app.extensions["phoenix"].engine.node.name


def test_which_mount_is_meant(app: Flask) -> None:
    with Clients(app) as connect:
        assert isinstance(connect(socket=Strict).socket, Strict)
        assert connect("/shop/7", socket=Visitor, assigns={"n": 1}, id="me").name == "me"
        with pytest.raises(PhoenixError, match="no socket of Visitor is mounted at '/strict'"):
            connect("/strict", socket=Visitor)
        with pytest.raises(PhoenixError, match="no socket is mounted at '/socket'"):
            connect()
    with pytest.raises(PhoenixError, match=r"call phoenix\.init_app"):
        Clients(Flask("bare"))


def test_sessions_of_a_test_client_and_without_one(app: Flask) -> None:
    @phoenix.socket("/private", connect_info=["session"])
    class Private(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            self.assigns["session"] = info["session"]

    http = app.test_client()
    with Clients(app) as connect:
        assert connect("/private", http=http).socket.assigns == {"session": None}
        with http.session_transaction() as kept:
            kept.update({"user": "ann"})
        assert connect("/private", http=http).socket.assigns == {"session": None}, "no page has asked for the token"
        with http.session_transaction() as kept:
            kept["_csrf_token"] = "the token"
        assert connect("/private", http=http).socket.assigns["session"]["user"] == "ann"
        assert connect("/private", session={"user": "bob"}).socket.assigns["session"]["user"] == "bob"
        app.secret_key = None
        with pytest.raises(PhoenixError, match="needs the app's SECRET_KEY"):
            connect("/private", session={"user": "bob"})


def test_where_a_client_comes_from(app: Flask) -> None:
    @phoenix.socket("/placed", connect_info=["peer_data", "uri"])
    class Placed(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            self.assigns.update(scheme=info["uri"]["scheme"], **info["peer_data"])

    with Clients(app) as connect:
        assert connect("/placed").socket.assigns == {"scheme": "http", "address": "127.0.0.1", "port": None}
        environ = {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "4711", "wsgi.url_scheme": "https"}
        there = {"scheme": "https", "address": "192.0.2.7", "port": 4711}
        assert connect("/placed", environ=environ).socket.assigns == there
        assert connect("/placed", environ=environ, http=app.test_client()).socket.assigns == there


def test_clients_of_one_id_have_names_of_their_own(app: Flask) -> None:
    with Clients(app) as connect:
        clients = [connect("/shop/7", {"name": "ann"}) for _ in range(3)]
        assert [client.name for client in clients] == ["ann", "ann (2)", "ann (3)"]
        assert connect("/shop/7", name="ann").name == "ann"
        assert [connect("/shop/7").name for _ in range(2)] == ["client 1", "client 2"]


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_both_versions(app: Flask, vsn: str) -> None:
    nested = {"a": {"b": "1", "c": ["2", "3"]}, "d": True}
    with Clients(app) as connect:
        client = connect("/shop/7", params=nested, vsn=vsn)
        joined = client.join("counter:1")
        assert joined.response["params"] == {**nested, "d": "true", "vsn": vsn, "shop_id": "7"}
        joined.push("push", {"n": 1})
        joined.assert_push("pushed", {"n": 1})
        if vsn == "1.0.0":
            with pytest.raises(InvalidPayload, match=r"vsn 1\.0\.0 cannot send bytes"):
                joined.push("push", b"1")


def test_the_far_end(client: Client) -> None:
    joined = client.join("counter:1")
    assert (client.socket.params["shop_id"], joined.channel.topic) == ("7", "counter:1")
    joined.leave()
    with pytest.raises(AssertionError, match="'counter:1' is not joined"):
        client.channel("counter:1")
    with pytest.raises(AssertionError, match="expected the connection to be closed 1000; it is open"):
        client.assert_closed(1000, within=0)


def test_what_was_closed(app: Flask) -> None:
    with Clients(app) as connect:
        client = connect("/shop/7", {"name": "ann"})
        with app.app_context():
            phoenix.disconnect("ann")
        with pytest.raises(AssertionError, match="to be closed 1000; it was, with"):
            client.assert_closed(1000)
        client.assert_closed(1001, "disconnected")
        with pytest.raises(AssertionError, match="'echo' cannot be sent: the connection was closed"):
            client.push("counter:1", "echo")


# Time


def test_time_stands_still_and_passes_in_order(phoenix_clock: Clock) -> None:
    began, seen = time.time(), list[Any]()

    def note(what: str) -> None:
        seen.append((what, time.time() - began, clock.monotonic()))

    def nap() -> None:
        gevent.sleep(10)
        note("slept")
        with gevent.Timeout(5, False):  # type: ignore[arg-type]  # which its stubs do not know
            Event().wait()
        note("timed out")

    start = phoenix_clock.monotonic()
    gevent.spawn_later(20, note, "later")
    gevent.spawn(nap)
    every = gevent.get_hub().loop.timer(4, 4)
    every.start(note, "tick")
    phoenix_clock.advance(9)
    assert [what for what, *_ in seen] == ["tick", "tick"]
    assert phoenix_clock.next == 1
    phoenix_clock.advance(11)
    every.close()
    told = [("tick", 4), ("tick", 8), ("slept", 10), ("tick", 12), ("timed out", 15), ("tick", 16), ("later", 20)]
    assert [(what, at) for what, at, _ in seen if what != "tick" or at < 20] == told
    assert all(at == monotonic - start for _, at, monotonic in seen)
    assert phoenix_clock.time() == gevent.get_hub().loop.now() == time.time() == began + 20
    phoenix_clock.advance(100)
    assert not phoenix_clock.advance_to_next()


def test_what_is_due_at_one_moment_can_be_stopped_by_what_comes_first(phoenix_clock: Clock) -> None:
    rung = list[str]()
    loop: Any = gevent.get_hub().loop
    with loop.timer(10) as first, loop.timer(10) as second, loop.timer(10) as third:
        first.start(second.stop)
        second.start(rung.append, "second")
        third.start(rung.append, "third")
        phoenix_clock.advance(10)
    assert rung == ["third"]


def test_an_hour_of_a_client(phoenix_clock: Clock, app: Flask) -> None:
    with Clients(app) as connect:
        joined = connect("/shop/7", params={"seconds": 3600}).join("counter:1")
        silent = connect("/shop/7", heartbeat=None)
        phoenix_clock.advance(59.9)
        assert silent.closed is None
        phoenix_clock.advance(0.1)
        silent.assert_closed(1002, "timeout")
        phoenix_clock.advance(3539.9)
        joined.assert_push("token_expiring", {"expires_in": 60})
        assert joined.client.closed is None
        phoenix_clock.advance(0.1)
        joined.client.assert_closed(3000)


def test_one_clock_at_a_time_which_leaves_nothing(phoenix_clock: Clock) -> None:
    with pytest.raises(PhoenixError, match="there is a clock already"), Clock():
        pass
    assert phoenix_clock.elapsed == 0


def test_the_clock_ends() -> None:
    loop, now, sign = gevent.get_hub().loop, time.time, clock.time
    with Clock() as virtual:
        rings, rang = gevent.spawn_later(1, int), Event()
        gevent.spawn_later(0.01, rang.set)
        assert virtual.next == 0.01
    assert (gevent.get_hub().loop, time.time, clock.time, clock.monotonic) == (loop, now, sign, time.monotonic)
    assert rang.wait(DEADLINE), "it goes on in real time"
    rings.kill()


def test_what_never_rests_is_said(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    monkeypatch.setattr(settling, "RESTLESS", 0.05)

    def run() -> None:
        while True:
            gevent.sleep(0)

    running = gevent.spawn(run)
    with pytest.raises(PhoenixError, match="a greenlet runs without end"):
        client.refute(lambda message: True)
    running.kill()


def test_a_failure_says_what_is_due(phoenix_clock: Clock, app: Flask) -> None:
    with Clients(app) as connect:
        joined = connect("/shop/7", heartbeat=None).join("counter:1")
        with pytest.raises(AssertionError, match=r"the next timer is due in 60 s: phoenix_clock\.advance"):
            joined.assert_push("late", within=0)


# A real server


def make_app() -> Flask:
    """Return an app for a server of its own."""
    app = Flask(__name__)
    Phoenix(app).socket("/shop/<shop_id>")(Visitor)
    return app


def test_a_server_of_its_own() -> None:
    with LiveServer(make_app, {"PYTHONPATH": str(ROOT)}) as server:
        with pytest.raises(HTTPException) as refused:
            server.client("/shop/7", params={"token": "bad"})
        assert refused.value.get_response().status_code == 403
        one, other = server.client("/shop/7", params={"name": "ann"}), server.client("/shop/7", vsn="1.0.0")
        here, there = one.join("counter:1"), other.join("counter:1")
        assert here.call("echo", b"1") == Reply("ok", b"1")
        here.push("say", {"n": 1})
        assert (here.assert_push("said"), there.assert_push("said", {"n": 1})) == ({"n": 1}, {"n": 1})
        here.refute_push("said")
        there.push("crash")
        there.assert_push("phx_error")
        for ask in (partial(here.assert_broadcast, "a"), partial(here.refute_broadcast, "a"), lambda: here.channel):
            with pytest.raises(PhoenixError, match="runs in another process"):
                ask()
        with pytest.raises(HTTPException, match="404 Not Found"):
            server.client("/nowhere")
    crashed = pytest.raises(AssertionError, match="client 1: the channel of 'counter:1' has crashed")
    with crashed, LiveServer(make_app, {"PYTHONPATH": str(ROOT)}) as server:
        server.client("/shop/7").join("counter:1").push("crash")
    with pytest.raises(PhoenixError, match="let it stand at the top of a module"):
        LiveServer(lambda: make_app())
    with pytest.raises(PhoenixError, match=r"does not start; it wrote:\n(.*\n)*.*Failed to find attribute 'nothing'"):
        LiveServer("tests.test_testing:nothing")
