"""What apps have in common that several processes serve: each answer tells which of them gave it."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response

from flask_phoenix import Channel


def make_app(name: str) -> Flask:
    """Make an app that answers at ``/``, and names its process; ``FLASK_*`` configures it."""
    app = Flask(name)
    app.secret_key = "the same for every process of these tests"
    app.config.from_prefixed_env()
    app.after_request(_name_worker)
    app.get("/")(dict)
    return app


def _name_worker(response: Response) -> Response:
    response.headers["X-Worker"] = str(os.getpid())
    return response


class NamedRoom(Channel):
    """Tells who is there, by the names that they join with; a subclass has the presence."""

    def join(self, payload: Any) -> dict[str, Any]:
        self.assigns["name"] = payload["name"]
        return {}

    def after_join(self) -> None:
        self.track(self.assigns["name"])
        self.push("presence_state", self.presences())
