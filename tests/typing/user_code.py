# pyright: strict
"""An app with all of its parts, as a user with strict checks writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
from flask import Flask

import flask_phoenix
from flask_phoenix import (
    Broadcast,
    Broadcaster,
    Channel,
    Json,
    Phoenix,
    Presence,
    RawSocket,
    RedisAdapter,
    Refused,
    Reply,
    Socket,
    SocketRef,
    WorkersAdapter,
    intercept,
    on,
    sends,
)
from flask_phoenix.testing import Client, MemoryAdapter


class Online(Presence):
    def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
        return {key: {**entry, "name": key.title()} for key, entry in presences.items()}


phoenix = Phoenix(adapter=MemoryAdapter([]))
online = phoenix.presence(Online, name="online", down_period=10)


class Base(Socket):
    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "token" not in params:
            raise Refused(reason="no token")
        self.assigns["user"] = str(params["token"])

    def id(self) -> str | None:
        return f"user:{self.assigns['user']}"


@phoenix.socket("/socket", longpoll=True, timeout=30)
class UserSocket(Base):
    """A kind of client."""


@UserSocket.channel("room:*", assigns={"kind": "room"})
class Room(Channel):
    presence = online
    asked: SocketRef | None = None

    def join(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"room": self.subtopic, "others": online.count(self)}

    def after_join(self) -> None:
        self.track(self.assigns["user"], {"device": payload_of(self.params)})
        self.push("presence_state", self.presences())
        self.send_after(60, "still here?")

    @on("new_msg", "new_message", once="idempotency_key")
    def new_msg(self, payload: dict[str, Any]) -> Reply:
        self.broadcast_from("new_msg", payload)
        return Reply("ok", {"saved": True})

    @on("file")
    def file(self, payload: bytes) -> bytes:
        return payload[::-1]

    @on("ask")
    def ask(self, payload: Any) -> None:
        self.asked = self.socket_ref()

    @intercept("new_msg")
    def filter_msg(self, payload: dict[str, Any]) -> None:
        if payload.get("to") in (None, self.assigns["user"]):
            self.push("new_msg", payload)

    def handle_info(self, message: Any) -> None:
        if isinstance(message, Broadcast):
            self.push(message.event, message.payload)
        elif self.asked:
            self.reply(self.asked, {"answer": 42})

    def terminate(self, reason: Any) -> None:
        self.untrack(self.assigns["user"])


class Move(msgspec.Struct):
    x: int


@dataclass
class Moved:
    by: str
    move: Move


class Params(TypedDict, total=False):
    token: str


class Entered(TypedDict):
    players: list[str]


@phoenix.socket("/game")
class Player(Socket):
    def connect(self, params: Params, info: dict[str, Any]) -> None:
        self.assigns["name"] = params.get("token", "nobody")


@sends("moved", Moved)
@sends("frame", bytes)
@Player.channel("game:*")
class Game(Channel):
    def join(self, payload: Params) -> Entered:
        return {"players": [payload.get("token", "nobody")]}

    @on("move")
    def move(self, payload: Move) -> Moved:
        moved = Moved(self.assigns["name"], payload)
        self.broadcast("moved", moved)
        return moved

    @on("where")
    def where(self, payload: Move | None) -> Move | None:
        return payload

    @on("later")
    def later(self, payload: Move) -> None:
        self.reply(self.socket_ref(), payload)


@phoenix.socket("/raw")
class Echo(RawSocket):
    def handle_frame(self, frame: str | bytes) -> None:
        self.send(frame)


def payload_of(params: dict[str, Any]) -> str:
    return str(params.get("device", "unknown"))


def create_app() -> Flask:
    app = Flask(__name__)
    phoenix.init_app(app)

    app.add_url_rule("/announce", view_func=announce, methods=["POST"])
    return app


def announce() -> tuple[str, int]:
    phoenix.broadcast("room:lobby", "new_msg", {"body": "Lunch!"})
    phoenix.disconnect("user:7")
    return f"told {phoenix.connection_count()}", 200


def report() -> None:
    """Publish from outside, and listen inside."""
    with Broadcaster("redis://localhost", json=Json()) as outside:
        outside.broadcast("room:lobby", "report", {"ready": True})
    heard: list[str] = []
    stop = phoenix.subscribe("room:lobby", lambda broadcast: heard.append(broadcast.event))
    stop()


def adapters() -> list[flask_phoenix.Adapter]:
    return [RedisAdapter.from_url("redis://localhost"), WorkersAdapter.from_url("workers:///run/myapp")]


def test_a_message() -> None:
    with create_app().app_context(), Client(create_app(), "/socket", {"token": "ada"}) as client:
        room = client.join("room:lobby")
        assert room.call("new_msg", {"body": "Hello"}) == flask_phoenix.Reply("ok", {"saved": True})
        room.assert_push("new_msg")
