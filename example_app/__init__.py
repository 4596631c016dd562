"""A chat, a live map and a game on flask_phoenix, served by one worker or by many."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from example_app import channels, game, rooms, sockets, views
from example_app.history import History

__all__ = ["channels", "create_app", "game"]


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application, as each worker makes it for itself.

    ``STAFF_CODE`` opens the locked room, ``SECRET_KEY`` signs the tokens of clients that poll, and ``DATABASE`` is the
    file of what was said: these three have to be the same for all workers. ``DASHBOARD`` lets everybody see the
    dashboard.
    """
    app = Flask(__name__)
    # For development. Where others can reach it, set FLASK_SECRET_KEY, FLASK_STAFF_CODE and FLASK_DATABASE.
    app.config.from_mapping(STAFF_CODE="ember", SECRET_KEY="anybody can read this")
    app.config.from_mapping(DATABASE=f"{app.instance_path}/chat.db", DASHBOARD=False)
    app.config.from_prefixed_env()
    app.config.update(config or {})
    app.extensions["example_rooms"] = rooms.build(str(app.config["STAFF_CODE"]))
    app.extensions["example_history"] = History(Path(app.config["DATABASE"]))
    app.extensions["example_frames"] = deque(maxlen=1)
    app.register_blueprint(views.pages)
    sockets.phoenix.init_app(app)
    # For the load balancer alone: what stands in front shows it to nobody else.
    app.register_blueprint(sockets.phoenix.health_blueprint(), url_prefix="/internal")
    # Whoever sees it reads along. An address would not do: behind a proxy on this machine, everybody comes from there.
    app.register_blueprint(sockets.phoenix.dashboard(allow=lambda: app.debug or app.config["DASHBOARD"]))
    return app
