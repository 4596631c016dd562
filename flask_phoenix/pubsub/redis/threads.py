"""Threads beside the event loop, and the calls that they have made in it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event

from ..failures import log_failure
from ..hub import thread_id

log = logging.getLogger("flask_phoenix.redis")

#: After how many calls other greenlets may run.
CALLS_BETWEEN_PAUSES = 64


class Threads:
    """Threads, how they are woken, and how they have something called in the thread of the event loop.

    It is made in that thread. A thread is what ``threading`` makes: when the process is patched, a greenlet that waits
    without stopping the others; when it is not, a thread of the system whose waiting stops nobody either.
    """

    def __init__(self) -> None:
        self._loop, self._thread = gevent.get_hub().loop, thread_id()
        self._patched = monkey.is_module_patched("threading")
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._called, self._calling = Event(), False
        self._threads: dict[Event, threading.Thread] = {}
        # In an empty context: greenlets inherit that of their maker, which may be a request's.
        self._caller = Context().run(gevent.spawn, self._run)

    def spawn(self, target: Callable[[], None]) -> Event:
        """Run a function in a thread; the answer is set when that has ended."""
        end = Event()

        def run() -> None:
            try:
                target()
            finally:
                self._loop.run_callback_threadsafe(end.set)

        self._threads[end] = threading.Thread(target=run, daemon=True)
        Context().run(self._threads[end].start)
        return end

    def set(self, event: threading.Event) -> None:
        """Set an event that a thread waits for; from any thread."""
        if self._patched and thread_id() != self._thread:
            self._loop.run_callback_threadsafe(event.set)
        else:
            event.set()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Have a function called in the thread of the event loop, one after another; from any thread."""
        self._calls.append((function, args))
        if not self._calling:
            self._calling = True
            self._loop.run_callback_threadsafe(self._called.set)

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._calls)

    def close(self, seconds: float) -> None:
        """Wait for the threads to end, so long at most, and call nothing any more."""
        for end in gevent.wait(list(self._threads), timeout=seconds):
            self._threads.pop(end).join()
        self._caller.kill()

    def _run(self) -> None:
        done = 0
        while True:
            self._called.wait()
            self._called.clear()
            self._calling = False
            while self._calls:
                function, args = self._calls.popleft()
                try:
                    function(*args)
                except gevent.GreenletExit:
                    raise
                except BaseException:
                    log_failure(log, "a call from another thread failed: %r", function)
                done += 1
                if not done % CALLS_BETWEEN_PAUSES:
                    gevent.sleep(0)
