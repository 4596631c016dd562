"""The app whose clients may miss nothing: ``gunicorn -k gevent -w 3 tests.faults.app:app``."""

from __future__ import annotations

import os
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from flask_phoenix import Channel, History, NotPublished, Phoenix, Socket, intercept
from flask_phoenix.protocol.messages import Broadcast
from tests.support.worker_app import NamedRoom, make_app

app = make_app(__name__)
phoenix = Phoenix(app)
online = phoenix.presence()


@phoenix.socket("/socket", longpoll={"window": 2.0}, timeout=10)
class UserSocket(Socket):
    """Anybody."""


@UserSocket.channel("room:*")
class Room(NamedRoom):
    """Keeps what is said."""

    presence = online
    history = History(size=int(os.environ.get("HISTORY_SIZE", "300")), ttl=60)


@UserSocket.channel("hall:*")
class Hall(Room):
    """Has every second message pass its interceptor, and keeps too little for long drops."""

    history = History(size=8, ttl=60)

    @intercept("odd")
    def odd(self, payload: Any) -> None:
        self.push("said", payload)


@UserSocket.channel("blob:*")
class Blob(Room):
    """Every second message is bytes."""


@UserSocket.channel("plain:*")
class Plain(Channel):
    """Forgets what is said."""

    def join(self, payload: Any) -> None:
        pass


def broadcast_of(topic: str, number: int) -> Broadcast:
    """Return the message that has a number."""
    odd = number % 2
    event = "odd" if odd and topic.startswith("hall") else "said"
    return Broadcast(topic, event, str(number).encode() if odd and topic.startswith("blob") else {"n": number})


@app.post("/say")
def say() -> ResponseReturnValue:
    """Broadcast a number; answer with the receipt, or with 503."""
    try:
        position = phoenix.broadcast(*broadcast_of(request.args["topic"], int(request.args["n"])))
    except NotPublished as error:
        return {"error": str(error)}, 503
    return {"ref": str(position)}
