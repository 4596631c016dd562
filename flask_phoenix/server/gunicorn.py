"""What gunicorn makes necessary: its number of workers, and the end of a worker."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gevent
from gevent.baseserver import BaseServer
from gevent.pool import PoolFull

from ..runtime.engine import Engine
from .drain import drain

#: Seconds between two looks at whether the worker is to end.
CHECK_PERIOD = 0.05


def has_several_workers() -> bool:
    """Tell whether this process is one of several workers of gunicorn, which started it and handles its signals."""
    return bool(getattr(getattr(_find_worker(), "cfg", None), "workers", 1) > 1)


def drain_with_worker(engine: Engine) -> None:
    """Drain when gunicorn ends this worker."""
    WorkerWatch(engine, _find_worker()).start()


def _find_worker() -> Any:
    """Return gunicorn's object for this process, which handles its signals; None: there is none."""
    return getattr(signal.getsignal(signal.SIGTERM), "__self__", None)


class WorkerWatch:
    """Drains an engine when its worker is to end: at SIGTERM, and for ``--reload`` and ``--max-requests``.

    gunicorn tells nobody. It sets ``alive`` to False, which its worker notices within a second; then the worker stops
    accepting and waits until its pools of greenlets are empty.
    """

    def __init__(self, engine: Engine, worker: Any) -> None:
        self._engine = engine
        self._worker = worker
        self._timer = gevent.get_hub().loop.timer(CHECK_PERIOD, CHECK_PERIOD, ref=False)
        self._ending = False

    def start(self) -> None:
        """Watch for signals, which are noticed at once, and for other reasons."""
        previous = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: Any) -> None:
            self._end()
            if callable(previous):
                previous(number, frame)

        signal.signal(signal.SIGTERM, handle)
        if self._worker is not None:
            self._timer.start(self._check)
            self._check()

    def _check(self) -> None:
        if not getattr(self._worker, "alive", True):
            self._end()

    def _end(self) -> None:
        """Accept nobody more, and drain; the worker waits for that as for a client."""
        if self._ending:
            return
        self._ending = True
        self._timer.close()
        self._engine.draining = True
        greenlet: Any = gevent.Greenlet(drain, self._engine)
        for server in self._servers():
            server.close()
            with suppress(PoolFull):
                server.pool.add(greenlet, blocking=False)
        greenlet.start()

    def _servers(self) -> Iterator[Any]:
        """Yield the servers of the worker, which keeps them to itself."""
        listening = {sock.fileno() for sock in getattr(self._worker, "sockets", ())}
        for each in gc.get_objects():
            # issubclass: isinstance would ask proxies, which answer for others or raise.
            if issubclass(type(each), BaseServer) and not each.closed and each.socket.fileno() in listening:
                yield each
