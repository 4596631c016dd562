"""What the stories are played against: a server with every answer that a client can get.

Served by ``flask --app tests.clients.server_app run``, by gunicorn as ``tests.clients.server_app:app``, and by
``python -m tests.clients.server_app PORT``.
"""

# ruff: noqa: E402 - nothing is imported before gevent has patched the standard library

from gevent import monkey

monkey.patch_all()

import argparse
import time
import uuid
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from flask import Flask, Response, request, send_from_directory
from flask.typing import ResponseReturnValue
from flask_sock import Sock
from flask_wtf.csrf import CSRFProtect
from gevent import idle
from gevent.event import Event

from flask_phoenix import Channel, Phoenix, Presence, RawSocket, Refused, Socket, on

#: Which process this is: clients see by it that a server was restarted.
BOOT = uuid.uuid4().hex
FOLDER = Path(__file__).parent
#: Seconds that a slow handler waits for its bell.
BELL_TIMEOUT = 10

app = Flask(__name__)
app.secret_key = "the same for every process of these tests"
phoenix = Phoenix(app)
joins: Counter[str] = Counter()
bells: defaultdict[str, Event] = defaultdict(Event)


class Crews(Presence):
    """Says more of each key, and takes its time."""

    def fetch(self, topic: str, presences: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        idle()
        return {key: {**presence, "name": key.title()} for key, presence in presences.items()}


crowds, crews = phoenix.presence(), phoenix.presence(Crews)


class Later(NamedTuple):
    """A reply that is still to be given, and its response."""

    socket_ref: Any
    response: dict[str, Any]


@phoenix.socket("/abroad", check_origin=["//localhost"], auth_token=True, longpoll=True)
@phoenix.socket("/quick", longpoll={"window": 1.0})
@phoenix.socket("/brief", longpoll={"window": 0.5, "token_max_age": 1})
@phoenix.socket("/mute", websocket=False, longpoll=True)
@phoenix.socket("/polled", websocket=False, longpoll=True)
@phoenix.socket("/packed", compress=True)
@phoenix.socket("/token", auth_token=True, longpoll=True)
@phoenix.socket("/socket", longpoll=True)
class UserSocket(Socket):
    """Anybody but the banned."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if params.get("user") == "banned":
            raise Refused("banned")
        self.assigns["user"] = params.get("user")
        self.assigns["token"] = info.get("auth_token")
        if "lasts" in params:
            self.expires_at = time.time() + float(params["lasts"])

    def refresh(self, token: Any) -> float:
        if token != "good":
            raise Refused("bad token")
        return time.time() + 3600

    def id(self) -> str | None:
        user: str | None = self.assigns["user"]
        return user


@phoenix.socket("/mute")
class MuteSocket(RawSocket):
    """Opens, and never says a word."""

    def handle_frame(self, frame: str | bytes) -> None:
        """Answer no heartbeat."""


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """Does what it is asked for."""

    def join(self, payload: Any) -> dict[str, Any]:
        if "bell" in payload:
            bells[payload["bell"]].wait(BELL_TIMEOUT)
        self.assigns["farewell"] = payload.get("farewell", False)
        return {"boot": BOOT, "payload": payload, "user": self.assigns["user"], "token": self.assigns["token"]}

    @on("echo")
    def echo(self, payload: dict[str, Any]) -> dict[str, Any]:
        return payload

    @on("refuse")
    def refuse(self, payload: Any) -> None:
        raise Refused(reason="no", asked=payload)

    @on("silent")
    def silent(self, payload: Any) -> None:
        """Leave the client waiting."""

    @on("later")
    def later(self, payload: dict[str, Any]) -> None:
        self.send_after(payload["ms"] / 1000, Later(self.socket_ref(), {"after": payload["ms"]}))

    def handle_info(self, message: Any) -> None:
        self.reply(message.socket_ref, message.response)

    @on("blob")
    def blob(self, payload: bytes) -> bytes:
        self.push("blob", payload)
        return payload[::-1]

    @on("measure")
    def measure(self, payload: bytes) -> dict[str, Any]:
        return {"bytes": list(payload)}

    @on("shout")
    def shout(self, payload: Any) -> dict[str, Any]:
        self.broadcast("shout", payload)
        return {}

    @on("whisper")
    def whisper(self, payload: Any) -> dict[str, Any]:
        self.broadcast_from("whisper", payload)
        return {}

    @on("wait")
    def wait(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"rung": bells[payload["bell"]].wait(BELL_TIMEOUT)}

    @on("ring")
    def ring(self, payload: dict[str, Any]) -> dict[str, Any]:
        bells[payload["bell"]].set()
        return {}

    @on("crash")
    def crash(self, payload: Any) -> None:
        raise RuntimeError("asked to crash")

    @on("stop")
    def leave(self, payload: Any) -> None:
        self.stop()

    @on("kick")
    def kick(self, payload: dict[str, Any]) -> dict[str, Any]:
        phoenix.disconnect(payload["user"], topic=payload.get("topic"))
        return {}

    def terminate(self, reason: Any) -> None:
        if self.assigns.get("farewell"):
            phoenix.broadcast(self.topic, "farewell", {"user": self.assigns["user"]})


@UserSocket.channel("gate:*")
class GateChannel(Channel):
    """Opens after as many joins as its payload says."""

    def join(self, payload: dict[str, Any]) -> dict[str, Any]:
        joins[self.topic] += 1
        tries = joins[self.topic]
        if tries <= payload.get("crashes", 0):
            raise RuntimeError("asked to crash")
        if tries <= payload.get("refusals", 0):
            raise Refused("not yet", tries=tries)
        return {"tries": tries}


@UserSocket.channel("crowd:*")
class CrowdChannel(RoomChannel):
    """Is present under the key in its payload, if there is one."""

    presence = crowds

    def join(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.assigns["joined"] = payload
        return {}

    def after_join(self) -> None:
        if "key" in self.assigns["joined"]:
            self.track(**self.assigns["joined"])
        self.push("presence_state", self.presences())

    @on("track")
    def come(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"ref": self.track(**payload)}

    @on("update")
    def change(self, payload: dict[str, Any]) -> dict[str, Any]:
        return {"ref": self.update(**payload)}

    @on("untrack")
    def go(self, payload: dict[str, Any]) -> dict[str, Any]:
        self.untrack(**payload)
        return {}


@UserSocket.channel("crew:*")
class CrewChannel(CrowdChannel):
    """Is present among others."""

    presence = crews


@app.before_request
def note_preflights() -> None:
    """Let the log tell that a browser has asked."""
    if request.method == "OPTIONS":
        app.logger.warning("preflight of %s", request.path)


@app.get("/")
def index() -> str:
    """Answer an ordinary request."""
    return f"an ordinary page of {BOOT}"


@app.get("/boom")
def boom() -> str:
    """Fail, for the debugger to show."""
    raise RuntimeError("boom")


@app.post("/announce")
def announce() -> ResponseReturnValue:
    """Broadcast from a view."""
    phoenix.broadcast(request.args["topic"], "announcement", {"text": request.args["text"]})
    return {}


@app.get("/online/<topic>")
def list_online(topic: str) -> ResponseReturnValue:
    """Tell who is there."""
    return presence_of(topic).list(topic)


@app.put("/online/<topic>")
def track(topic: str) -> ResponseReturnValue:
    """Have somebody present who has no channel."""
    return {"ref": presence_of(topic).track(topic, request.args["key"], request.get_json())}


@app.delete("/online/<topic>")
def untrack(topic: str) -> ResponseReturnValue:
    """Have somebody go who came so."""
    presence_of(topic).untrack(topic, request.args["key"])
    return {}


@app.post("/disconnect")
def disconnect() -> ResponseReturnValue:
    """Close every connection of a user."""
    phoenix.disconnect(request.args["user"])
    return {}


def presence_of(topic: str) -> Presence:
    """Return the presence of a topic."""
    return crews if topic.startswith("crew:") else crowds


# As many apps do: their own forms are exempted here, and the clients that poll need not be.
csrf = CSRFProtect(app)
for view in (announce, track, untrack, disconnect):
    csrf.exempt(view)


@app.route("/plain-ws", websocket=True)
def plain_websocket() -> ResponseReturnValue:
    """Echo over gevent-websocket's own WebSocket, where the server offers one."""
    websocket = request.environ.get("wsgi.websocket")
    if websocket is None:
        return "this server offers no wsgi.websocket", 501
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return ""


@Sock(app).route("/sock")  # type: ignore[untyped-decorator]
def flask_sock_route(websocket: Any) -> None:
    """Echo over flask-sock's WebSocket."""
    while True:
        websocket.send(websocket.receive())


@app.get("/blank")
def blank() -> str:
    """Give a browser a page on which to play stories."""
    return "<!doctype html><title>stories</title>"


@app.get("/clients/<path:name>")
def clients(name: str) -> Response:
    """Give a browser the modules; it runs them only under this media type."""
    return send_from_directory(FOLDER, name, mimetype="text/javascript")


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--certfile")
    parser.add_argument("--keyfile")
    arguments = parser.parse_args()
    tls = {"certfile": arguments.certfile, "keyfile": arguments.keyfile} if arguments.certfile else {}
    phoenix.run(app, port=arguments.port, **tls)


if __name__ == "__main__":
    main()
