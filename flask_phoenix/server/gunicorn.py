"""What gunicorn makes necessary: its number of workers, and the end of a worker."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.baseserver import BaseServer
from gevent.pool import Group
from gevent.socket import socket

from ..runtime.engine import Engine
from ..runtime.turns import MAX_ACCEPT
from .drain import drain

#: Seconds of the ``graceful_timeout`` that are left to gunicorn, which looks once in a second.
RESERVE = 2.5
#: Seconds between two looks at whether the worker is to end.
CHECK_PERIOD = 0.05
#: Looks for the servers of a worker that begins; each takes some milliseconds.
LOOKS = 20


def has_several_workers() -> bool:
    """Tell whether this process is one of several workers of gunicorn, which started it and handles its signals."""
    return bool(getattr(getattr(_find_worker(), "cfg", None), "workers", 1) > 1)


def is_worker() -> bool:
    """Tell whether this process is a worker of gunicorn, of one or of several."""
    return hasattr(_find_worker(), "cfg") and not is_master()


def is_master() -> bool:
    """Tell whether this process is gunicorn's own, which serves nobody and forks the workers."""
    return hasattr(_find_worker(), "WORKERS")


def is_loading() -> bool:
    """Tell whether gunicorn's gevent worker is about to serve, and loads the app."""
    sockets: list[Any] = getattr(_find_worker(), "sockets", [])
    return bool(sockets) and all(isinstance(each, socket) for each in sockets)


def drain_with_worker(engine: Engine) -> None:
    """Drain when gunicorn ends this worker; a second call for an engine does nothing."""
    handler = signal.getsignal(signal.SIGTERM)
    watch = getattr(handler, "__self__", None)
    if not isinstance(watch, WorkerWatch):
        watch = WorkerWatch(_find_worker(), handler)
        watch.start()
    watch.add(engine)


def _find_worker() -> Any:
    """Return gunicorn's object for this process, which handles its signals; None: there is none."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner.worker if isinstance(owner, WorkerWatch) else owner


def _accept_nobody() -> None:
    """Take the place of a server's ``do_read``, which would return a socket."""


def _stop_worker() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class WorkerWatch:
    """Drains engines when their worker is to end: at a signal, and for ``--reload`` and ``--max-requests``.

    Of the latter gunicorn tells nobody. It sets ``alive`` to False, which its worker notices within a second; then the
    worker closes its servers and waits until their pools of greenlets are empty. Whoever notices first, the drain is in
    those pools.

    Ctrl-C and SIGQUIT would end the worker at once, whatever the handlers of clients do. They are taken as SIGTERM; to
    whom that takes too long, gunicorn offers another Ctrl-C after SIGTERM, and SIGKILL.

    :param previous: the handler of SIGTERM, which is called too.
    """

    def __init__(self, worker: Any, previous: Any) -> None:
        self.worker = worker
        self._previous = previous
        self._engines: list[Engine] = []
        #: The servers of the worker, and what closes them.
        self._servers: list[tuple[Any, Callable[[], None]]] = []
        self._timer = gevent.get_hub().loop.timer(CHECK_PERIOD, CHECK_PERIOD, ref=False)
        self._ending = False
        #: How often it looks yet for the servers, which the worker makes after it has loaded the app.
        self._looks = LOOKS

    def start(self) -> None:
        """Watch for the signals, which are noticed at once, and for other reasons."""
        signal.signal(signal.SIGTERM, self.handle_signal)
        if self.worker is not None:
            for number in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, self.handle_interrupt)
            self._timer.start(self._check)

    def add(self, engine: Engine) -> None:
        """Drain an engine, too; at once, if the worker has been told to end."""
        if engine not in self._engines:
            self._engines.append(engine)
            engine.served, engine.stop_server, engine.draining = True, _stop_worker, self._ending
            self._check()

    def handle_signal(self, number: int, frame: Any) -> None:
        """End, and let gunicorn do what it does."""
        self._end()
        if callable(self._previous):
            self._previous(number, frame)

    def handle_interrupt(self, number: int, frame: Any) -> None:
        """End in the same way, and tell the author's hook of gunicorn."""
        self.handle_signal(number, frame)
        self.worker.cfg.worker_int(self.worker)

    def _check(self) -> None:
        if self._looks:
            self._looks -= 1
            self._take_servers()
        if not getattr(self.worker, "alive", True):
            self._end()

    def _take_servers(self) -> None:
        """Have the servers, once they are there, accept as few in a turn as our own, and tell when they are closed."""
        for server in self._find_servers():
            server.max_accept = min(server.max_accept, MAX_ACCEPT)
            self._servers.append((server, server.close))
            server.close = self._end  # gunicorn calls it when it notices that the worker is to end
            self._looks = 0

    def _close_servers(self) -> None:
        """Close the servers, once those have begun who were accepted: gunicorn asks a listener for its name then."""
        gevent.sleep(0)
        for _, close in self._servers:
            close()

    def _end(self) -> None:
        """Accept nobody more, and drain; the worker waits for that as for its clients.

        A signal calls this wherever the worker just is, and that is often where a server begins to accept: it is not
        closed here, and leaves those who wait to other workers.
        """
        if self._ending:
            return
        self._ending = True
        self._timer.close()
        graceful = getattr(getattr(self.worker, "cfg", None), "graceful_timeout", 30)
        limit = max(graceful - RESERVE, graceful / 4)
        if not self._servers:
            self._take_servers()
        for server, _ in self._servers:
            server.do_read = _accept_nobody
            server.stop_accepting()
        gevent.spawn(self._close_servers)
        for engine in self._engines:
            engine.draining = True
            greenlet: Any = gevent.Greenlet(drain, engine, limit)
            for server, _ in self._servers:
                Group.add(server.pool, greenlet)  # Pool.add would not where as many clients as may be are connected
            greenlet.start()

    def _find_servers(self) -> Iterator[Any]:
        """Yield the servers of the worker, which keeps them to itself."""
        listening = {each.fileno() for each in getattr(self.worker, "sockets", ())}
        frozen = gc.get_freeze_count()
        gc.unfreeze()  # else what is frozen is not found
        objects = gc.get_objects()
        if frozen:
            gc.freeze()
        for each in objects:
            # issubclass: isinstance would ask proxies, which answer for others or raise.
            if issubclass(type(each), BaseServer) and not each.closed and each.socket.fileno() in listening:
                yield each
