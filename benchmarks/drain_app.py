"""What :mod:`benchmarks.drain` stops: rooms that note each join, each end and each handler in a file."""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from gevent import monkey

monkey.patch_all()

import os
import sys
import time
from typing import Any

import gevent
from flask import Flask

from flask_phoenix import Channel, History, Phoenix, Presence, Socket, on

NEWS = History(size=10_000, ttl=120)

app = Flask(__name__)
app.secret_key = "the same in every process"
app.config.from_prefixed_env()
phoenix = Phoenix(app)
online = phoenix.presence(Presence, grace=float(os.environ.get("GRACE", "0")))
notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    """Add a line to the notes of all processes."""
    os.write(notes, (" ".join(map(str, words)) + "\n").encode())


@phoenix.socket("/socket", longpoll=True, timeout=600)
class UserSocket(Socket):
    """Lets everybody in."""


@UserSocket.channel("room:*")
class Room(Channel):
    """Notes what happens."""

    presence = online

    def join(self, payload: Any) -> None:
        """Let in, and note it."""
        self.assigns["key"] = payload.get("key")
        self.assigns["id"] = f"{os.getpid()}.{id(self)}.{time.monotonic_ns()}"
        note("join", self.assigns["id"], f"{time.time():.3f}")

    def after_join(self) -> None:
        """Be present, if that is asked for."""
        if self.assigns["key"]:
            self.track(self.assigns["key"])
            self.push("presence_state", self.presences())

    @on("slow")
    def slow(self, payload: Any) -> None:
        """Take two seconds."""
        note("begin", self.assigns["id"])
        gevent.sleep(2)
        note("done", self.assigns["id"])

    def terminate(self, reason: Any) -> None:
        """Note the end."""
        note("end", self.assigns["id"])


@UserSocket.channel("news:*")
class News(Channel):
    """Keeps what is told from outside."""

    history = NEWS

    def join(self, payload: Any) -> None:
        """Let everybody in."""


@UserSocket.channel("talk:*")
class Talk(Channel):
    """Keeps nothing of what is told from outside."""

    def join(self, payload: Any) -> None:
        """Let everybody in."""


if __name__ == "__main__":
    phoenix.run(app, port=int(sys.argv[1]), log=None, backlog=4096)
