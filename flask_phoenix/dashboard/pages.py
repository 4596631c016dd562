"""The page, its files, and who may see them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, current_app, make_response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

STATIC = Path(__file__).parent / "static"
#: The client that the package brings with it.
CLIENT = Path(__file__).parent.parent / "static" / "phoenix.mjs"
MEDIA_TYPES = {".css": "text/css", ".mjs": "text/javascript", ".js": "text/javascript", ".svg": "image/svg+xml"}
#: The page takes scripts, styles and pictures from its own files alone, and speaks to its own host.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)


def dashboard_blueprint(allow: Callable[[], Any], name: str) -> Blueprint:
    """Make the blueprint of the page; who is not allowed gets 404, as if there were none."""
    blueprint = Blueprint(name, __name__, url_prefix="/dashboard", template_folder="templates")

    @blueprint.before_request
    def check() -> None:
        if not is_allowed(allow):
            abort(404)

    @blueprint.get("/")
    def page() -> ResponseReturnValue:
        here = url_for(f"{name}.page")
        response = make_response(
            render_template("flask_phoenix/dashboard.html", here=here, edition=edition(), app_name=current_app.name)
        )
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    @blueprint.get("/files/<of>/<path>")
    def file(of: str, path: str) -> ResponseReturnValue:
        if path not in files():
            abort(404)
        if of != edition():  # of a page from before an update
            return redirect(url_for(f"{name}.file", of=edition(), path=path))
        response = Response(files()[path], mimetype=MEDIA_TYPES[Path(path).suffix])
        response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return blueprint


@cache
def files() -> dict[str, bytes]:
    """Return what the page is made of, by name."""
    return {path.name: path.read_bytes() for path in sorted((*STATIC.iterdir(), CLIENT))}


@cache
def edition() -> str:
    """Return what stands in the addresses of the files, so that browsers may keep them."""
    return sha256(b"".join(files().values())).hexdigest()[:12]


def is_allowed(allow: Callable[[], Any]) -> bool:
    """Ask the app whether whoever makes the current request may see the dashboard."""
    return bool(current_app.ensure_sync(allow)())
