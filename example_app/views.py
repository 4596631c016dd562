"""What is asked over plain HTTP: the pages, the client's script, and announcements."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, render_template, request, send_from_directory
from flask.typing import ResponseReturnValue

from example_app.city import LINES, SIZE
from example_app.game import field
from example_app.rooms import LONGEST_NICKNAME, LONGEST_TEXT, all_rooms, clean, field_of
from example_app.shown import code
from example_app.sockets import phoenix
from flask_phoenix import Refused

CLIENT = Path(__file__).parent / "node_modules" / "phoenix" / "priv" / "static"

#: The colours that players can choose from, in degrees.
HUES = range(20, 360, 45)

pages = Blueprint("pages", __name__)


@pages.get("/")
def index() -> str:
    """The start page: the three at work, each beside its code."""
    return render_template("index.html", code=code, longest=LONGEST_TEXT, installed=installed())


@pages.get("/chat")
def chat() -> str:
    """The chat."""
    limits = {"nickname": LONGEST_NICKNAME, "text": LONGEST_TEXT}
    return render_template("chat.html", rooms=all_rooms().values(), limits=limits, installed=installed())


@pages.get("/map")
def live_map() -> str:
    """The map."""
    return render_template("map.html", lines=LINES.values(), size=SIZE, installed=installed())


@pages.get("/game")
def game() -> str:
    """The game."""
    limits = {"nickname": LONGEST_NICKNAME}
    return render_template("game.html", hues=HUES, limits=limits, field=field, installed=installed())


def installed() -> bool:
    """Tell whether the pages' client is there."""
    return (CLIENT / "phoenix.mjs").exists()


@pages.get("/vendor/recover.mjs")
def recover() -> Response:
    """The module with which the chat comes back without a gap."""
    return send_from_directory(str(files("flask_phoenix") / "static"), "recover.mjs", mimetype="text/javascript")


@pages.get("/vendor/<any('phoenix.mjs', 'phoenix.mjs.map'):name>")
def vendor(name: str) -> Response:
    """The official client, as ``npm ci`` has installed it; browsers run a module only under this media type."""
    return send_from_directory(CLIENT, name, mimetype="text/javascript" if name.endswith(".mjs") else None)


@pages.post("/announce")
def announce() -> ResponseReturnValue:
    """Tell everybody something, from outside any channel: all who are here have joined the lobby."""
    said = request.get_json(silent=True) if request.is_json else request.form
    try:
        text = clean(field_of(said, "text"), LONGEST_TEXT)
    except Refused as refused:
        return refused.response, 400
    phoenix.broadcast("room:lobby", "announcement", {"text": text})
    return {"text": text}
