"""The app whose clients may miss nothing: ``gunicorn -k gevent -w 3 tests.faults.app:app``."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue

from flask_phoenix import Channel, History, NotPublished, Phoenix, Socket, intercept

app = Flask(__name__)
app.secret_key = "the same for every process of these tests"
app.config.from_prefixed_env()
phoenix = Phoenix(app)


@phoenix.socket("/socket", longpoll={"window": 2.0}, timeout=10)
class UserSocket(Socket):
    """Anybody."""


@UserSocket.channel("room:*")
class Room(Channel):
    """Keeps what is said."""

    history = History(size=int(os.environ.get("HISTORY_SIZE", "300")), ttl=60)

    def join(self, payload: Any) -> dict[str, Any]:
        return {}


@UserSocket.channel("hall:*")
class Hall(Room):
    """Has every second message pass its interceptor."""

    @intercept("odd")
    def odd(self, payload: Any) -> None:
        self.push("said", payload)


@app.after_request
def name_worker(response: Response) -> Response:
    """Tell which process answers."""
    response.headers["X-Worker"] = str(os.getpid())
    return response


@app.get("/")
def index() -> ResponseReturnValue:
    """Answer, and do nothing else."""
    return {}


@app.post("/say")
def say() -> ResponseReturnValue:
    """Broadcast a number; answer with the receipt, or with 503."""
    topic, number = request.args["topic"], int(request.args["n"])
    event = "odd" if topic.startswith("hall") and number % 2 else "said"
    try:
        position = phoenix.broadcast(topic, event, {"n": number})
    except NotPublished as error:
        return {"error": str(error)}, 503
    return {"ref": str(position)}
