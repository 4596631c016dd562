"""An app for a host whose clock jumps, as :mod:`tests.support.jumping` has it."""

from __future__ import annotations

import time
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue

from flask_phoenix import History, InvalidToken, Phoenix, Refused, Socket, on
from flask_phoenix.runtime import expiry
from tests.faults.hosts import RATE, TIMEOUT
from tests.support.worker_app import NamedRoom, make_app

#: Shorter than in earnest: no test imports this.
expiry.LOOK = 0.5

app = make_app(__name__)
phoenix = Phoenix(app)
online = phoenix.presence()


@phoenix.socket("/socket", longpoll={"window": 2.0}, timeout=TIMEOUT, messages_per_second=RATE)
class UserSocket(Socket):
    """Whoever has a good token, or none, for so many seconds as it says."""

    def connect(self, params: Any, info: Any) -> None:
        if "token" in params:
            try:
                phoenix.verify_token(params["token"], "user")
            except InvalidToken as error:
                raise Refused(str(error)) from error
        if "seconds" in params:
            self.expires_at = time.time() + float(params["seconds"])


@UserSocket.channel("room:*")
class Room(NamedRoom):
    """Keeps what is said, and echoes at once or later."""

    presence = online
    history = History(ttl=60)

    @on("echo")
    def echo(self, payload: Any) -> Any:
        return payload

    @on("later")
    def later(self, payload: Any) -> Any:
        self.send_after(payload["seconds"], payload)
        return {}

    def handle_info(self, message: Any) -> None:
        self.push("late", message)


@app.get("/token")
def token() -> ResponseReturnValue:
    """Return a token that is good for a minute."""
    return {"token": phoenix.sign_token("a", "user", max_age=60)}


@app.post("/say")
def say() -> ResponseReturnValue:
    """Broadcast a number."""
    phoenix.broadcast("room:1", "said", {"n": int(request.args["n"])})
    return {}
