"""The client for tests: what it sends, what it sees, and what it says when something else came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from flask import Flask, Response, abort, g, request, session
from werkzeug.exceptions import HTTPException

from flask_phoenix import Channel, Phoenix, Refused, Reply, Socket, on
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.protocol.messages import Message
from flask_phoenix.testing import Client, MemoryAdapter
from flask_phoenix.testing.client import read_server_frame, write_client_frame

phoenix = Phoenix()


@phoenix.socket("/shop/<shop_id>", connect_info=["session", "x_headers", "user_agent"], check_csrf=False)
class Visitor(Socket):
    """Lets those in who may."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if params.get("token") == "bad":
            raise Refused("bad token")
        self.assigns.update(info, seen_before=getattr(g, "seen_before", None))

    def id(self) -> str | None:
        name = self.params.get("name")
        return f"visitor:{name}" if name else None


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

    @on("crash")
    def crash(self, payload: Any) -> Any:
        raise RuntimeError("broken")

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


# Connecting


def test_it_connects_through_the_handshake(app: Flask) -> None:
    with Client(app, "/shop/7", {"name": "ann", "list": "a"}, {"X-Thing": "1", "User-Agent": "tests"}) as client:
        joined = client.join("counter:1", {"since": 3})
        params = {"vsn": "2.0.0", "shop_id": "7", "name": "ann", "list": "a"}
        assert joined.response == {"payload": {"since": 3}, "params": params, "topic": "counter:1"}
        assigns = joined.call("assigns").response
        assert assigns["seen_before"] == "/shop/7/websocket"
        assert assigns["user_agent"] == "tests"
        assert ["x-thing", "1"] in assigns["x_headers"]
        assert app.extensions["phoenix"].engine.connections
    assert not app.extensions["phoenix"].engine.connections


def test_cookies_count(app: Flask) -> None:
    @app.get("/login")
    def login() -> str:
        session["user"] = "ann"
        return "ok"

    cookie = app.test_client().get("/login").headers["Set-Cookie"].partition(";")[0]
    with Client(app, "/shop/7", headers={"Cookie": cookie}) as client:
        assert client.join("counter:1").call("assigns").response["session"] == {"user": "ann"}


def test_a_socket_may_refuse(app: Flask) -> None:
    with pytest.raises(Refused) as refused:
        Client(app, "/shop/7", {"token": "bad"})
    assert refused.value.response == {"reason": "bad token"}


@pytest.mark.parametrize(
    ("path", "params", "headers"),
    [
        ("/strict", {}, {"Origin": "http://elsewhere.com"}),
        ("/shop/7", {"vsn": "9.0.0"}, {}),
        ("/shop/7", {"vsn": "nonsense"}, {}),
    ],
)
def test_the_handshake_may_refuse(app: Flask, path: str, params: dict[str, Any], headers: dict[str, str]) -> None:
    with pytest.raises(HTTPException) as refused:
        Client(app, path, params, headers)
    assert refused.value.get_response().status_code == 403


def test_an_origin_that_may(app: Flask) -> None:
    with Client(app, "/strict", headers={"Origin": "http://example.com"}) as client:
        assert client.closed is None


@pytest.mark.parametrize("how", ["return", "abort"])
def test_the_app_may_refuse(app: Flask, how: str) -> None:
    @app.before_request
    def refuse() -> Any:
        if how == "abort":
            abort(401)
        return Response("go away", 401)

    with pytest.raises(HTTPException) as refused:
        Client(app, "/shop/7")
    assert refused.value.get_response().status_code == 401


def test_a_path_without_a_socket(app: Flask) -> None:
    with pytest.raises(PhoenixError, match=r"/shop/<shop_id>/websocket.*/strict/websocket"):
        Client(app, "/nowhere")


# Joining


def test_a_channel_may_refuse(client: Client) -> None:
    with pytest.raises(Refused) as refused:
        client.join("counter:1", {"refuse": True})
    assert refused.value.response == {"reason": "closed", "until": 9}
    with pytest.raises(Refused) as refused:
        client.join("nowhere")
    assert refused.value.reason == "unmatched topic"


def test_a_join_has_refs_of_its_own(client: Client) -> None:
    one, other = client.join("counter:1"), client.join("counter:2")
    assert (one.topic, one.join_ref) == ("counter:1", "1")
    assert (other.topic, other.join_ref) == ("counter:2", "2")
    assert one.response["payload"] == {}
    assert one.push("echo") == "3"


@pytest.mark.parametrize("payload", [[], 0, "text", False])
def test_a_join_may_bring_anything(client: Client, payload: Any) -> None:
    assert client.join("counter:1", payload).response["payload"] == payload


# Talking


def test_a_call_waits_for_its_reply(client: Client) -> None:
    joined = client.join("counter:1")
    assert joined.call("echo", {"n": 1}) == Reply("ok", {"n": 1})
    assert joined.call("echo") == Reply("ok", {})
    assert joined.call("fail") == Reply("error", {"reason": "no"})
    assert joined.call("echo", b"\x00\xff") == Reply("ok", b"\x00\xff")
    assert joined.call("echo", b"") == Reply("ok", b"")


def test_replies_are_told_apart(client: Client) -> None:
    joined = client.join("counter:1")
    refs = [joined.push("echo", {"n": number}) for number in range(3)]
    assert [client.reply(ref).response["n"] for ref in reversed(refs)] == [2, 1, 0]


@pytest.mark.parametrize("event", ["push", "say"])
@pytest.mark.parametrize("payload", [{"n": 1}, b"\x01\x02"])
def test_events_are_expected(client: Client, event: str, payload: Any) -> None:
    joined = client.join("counter:1")
    joined.push(event, payload)
    assert joined.expect("pushed" if event == "push" else "said") == payload


def test_what_comes_in_between_is_kept(client: Client) -> None:
    one, other = client.join("counter:1"), client.join("counter:2")
    for joined, number in ((one, 1), (other, 2), (one, 3)):
        joined.push("push", {"n": number})
    assert other.expect("pushed") == {"n": 2}
    assert [one.expect("pushed")["n"] for _ in range(2)] == [1, 3]
    one.refute("pushed")


def test_a_push_of_an_older_channel_is_not_the_newer_ones(client: Client) -> None:
    old = client.join("counter:1")
    old.push("push", {"n": 1})
    new = client.join("counter:1")
    new.refute("pushed")
    assert old.expect("pushed") == {"n": 1}
    assert old.expect("phx_close") == {}
    assert new.call("echo").status == "ok"


def test_a_broadcast_of_the_app(app: Flask, client: Client) -> None:
    joined = client.join("counter:1")
    with app.app_context():
        phoenix.broadcast("counter:1", "news", {"n": 1})
    assert joined.expect("news") == {"n": 1}


def test_a_topic_that_is_not_joined(client: Client) -> None:
    assert client.reply(client.push("counter:9", "echo", {})) == Reply("error", {"reason": "unmatched topic"})


def test_leaving(client: Client) -> None:
    joined = client.join("counter:1")
    assert joined.leave() == Reply("ok", {})
    assert joined.expect("phx_close") == {}
    assert joined.call("echo").status == "error"


def test_a_crash(client: Client) -> None:
    joined = client.join("counter:1")
    joined.push("crash")
    assert joined.expect("phx_error") == {"reason": "channel_crash"}


def test_it_hears_that_it_is_closed(app: Flask) -> None:
    with Client(app, "/shop/7", {"name": "ann"}) as client, app.app_context():
        client.join("counter:1").call("echo")
        phoenix.disconnect("visitor:ann")
        client.refute(lambda message: True)
        assert client.closed == (1001, "disconnected")


def test_closing(app: Flask, client: Client) -> None:
    client.join("counter:1")
    client.close()
    client.close()
    assert client.closed is None
    assert not app.extensions["phoenix"].engine.pubsub.subscribed("counter:1")


# What it says


def test_what_was_expected_and_what_came(client: Client) -> None:
    joined = client.join("counter:1")
    joined.push("push", {"n": 1})
    with pytest.raises(AssertionError, match=r"expected 'said' on 'counter:1' within 0\.001 s; what came: .*pushed"):
        joined.expect("said", within=0.001)
    with pytest.raises(AssertionError, match="expected a reply to 99 within"):
        client.reply("99", within=0.001)
    with pytest.raises(AssertionError, match="expected a message within"):
        client.receive(lambda message: message.event == "other", within=0.001)


def test_what_was_refuted_and_came(client: Client) -> None:
    joined = client.join("counter:1")
    joined.push("push", {"n": 1})
    with pytest.raises(AssertionError, match=r"expected no 'pushed' on 'counter:1'; got .*'n': 1"):
        joined.refute("pushed", within=0.001)
    joined.push("push", {"n": 2})
    with pytest.raises(AssertionError, match="expected no message; got"):
        client.refute(lambda message: message.event == "pushed", within=0.001)


def test_a_time_limit_of_the_tests_own_is_its_own(client: Client) -> None:
    joined = client.join("counter:1")
    limit = gevent.Timeout(0.001)
    with pytest.raises(gevent.Timeout) as expired, limit:
        joined.expect("never")
    assert expired.value is limit


# Frames

FRAMES = [
    (Message("1", "2", "room:1", "e", {"n": 1}), '["1", "2", "room:1", "e", {"n": 1}]'),
    (Message(None, "2", "t", "e", None), '[null, "2", "t", "e", null]'),
    (Message("3", "5", "room:1", "blob", b"\xde\xad"), b"\x00\x01\x01\x06\x0435room:1blob\xde\xad"),
    (Message(None, None, "t", "e", b""), b"\x00\x00\x00\x01\x01te"),
    (
        Message("7", "9", "room:caf\u00e9", "\u03c0", b"\x01"),
        b"\x00\x01\x01\x0a\x0279" + "room:caf\u00e9\u03c0".encode() + b"\x01",
    ),
]


@pytest.mark.parametrize(("message", "frame"), FRAMES)
def test_what_a_client_writes(message: Message, frame: str | bytes) -> None:
    written = write_client_frame(message)
    if isinstance(written, str) and isinstance(frame, str):
        assert json.loads(written) == json.loads(frame)
    else:
        assert written == frame


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ('["1","2","t","e",{"n":1}]', Message("1", "2", "t", "e", {"n": 1})),
        ('[null,null,"t","e",{}]', Message(None, None, "t", "e", {})),
        (b"\x00\x01\x06\x043room:1blob\xde\xad", Message("3", None, "room:1", "blob", b"\xde\xad")),
        (b"\x00\x00\x06\x04room:1blob\xff", Message(None, None, "room:1", "blob", b"\xff")),
        (b"\x02\x01\x01te\x01", Message(None, None, "t", "e", b"\x01")),
        (
            b"\x01\x01\x01\x06\x0235room:1ok\x01",
            Message("3", "5", "room:1", "phx_reply", {"status": "ok", "response": b"\x01"}),
        ),
        (b"\x01\x00\x00\x01\x02tok", Message(None, None, "t", "phx_reply", {"status": "ok", "response": b""})),
    ],
)
def test_what_a_client_reads(frame: str | bytes, message: Message) -> None:
    assert read_server_frame(frame) == message


# Several nodes


def test_apps_of_one_network_hear_each_other() -> None:
    network: list[MemoryAdapter] = []
    adapters = [MemoryAdapter(network) for _ in range(3)]
    heard: list[list[tuple[str, bytes]]] = [[], [], []]

    def note(into: list[tuple[str, bytes]], topic: str, data: bytes) -> None:
        into.append((topic, data))

    for number, (adapter, into) in enumerate(zip(adapters, heard, strict=True)):
        adapter.start(f"node {number}", partial(note, into), lambda node: None)
        adapter.subscribe("all")
    assert [adapter.node for adapter in adapters] == ["node 0", "node 1", "node 2"]
    adapters[1].subscribe("some")
    adapters[0].publish("all", b"1")
    adapters[0].publish("some", b"2")
    adapters[1].publish("some", b"3")
    assert heard == [[], [], []]  # nobody hears anything in the turn in which it is said
    gevent.sleep(0)
    assert heard == [[], [("all", b"1"), ("some", b"2")], [("all", b"1")]]
    adapters[1].unsubscribe("all")
    adapters[1].unsubscribe("never asked for")
    adapters[2].stop()
    adapters[0].publish("all", b"4")
    gevent.sleep(0)
    assert heard == [[], [("all", b"1"), ("some", b"2")], [("all", b"1")]]
