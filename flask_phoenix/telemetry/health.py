"""Health: whether a load balancer should send clients to this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

#: Seconds by which the event loop may be late.
MAX_LAG = 1.0


def health(state: dict[str, Any], max_lag: float, adapter: bool) -> dict[str, Any]:
    """Judge the state of a process: ``status`` is ``"ok"``, or ``"unavailable"`` for the ``reasons`` given.

    :param max_lag: seconds by which the event loop may be late.
    :param adapter: whether a lost adapter is a reason.
    """
    found = {
        "draining": state["draining"],
        "adapter lost": adapter and state["adapter"] is not None and state["adapter"]["lost"],
        "event loop late": state["loop_lag"] > max_lag,
    }
    reasons = [reason for reason, holds in found.items() if holds]
    shown = {key: state[key] for key in ("node", "pid", "connections", "loop_lag", "adapter")}
    return {"status": "unavailable" if reasons else "ok", "reasons": reasons, **shown}


def health_blueprint(judge: Callable[[], dict[str, Any]], name: str) -> Blueprint:
    """Make a blueprint whose ``GET /health`` answers with the health: 200, or 503."""
    blueprint = Blueprint(name, __name__)

    @blueprint.get("/health")
    def view() -> ResponseReturnValue:
        found = judge()
        return found, 200 if found["status"] == "ok" else 503, {"Cache-Control": "no-store"}

    return blueprint
