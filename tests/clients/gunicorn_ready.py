"""Configuration of gunicorn: each worker says when it hears signals, which it does not while it boots."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """Say so; gunicorn has set the worker's signal handlers by now."""
    worker.log.info("worker %d hears signals", worker.pid)
