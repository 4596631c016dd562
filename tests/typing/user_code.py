# pyright: strict
"""An app with all of its parts, as a user with strict checks writes it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import msgspec
from flask import Blueprint, Flask, request

from flask_phoenix import (
    Adapter,
    AlreadyTracked,
    Broadcast,
    Broadcaster,
    Channel,
    ConnectionFilter,
    ExpiredToken,
    History,
    HistoryLost,
    InvalidMessage,
    InvalidOption,
    InvalidPayload,
    InvalidReturn,
    InvalidToken,
    Json,
    Message,
    NotJoined,
    NotPublished,
    NotTracked,
    Phoenix,
    PhoenixError,
    Position,
    Presence,
    Publisher,
    RawSocket,
    RedisAdapter,
    Refused,
    Reply,
    Serializer,
    Socket,
    SocketRef,
    UnknownEvent,
    UnknownVersion,
    Unsupported,
    WorkersAdapter,
    intercept,
    on,
    sends,
    signals,
)
from flask_phoenix.testing import MemoryAdapter


class Online(Presence):
    def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
        return {key: {**entry, "name": key.title()} for key, entry in presences.items()}

    def handle_metas(self, topic: str, diff: dict[str, Any], presences: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        logging.info("%s: %s came to %s, %d are there", self.name, list(diff["joins"]), topic, len(presences))

    def count_only(self, topic: str) -> bool:
        return topic == "room:all"


phoenix = Phoenix(adapter=MemoryAdapter([]))
online = phoenix.presence(Online, name="online", down_period=10, grace=5)
plain: Presence = phoenix.presence(name="plain")


class Base(Socket):
    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "token" not in params:
            raise Refused(reason="no token")
        self.assigns["user"] = str(params["token"])

    def id(self) -> str | None:
        return f"user:{self.assigns['user']}"

    def refresh(self, token: Any) -> float:
        self.assigns["user"] = phoenix.verify_token(token, "user", max_age=3600)
        self.expires_at = time.time() + 3600
        return self.expires_at

    def disconnected(self, reason: str) -> None:
        logging.info("%s by %s: %s", self.params, self.transport, reason)


@phoenix.socket("/socket", longpoll={"window": 20}, timeout=30, connect_info=["session", {"region": "eu"}], vsn="2.0.0")
class UserSocket(Base):
    """A kind of client."""


@UserSocket.errorhandler(KeyError, LookupError)
def missing(error: LookupError, channel: Channel) -> Reply:
    return Reply("error", {"missing": str(error), "topic": channel.topic})


@phoenix.errorhandler(PermissionError)
def forbidden(error: PermissionError, channel: Channel) -> dict[str, Any] | None:
    return {"reason": str(error)} if channel.assigns else None


@UserSocket.channel("room:*", assigns={"kind": "room"})
class Room(Channel):
    presence = online
    history = History(size=100, ttl=60, max_bytes=1 << 16)
    conflate: ClassVar[Mapping[str, Callable[[Any], Any]]] = {"moved": lambda payload: payload["id"]}
    trace_key = "traceparent"
    log_join, log_handle_in = "debug", None
    asked: SocketRef | None = None

    def join(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"room": self.subtopic, "others": online.count(self)}

    def after_join(self) -> None:
        self.track(self.assigns["user"], {"device": payload_of(self.params)})
        self.push("presence_state", self.presences())
        cancel: Callable[[], None] = self.send_after(60, "still here?")
        cancel()
        self.subscribe("news")
        self.unsubscribe("news")
        self.ignore("new_msg")
        self.spawn(self.look_up, 7)
        for kept in self.history(since=None, limit=10):
            self.push(kept.event, {"ref": kept.ref, "payload": kept.payload})

    def look_up(self, number: int) -> None:
        self.send({"number": number, "by": self.transport})

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

    @on("away")
    def away(self, payload: dict[str, Any]) -> Reply | None:
        self.update(self.assigns["user"], lambda meta: {**meta, "away": True})
        self.track_or_update(self.assigns["user"], {"device": "phone"})
        return self.once(str(payload["id"]), lambda: {"first": True})

    def handle_in(self, event: str, payload: Any) -> Reply:
        if event == "bye":
            self.stop("left")
        raise UnknownEvent(event)

    def handle_out(self, event: str, payload: Any) -> None:
        self.push(event, payload)

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


@UserSocket.channel("shop:<int:number>")
class Shop(Channel):
    def join(self, payload: Any, number: int) -> bytes:
        return bytes([number, self.variables["number"]])


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


class Packed(Serializer):
    version = "3.0.0"

    def decode(self, frame: str | bytes) -> Message:
        return Message(*json.loads(frame))

    def encode(self, message: Message) -> str | bytes:
        return json.dumps([message.join_ref, message.ref, message.topic, message.event, message.payload])

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> str | bytes:
        return self.encode(Message(join_ref, ref, topic, "phx_reply", {"status": reply.status}))

    def encode_broadcast(self, broadcast: Broadcast) -> str | bytes:
        return self.encode(Message(None, None, broadcast.topic, broadcast.event, broadcast.payload))


@phoenix.socket("/raw")
class Echo(RawSocket):
    def open(self) -> None:
        self.expires_at = time.time() + 60

    def handle_frame(self, frame: str | bytes) -> None:
        self.send(frame)
        self.close(1000, "that was all")

    def terminate(self, reason: Any) -> None:
        logging.info("%s has ended: %s", self.transport, reason)


area = Blueprint("area", __name__)


@phoenix.socket("/socket", blueprint=area, check_origin=["//example.com"], serializer=[(Packed, "~> 3.0")])
class Guest(Socket):
    """A kind of client that a blueprint brings."""


def payload_of(params: dict[str, Any]) -> str:
    return str(params.get("device", "unknown"))


def create_app() -> Flask:
    app = Flask(__name__)
    phoenix.init_app(app)
    app.register_blueprint(area, url_prefix="/area")
    app.register_blueprint(phoenix.health_blueprint())
    app.register_blueprint(phoenix.metrics_blueprint(buckets=[0.1, 1]))
    app.register_blueprint(phoenix.dashboard(lambda: request.remote_addr == "127.0.0.1"))
    app.register_blueprint(phoenix.publish_blueprint("a long secret"), url_prefix="/internal")
    phoenix.traces(app, broadcasts=True)
    logging.getLogger("flask_phoenix").addFilter(ConnectionFilter())
    signals.limit_reached.connect(noticed, app)

    app.add_url_rule("/announce", view_func=announce, methods=["POST"])
    return app


def announce() -> tuple[str, int]:
    position: Position | None = phoenix.broadcast("room:lobby", "new_msg", {"body": "Lunch!"}, idempotency_key="1")
    positions = phoenix.broadcast(["room:1", "room:2"], "new_msg", b"Lunch!")
    phoenix.local_broadcast("room:lobby", "new_msg", {})
    phoenix.after_commit(None).broadcast("room:lobby", "new_msg", {})
    phoenix.disconnect("user:7", topic="room:lobby")
    refs = [str(each) for each in (position, *positions) if each is not None and each.offset > 0 and each.epoch]
    kept = phoenix.history("room:lobby", since=None, limit=10)
    told = {"refs": refs, "kept": [each.ref for each in kept], "health": phoenix.health(max_lag=1), "csrf": token()}
    return f"told {phoenix.connection_count()}: {Json().dumps(told)}, {phoenix.inspect(largest=3)}", 200


def token() -> str:
    try:
        phoenix.verify_token(request.args.get("token"), "user")
    except ExpiredToken:
        return phoenix.sign_token({"user": 7}, "user", max_age=60)
    except InvalidToken:
        return phoenix.csrf_token()
    return ""


def noticed(sender: Flask, **facts: Any) -> None:
    logging.warning("%s: %s", sender.name, facts)


@phoenix.background
def tick() -> None:
    phoenix.broadcast("room:lobby", "tick", {})


@phoenix.background(once_per_cluster=True)
def clean() -> None:
    online.track("room:lobby", "robot", {"device": "none"})
    online.update("room:lobby", "robot", {"device": "phone"})
    online.track_or_update("room:lobby", "robot", {"device": "phone"})
    online.untrack("room:lobby", "robot")
    present: dict[str, Any] | None = online.get_by_key("room:lobby", "robot")
    logging.info("%s of %d: %s", present, online.count("room:lobby"), sorted(online.list("room:lobby")))


def report() -> None:
    """Publish from outside, and listen inside."""
    with Broadcaster("redis://localhost", json=Json()) as outside:
        outside.broadcast("room:lobby", "report", {"ready": True})
        outside.disconnect("user:7")
    rest = Broadcaster("workers://")
    rest.close()
    heard: list[str] = []
    stop_tap = phoenix.tap(lambda broadcast: heard.append(broadcast.topic))
    stop_tap()
    stop = phoenix.subscribe("room:lobby", lambda broadcast: heard.append(broadcast.event))
    stop()


def remedy(error: PhoenixError) -> str:
    match error:
        case Refused():
            return str(error.response)
        case InvalidMessage() | UnknownVersion():
            return "the client's fault"
        case AlreadyTracked() | NotTracked() | NotJoined() | InvalidPayload() | InvalidReturn() | InvalidOption():
            return "ours"
        case NotPublished() | HistoryLost() | Unsupported():
            return "later, perhaps"
        case _:
            return "nobody knows"


class Carrier(Adapter):
    """Another way between nodes."""

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        self.receive = receive

    def stop(self) -> None:
        self.tell_lost(True, "stopped")

    def subscribe(self, topic: str) -> None:
        """Everything is heard."""

    def unsubscribe(self, topic: str) -> None:
        """Everything is heard."""

    def publish(self, topic: str, data: bytes) -> None:
        self.receive(topic, data)

    def publisher(self) -> Publisher:
        return Post()


class Post(Publisher):
    """Another way in."""

    def publish(self, topic: str, data: bytes) -> None:
        raise NotPublished("nobody is there")

    def close(self) -> None:
        """Hold nothing."""


def adapters() -> list[Adapter]:
    return [RedisAdapter.from_url("redis://localhost"), WorkersAdapter.from_url("workers:///run/myapp"), Carrier()]


def main() -> None:
    phoenix.run(create_app(), host="127.0.0.1", port=4000)
