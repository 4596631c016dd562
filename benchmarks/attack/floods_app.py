"""What :mod:`benchmarks.attack.floods` attacks: an echo, over WebSockets and long polling."""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from gevent import monkey

monkey.patch_all()

import sys
from typing import Any

from flask import Flask

from flask_phoenix import Channel, Phoenix, Socket, on

app = Flask(__name__)
app.secret_key = "a secret"
app.config.from_prefixed_env()
phoenix = Phoenix(app)


@phoenix.socket("/socket", longpoll=True)
class UserSocket(Socket):
    """Lets everybody in."""


@UserSocket.channel("room:*")
class Room(Channel):
    """Says what is said."""

    def join(self, payload: Any) -> None:
        """Let in."""

    @on("echo")
    def echo(self, payload: Any) -> Any:
        """Answer with the payload."""
        return payload


if __name__ == "__main__":
    phoenix.run(app, port=int(sys.argv[1]), log=None, backlog=4096)
