"""The application that the golden conversations were recorded from: ``python -m tests.golden.peer PORT``."""

# ruff: noqa: E402 - patching comes first
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys
from asyncio import CancelledError
from typing import Any

import gevent
from flask import Flask

from flask_phoenix import Channel, Phoenix, RawSocket, Refused, Reply, Socket, intercept, on

phoenix = Phoenix()


@phoenix.socket("/socket", check_origin=False, longpoll=True)
@phoenix.socket("/origin", check_origin=["//allowed.example"], longpoll=True)
@phoenix.socket(
    "/short",
    check_origin=False,
    websocket={"timeout": 1.0, "max_frame_size": 1024},
    longpoll={"window": 0.7, "pubsub_timeout": 0.5},
)
@phoenix.socket("/deflate", compress=True)
class UserSocket(Socket):
    """Lets everybody in; connections are named after the parameter ``user``."""

    def id(self) -> str | None:
        user = self.params.get("user")
        return f"user_socket:{user}" if isinstance(user, str) else None


def refuse_with_status(refused: Refused) -> tuple[str, int]:
    """Answer a refusal that has a reason with HTTP 429."""
    return ("Too many requests", 429) if refused.reason == "rate_limit" else ("", 403)


@phoenix.socket("/edge", check_origin=False, auth_token=True, error_handler=refuse_with_status, longpoll=True)
class EdgeSocket(Socket):
    """Refuses on demand, and remembers what it was told."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        match params.get("refuse"):
            case "error":
                raise Refused()
            case "reason":
                raise Refused("rate_limit")
            case "raise":
                raise RuntimeError("connect raises")
        self.assigns.update(auth_token=info["auth_token"], connect_params=params)


@phoenix.socket("/raw", check_origin=False, compress=True, max_frame_size=1 << 24, outbox_limit=1 << 26)
class EchoSocket(RawSocket):
    """Echoes frames, for suites that test the WebSocket protocol itself."""

    def handle_frame(self, frame: str | bytes) -> None:
        self.send(frame)


@UserSocket.channel("room:*")
@EdgeSocket.channel("room:*")
@UserSocket.channel("exact")
class RoomChannel(Channel):
    """Lets everybody in."""

    def join(self, payload: Any) -> None:
        return None

    @on("new_msg")
    def new_msg(self, payload: Any) -> None:
        self.broadcast("new_msg", payload)

    @on("echo", "ping")
    def echo(self, payload: Any) -> Reply:
        return Reply("ok", payload)


@UserSocket.channel("edge:*")
@EdgeSocket.channel("edge:*")
class EdgeChannel(Channel):
    """Does everything that may go wrong."""

    def join(self, payload: Any) -> Any:
        match self.subtopic:
            case "denied":
                raise Refused(reason="unauthorized")
            case "raise":
                raise RuntimeError("join raises")
            case "throw":
                raise gevent.GreenletExit
            case "exit":
                raise CancelledError  # SystemExit would stop the server
            case "badreturn":
                return 42
            case "slow":
                gevent.sleep(0.4)
            case "params":
                return {"params": payload}
            case "who":
                return {"auth_token": self.assigns.get("auth_token"), "params": self.assigns.get("connect_params")}
            case "binreply":
                return b"\x01\x02\x03"
        return None

    def after_join(self) -> None:
        if self.subtopic == "push_in_join":
            self.push("welcome", {"hello": True})

    @on("reply_ok")
    def reply_ok(self, payload: Any) -> Any:
        return {}

    @on("reply_ok_map")
    def reply_ok_map(self, payload: Any) -> Any:
        return {"got": payload}

    @on("reply_error_bare")
    def reply_error_bare(self, payload: Any) -> Any:
        raise Refused()

    @on("reply_error")
    def reply_error(self, payload: Any) -> Any:
        raise Refused(reason="bad")

    @on("reply_custom")
    def reply_custom(self, payload: Any) -> Any:
        return Reply("queued", {"n": 1})

    @on("reply_string")
    def reply_string(self, payload: Any) -> Any:
        return Reply("ok", "a string")

    @on("reply_list")
    def reply_list(self, payload: Any) -> Any:
        return Reply("ok", [1, 2])

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return Reply("ok", payload)

    @on("noreply")
    def noreply(self, payload: Any) -> Any:
        return None

    @on("crash")
    def crash(self, payload: Any) -> Any:
        raise RuntimeError("crash")

    @on("kill")
    def kill(self, payload: Any) -> Any:
        gevent.kill(gevent.getcurrent())
        gevent.sleep(1)

    @on("badreturn")
    def badreturn(self, payload: Any) -> Any:
        return 42

    @on("stop_normal")
    def stop_normal(self, payload: Any) -> Any:
        self.stop()

    @on("stop_shutdown")
    def stop_shutdown(self, payload: Any) -> Any:
        self.stop("shutdown")

    @on("stop_shutdown_tuple")
    def stop_shutdown_tuple(self, payload: Any) -> Any:
        self.stop(("shutdown", "detail"))

    @on("stop_boom")
    def stop_boom(self, payload: Any) -> Any:
        self.stop("boom")

    @on("stop_reply")
    def stop_reply(self, payload: Any) -> Any:
        self.stop()
        return {"bye": True}

    @on("push_me")
    def push_me(self, payload: Any) -> Any:
        self.push("pushed", payload)

    @on("push_then_reply")
    def push_then_reply(self, payload: Any) -> Any:
        self.push("pushed", payload)
        return Reply("ok", payload)

    @on("bcast")
    def bcast(self, payload: Any) -> Any:
        self.broadcast("news", payload)
        return {}

    @on("bcast_from")
    def bcast_from(self, payload: Any) -> Any:
        self.broadcast_from("news", payload)
        return {}

    @on("bcast_intercepted")
    def bcast_intercepted(self, payload: Any) -> Any:
        self.broadcast("intercepted", payload)

    @intercept("intercepted")
    def hide(self, payload: Any) -> None:
        self.push("intercepted", {**payload, "via": "handle_out"})

    @on("endpoint_bcast")
    def endpoint_bcast(self, payload: Any) -> Any:
        phoenix.broadcast(self.topic, "news", payload)

    @on("async_reply")
    def async_reply(self, payload: Any) -> Any:
        self.send_after(payload["ms"] / 1000, ("reply", self.socket_ref(), payload["ms"]))

    def handle_info(self, message: Any) -> None:
        _, ref, ms = message
        self.reply(ref, {"after_ms": ms})

    @on("bin_echo")
    def bin_echo(self, payload: Any) -> Any:
        return expect_bytes(payload)

    @on("bin_push")
    def bin_push(self, payload: Any) -> Any:
        self.push("pushed", expect_bytes(payload))

    @on("bin_bcast")
    def bin_bcast(self, payload: Any) -> Any:
        self.broadcast("news", expect_bytes(payload))

    @on("bin_to_json")
    def bin_to_json(self, payload: Any) -> Any:
        return {"size": len(expect_bytes(payload))}

    @on("json_to_bin")
    def json_to_bin(self, payload: Any) -> Any:
        return b"from json"

    @on("disconnect_me")
    def disconnect_me(self, payload: Any) -> Any:
        phoenix.disconnect(f"user_socket:{self.params.get('user')}")


@UserSocket.channel("presence:*")
class PresenceChannel(Channel):
    """Tells everybody who is here."""

    presence = phoenix.presence()

    def join(self, payload: Any) -> None:
        self.assigns["key"] = payload.get("key", "anon")

    def after_join(self) -> None:
        self.track(self.assigns["key"], {"online_at": "T"})
        self.push("presence_state", self.presences())

    @on("update")
    def change(self, payload: Any) -> Any:
        self.update(self.assigns["key"], payload)
        return {}

    @on("list")
    def tell(self, payload: Any) -> Any:
        return self.presences()

    @on("untrack")
    def go(self, payload: Any) -> Any:
        self.untrack(self.assigns["key"])
        return {}


def expect_bytes(payload: Any) -> bytes:
    """Return a binary payload; anything else is a crash."""
    if not isinstance(payload, bytes):
        raise TypeError("expected a binary payload")
    return payload


def create_app() -> Flask:
    """Make the app."""
    app = Flask(__name__)
    app.secret_key = "the peer's secret key"
    phoenix.init_app(app)
    return app


if __name__ == "__main__":
    phoenix.run(create_app(), port=int(sys.argv[1]), log=None)
