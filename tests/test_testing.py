"""The client and the adapter that authors test with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from flask import Flask, Response, abort, g, request, session
from gevent.queue import Queue
from werkzeug.exceptions import HTTPException

from flask_phoenix import Channel, NotPublished, Phoenix, Refused, Reply, Socket, UnknownEvent, on
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.testing import Client, MemoryAdapter
from tests.support.loop import turn

phoenix = Phoenix()

NO_METHOD = "Counter has no method for 'crash': write one under @on('crash'), or Counter.handle_in"


@phoenix.socket("/shop/<shop_id>", connect_info=["session", "x_headers", "user_agent"], check_csrf=False)
class Visitor(Socket):
    """Lets those in who may."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if params.get("token") == "bad":
            raise Refused("bad token")
        self.assigns.update(info, seen_before=getattr(g, "seen_before", None))

    def id(self) -> str | None:
        return self.params.get("name")


@Visitor.channel("counter:*")
class Counter(Channel):
    """Answers in every way."""

    def join(self, payload: Any) -> Any:
        if payload == {"refuse": True}:
            raise Refused(reason="closed", until=9)
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
    lines = [re.sub(r"^ +[\d.]+ ", "0.000 ", line) for line in str(failed.value).splitlines()]
    assert lines == [
        "client: expected 'pushed' on 'counter:1' with {'n': 2}",
        "  one came in which payload['n'] is 1, not 2",
        "  What happened (s; * is what no assertion has taken):",
        "0.000   client -> phx_join on counter:1 (ref 1): {}",
        f"0.000   client <- reply to 1 on counter:1: ok {joined.response}",
        "0.000   client -> push on counter:1 (ref 2): {'n': 1}",
        "0.000 * client <- pushed on counter:1: {'n': 1}",
        "0.000   client -> crash on counter:1 (ref 3): {}",
        f"0.000   app !! {UnknownEvent(NO_METHOD)!r}",
        "0.000 * client <- phx_error on counter:1 (ref 1): {'reason': 'channel_crash'}",
    ]
    with pytest.raises(AssertionError, match="client: expected a reply to 99, and it has not come"):
        client.reply("99", within=0)
    with pytest.raises(AssertionError, match="client: expected a message, and it has not come"):
        client.receive(lambda message: message.event == "other", within=0)
    with pytest.raises(AssertionError, match=r"expected no 'pushed' on 'counter:1'; got 'pushed': \{'n': 1\}"):
        joined.refute_push("pushed")
    joined.assert_push("phx_error")
    client.join("counter:2").push("phx_leave")
    with pytest.raises(AssertionError, match="expected no message; got 'phx_close'"):
        client.refute(lambda message: message.event == "phx_close")


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
