"""What is attacked: ``python benchmarks/attack/app.py PORT``. It imports nothing but the package, of any version."""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from gevent import monkey

monkey.patch_all()

import sys
from typing import Any

import gevent
from flask import Flask

from flask_phoenix import Channel, Phoenix, Socket, on

#: Seconds that what is slow takes: longer than an attack.
LONG = 30

app = Flask(__name__)
app.secret_key = "a secret"
app.config.from_prefixed_env()
phoenix = Phoenix(app)


class UserSocket(Socket):
    """Lets everybody in."""


phoenix.socket("/socket", longpoll=True)(UserSocket)


@phoenix.socket("/deflated", compress=True)
class DeflatedSocket(UserSocket):
    """Does the same, compressed."""


@UserSocket.channel("room:*")
@DeflatedSocket.channel("room:*")
class Room(Channel):
    """Does what is said."""

    def join(self, payload: Any) -> None:
        """Let in, some of them late."""
        if "slow" in payload:
            gevent.sleep(LONG)

    @on("echo")
    def echo(self, payload: Any) -> Any:
        """Answer with the payload."""
        return payload

    @on("take")
    def take(self, payload: Any) -> Any:
        """Answer with nothing."""
        return {}

    @on("slow")
    def slow(self, payload: Any) -> Any:
        """Answer late."""
        gevent.sleep(LONG)
        return {}

    @on("crash")
    def crash(self, payload: Any) -> Any:
        """Answer never."""
        raise RuntimeError("on purpose")

    @on("much")
    def much(self, payload: Any) -> Any:
        """Answer with more than was asked for."""
        return {"much": "x" * 100_000}


if __name__ == "__main__":
    phoenix.run(app, port=int(sys.argv[1]), log=None, backlog=4096)
