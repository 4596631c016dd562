# pyright: strict
"""Tests of an app, as a user with strict checks writes them; nobody runs them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask

from flask_phoenix import Broadcaster, Message, Phoenix, Refused, Reply
from flask_phoenix.testing import (
    ANYTHING,
    Client,
    Clients,
    Clock,
    Joined,
    LiveClient,
    LiveServer,
    MemoryAdapter,
    Wire,
)
from tests.typing.user_code import UserSocket, create_app, phoenix


def read(frame: str | bytes) -> Message:
    return Message(*json.loads(frame))


@pytest.fixture
def app() -> Flask:
    return create_app()


@pytest.fixture
def lobby(phoenix_client: Clients) -> Joined:
    return phoenix_client("/socket", {"token": "ada"}).join("room:lobby", {"since": 3}, within=1)


def test_messages(app: Flask, lobby: Joined) -> None:
    ref: str = lobby.push("new_msg", {"body": "Hello"})
    response = lobby.assert_reply(ref, "ok", {"saved": bool}, exact=True)
    assert response == {"saved": True}
    reply: Reply = lobby.call("file", b"bytes", within=0.5)
    assert (reply.status, reply.response) == ("ok", b"setyb")
    assert lobby.assert_push("new_msg", lambda payload: payload["body"] != "") is not ANYTHING
    lobby.broadcast_from("new_msg", {"body": "Lunch!"})
    lobby.assert_broadcast("new_msg", {"body": str})
    lobby.refute_push("new_msg", {"body": "Bye"}, within=0.1)
    lobby.refute_reply(ref, "error")
    lobby.refute_broadcast("other")
    lobby.channel.send("a message")
    assert (lobby.topic, lobby.join_ref, lobby.response) == ("room:lobby", "1", {"room": "lobby", "others": 0})
    assert lobby.leave() == Reply("ok", {})


def test_presence(lobby: Joined) -> None:
    metas = lobby.assert_presence_join("ada", {"device": str})
    assert [meta["device"] for meta in metas] == ["phone"]
    assert lobby.presences["ada"]["metas"] == metas
    lobby.refute_presence_join("alan")
    lobby.refute_presence_leave("ada", within=0.1)
    lobby.assert_presence_leave("ada", {"device": "phone"})


def test_clients(app: Flask, phoenix_client: Clients) -> None:
    ada: Client = phoenix_client(params={"token": "ada"}, headers={"X-Thing": "1"}, vsn="1.0.0", name="Ada")
    alan = phoenix_client(socket=UserSocket, assigns={"user": "alan"}, id="user:alan", heartbeat=None, within=1)
    with phoenix_client(http=app.test_client()) as grace, Client(app, "/socket", session={"user": 7}) as mary:
        room = grace.subscribe_and_join("room:lobby")
        assert room.client is grace
        assert mary.channel("room:lobby").assigns == mary.socket.assigns
    ref = ada.push("room:lobby", "new_msg", {}, join_ref="1")
    reply = ada.reply(ref)
    assert reply.response == ada.assert_reply(ref)
    ada.refute_reply(ref)
    ada.broadcast_from("room:lobby", "new_msg", {})
    ada.assert_broadcast("room:lobby", "new_msg")
    ada.refute_broadcast("room:lobby", "new_msg")
    message: Message = ada.receive(lambda message: message.ref is None, "a push", within=1)
    assert message in ada.messages("room:lobby", "new_msg")
    assert ada.take(lambda message: message.event == "other") is None
    ada.refute(lambda message: message.join_ref == "2")
    alan.assert_closed(1001, "disconnected")
    assert (alan.closed, alan.name, alan.within) == ((1001, "disconnected"), "Alan", 1)
    assert "phx_join" in str(ada.transcript)
    ada.close()
    phoenix_client.close()


def test_time(phoenix_clock: Clock, phoenix_client: Clients) -> None:
    phoenix_clock.advance(3600)
    if phoenix_clock.next is not None and phoenix_clock.advance_to_next():
        assert phoenix_clock.elapsed > 3600
    assert phoenix_clock.time() > phoenix_clock.monotonic()


def test_a_real_server(live_phoenix_server: Callable[..., LiveServer]) -> None:
    server = live_phoenix_server(create_app, PHOENIX_TIMEOUT="30")
    ada: LiveClient = server.client("/socket", params={"token": "ada"}, headers={"X-Thing": "1"}, name="Ada")
    ada.join("room:lobby").assert_push("presence_state")
    with LiveClient(server.url("/socket", "ws"), heartbeat=None, within=1) as alan:
        alan.assert_closed()
    assert f":{server.port}/" in server.url()
    assert "GET" in server.stop()


def test_without_fixtures() -> None:
    network: list[MemoryAdapter] = []
    wire = Wire(json.dumps, read)
    with Clock() as clock, Clients(create_app()) as connect, LiveServer("chat:create_app", {"A": "1"}) as server:
        clock.advance(1)
        assert connect(wire=wire).closed is server.client(wire=wire).closed is None
    apart = Phoenix(adapter=MemoryAdapter(network))
    assert apart is not phoenix
    with Broadcaster("workers://") as outside, pytest.raises(Refused) as refused:
        outside.broadcast("room:lobby", "new_msg", {})
    assert refused.value.response == {"reason": refused.value.reason}
