"""The chat on flask_phoenix: ``python -m benchmarks.rivals.flask_phoenix_chat PORT [PUBSUB_URL]``, patched."""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask, request

from flask_phoenix import Channel, History, Phoenix, Presence, Reply, Socket, on

app = Flask(__name__)
app.secret_key = "of this benchmark"
app.config["PHOENIX_PUBSUB_URL"] = sys.argv[2] if len(sys.argv) > 2 else "none"
phoenix = Phoenix(app)
online = phoenix.presence(Presence)


# The second mount is for what no default allows: messages of a megabyte, and thousands of topics of one client.
@phoenix.socket("/socket", longpoll=True)
@phoenix.socket("/wide", max_frame_size=1 << 22, max_channels=1 << 17, outbox_limit=1 << 24)
@phoenix.socket("/deflate", max_frame_size=1 << 22, outbox_limit=1 << 24, compress=True)
class UserSocket(Socket):
    """Lets everybody in."""


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """Tells everybody what somebody says."""

    def join(self, payload: Any) -> None:
        """Let everybody in."""

    @on("new_msg")
    def new_msg(self, payload: Any) -> None:
        """Tell everybody."""
        self.broadcast("new_msg", payload)

    @on("echo")
    def echo(self, payload: Any) -> Reply:
        """Answer."""
        return Reply("ok", payload)


@UserSocket.channel("kept:*")
class KeptChannel(RoomChannel):
    """Keeps what is said."""

    history = History()


@UserSocket.channel("here:*")
class HereChannel(Channel):
    """Tells everybody who is here."""

    presence = online

    def join(self, payload: Any) -> None:
        """Let everybody in."""
        self.assigns.update(payload)

    def after_join(self) -> None:
        """Be present, if asked to, and say who else is."""
        if "key" in self.assigns:
            self.track(self.assigns["key"], {"online_at": 1764000000, "device": "phone"})
        if "state" in self.assigns:
            self.push("presence_state", self.presences())


@app.post("/fill")
def fill() -> dict[str, Any]:
    """Let so many be present, each as an entry of the process; where nobody listens, that tells nobody."""
    for number in range(int(request.args["times"])):
        online.track(request.args["topic"], f"user:{number:06}", {"online_at": 1764000000, "device": "phone"})
    return {}


@app.post("/keep")
def keep() -> dict[str, Any]:
    """Have so many topics keep so many messages."""
    for topic in range(int(request.args["topics"])):
        for number in range(int(request.args["times"])):
            said = {"n": number, "body": "so many characters as a line of a chat"}
            phoenix.broadcast(f"kept:{topic}", "new_msg", said)
    return {}


if __name__ == "__main__":
    phoenix.run(app, port=int(sys.argv[1]), log=None, backlog=4096)
