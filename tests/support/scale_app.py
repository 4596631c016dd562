"""An app for tests that serve it in several processes.

Served by ``gunicorn -k gevent tests.support.scale_app:app``, which patches the standard library in each worker. Done
here, it would be done in gunicorn's own process too under ``--preload``, which then does not see its workers die.
``FLASK_DOWN_PERIOD`` is the down period of the presence, in seconds.
"""

from __future__ import annotations

import os
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from flask_phoenix import Channel, Phoenix, Socket, on
from tests.support.worker_app import make_app

app = make_app(__name__)
phoenix = Phoenix(app)
crowd = phoenix.presence(down_period=app.config.get("DOWN_PERIOD", 30))


@phoenix.socket("/socket", longpoll={"window": 2.0, "pubsub_timeout": 5.0})
class UserSocket(Socket):
    """Anybody; the connections of a user can be closed together."""

    def id(self) -> str | None:
        user: str | None = self.params.get("user")
        return user


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """Lets anybody in, and broadcasts what it is told, on its own topic or on another one."""

    def join(self, payload: Any) -> dict[str, Any]:
        return {}

    @on("echo")
    def echo(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @on("shout")
    def shout(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.broadcast("shout", payload)
        return {}

    @on("tell")
    def tell(self, payload: dict[str, Any]) -> dict[str, Any]:
        phoenix.broadcast(payload["topic"], "told", payload["payload"])
        return {}


@UserSocket.channel("crowd:*")
class CrowdChannel(RoomChannel):
    """Is present under the key with which it was joined, if there is one."""

    presence = crowd

    def join(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.assigns["joined"] = payload
        return {"worker": os.getpid()}

    def after_join(self) -> None:
        if "key" in self.assigns["joined"]:
            self.track(**self.assigns["joined"])
        self.push("presence_state", self.presences())

    @on("update")
    def change(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"ref": self.update(**payload)}


@app.get("/online")
def list_online() -> ResponseReturnValue:
    """Tell who is there."""
    return crowd.list(request.args["topic"])


@app.post("/broadcast")
def broadcast() -> ResponseReturnValue:
    """Broadcast from a view."""
    phoenix.broadcast(request.args["topic"], "announcement", request.get_json())
    return {}


@app.post("/disconnect")
def disconnect() -> ResponseReturnValue:
    """Close every connection of a user, or end one channel in each."""
    phoenix.disconnect(request.args["user"], request.args.get("topic"))
    return {}
