"""Under debug: a thread that looks at the event loop, and tells what holds it."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any

import gevent
from gevent import monkey

from ..pubsub.hub import thread_id
from .node import Service

log = logging.getLogger("flask_phoenix.channel")

start_thread = monkey.get_original("_thread", "start_new_thread")
sleep = monkey.get_original("time", "sleep")

#: Seconds for which a callback may hold the event loop before it is told.
HOLD = 0.1
#: Seconds after which a hold is told though it goes on, as it may for ever.
LONG_HOLD = 5.0
#: Seconds between two looks.
LOOK_PERIOD = 0.025
#: The priorities of the event loop's watchers that are asked first and last.
FIRST, LAST = 2, -2

HELD = (
    "the event loop was held for %d ms, and nobody else was served meanwhile: let the handler wait through what gevent"
    " patches, or give the work to gevent.get_hub().threadpool%s. It was here:\n%s"
)
UNPATCHED = " (this process is not patched: begin it with gevent.monkey.patch_all())"


class Watchdog(Service):
    """Watches the event loop of the process that serves.

    The loop says when it goes to wait for events and when it comes back. In between it is the turn of callbacks, which
    may take a moment each; where that lasts, the thread looks at what the loop's thread is doing.
    """

    def __init__(self) -> None:
        #: When the turn began that goes on; None: the loop waits.
        self._since: float | None = None
        #: The turn that was too long, and what was going on in it.
        self._seen: tuple[float, str] | None = None
        self._watchers: list[Any] = []
        self._running: list[bool] = []

    def start(self) -> None:
        """Begin to watch the event loop of this thread."""
        loop = gevent.get_hub().loop
        self._watchers = [loop.check(ref=False, priority=FIRST), loop.prepare(ref=False, priority=LAST)]
        for watcher, call in zip(self._watchers, (self._begin, self._end), strict=True):
            watcher.start(call)
        self._begin()
        self._running = [True]
        start_thread(self._watch, (self._running, thread_id()))

    def greet(self) -> None:
        """Nobody else is to know."""

    def farewell(self) -> None:
        """Nobody else is to know."""

    def stop(self) -> None:
        """Watch no more."""
        self._running.clear()
        for watcher in self._watchers:
            watcher.close()
        self._watchers = []

    def gone(self, node: str) -> None:
        """Others are watched by their own."""

    def _begin(self) -> None:
        self._end()  # the first turn has no other end
        self._since = monotonic()

    def _end(self) -> None:
        since, seen = self._since, self._seen
        self._since = self._seen = None
        if since is not None and seen is not None and seen[0] == since:
            # Not here, where the event loop is about to wait, and in its own greenlet: a log handler may wait, too.
            gevent.get_hub().loop.run_callback_threadsafe(_tell, monotonic() - since, seen[1])

    def _watch(self, running: list[bool], watched: int) -> None:
        """Look now and then. This is a thread of its own, which touches nothing of gevent's."""
        told: float | None = None
        while running:
            sleep(LOOK_PERIOD)
            since = self._since
            if since is None or monotonic() - since < HOLD:
                continue
            if self._seen is None or self._seen[0] != since:
                self._seen = since, _stack_of(watched)
            elif told != since and monotonic() - since > LONG_HOLD:
                told = since
                line = f"the event loop is held for more than {LONG_HOLD} s, here:\n{_stack_of(watched)}\n"
                with suppress(OSError):  # the disk is full
                    # Not through the log, which may wait for a lock that a greenlet holds.
                    os.write(2, line.encode())


def _tell(seconds: float, stack: str) -> None:
    remedy = "" if monkey.is_module_patched("time") else UNPATCHED
    Context().run(gevent.spawn, log.warning, HELD, seconds * 1000, remedy, stack)


def _stack_of(thread: int) -> str:
    """Return what a thread is doing, as tracebacks write it."""
    frame = sys._current_frames().get(thread)
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "(it has ended)"
