"""What gunicorn makes necessary: its number of workers, and its signals."""

from __future__ import annotations

import signal
from typing import Any

import gevent

from ..runtime.engine import Engine
from .drain import drain


def has_several_workers() -> bool:
    """Tell whether this process is one of several workers of gunicorn, which started it and handles its signals."""
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(getattr(worker, "cfg", None), "workers", 1) > 1)


def is_worker() -> bool:
    """Tell whether this process is a worker of gunicorn, of one or of several."""
    return hasattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "cfg") and not is_master()


def is_master() -> bool:
    """Tell whether this process is gunicorn's own, which serves nobody and forks the workers."""
    return hasattr(getattr(signal.getsignal(signal.SIGTERM), "__self__", None), "WORKERS")


def drain_on_sigterm(engine: Engine) -> None:
    """Drain when gunicorn stops this worker: only its signal handlers know, so ours stands in front of them."""
    previous = signal.getsignal(signal.SIGTERM)
    worker = getattr(previous, "__self__", None)
    if not getattr(worker, "alive", True):
        # Told to stop before its first client came, whom another worker had just sent away.
        engine.draining = True

    def handle(number: int, frame: Any) -> None:
        gevent.spawn(drain, engine)
        if callable(previous):
            previous(number, frame)

    signal.signal(signal.SIGTERM, handle)
