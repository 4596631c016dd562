"""A chat on flask_phoenix: rooms, histories, a locked door, and announcements over plain HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask

from example_app import channels, rooms, sockets, views

__all__ = ["channels", "create_app"]


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """One chat; ``STAFF_CODE`` opens its locked room, ``SECRET_KEY`` signs the tokens of clients that poll."""
    app = Flask(__name__)
    # For development. Where others can reach it, set FLASK_SECRET_KEY: a secret, and the same for every process.
    app.config.from_mapping(STAFF_CODE="ember", SECRET_KEY="anybody can read this")
    app.config.from_prefixed_env()
    app.config.update(config or {})
    app.extensions["example_rooms"] = rooms.build(app.config["STAFF_CODE"])
    app.register_blueprint(views.pages)
    sockets.phoenix.init_app(app)
    return app
