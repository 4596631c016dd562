"""Inboxes: the calls that wait for one receiver, which run one at a time and in order."""

from __future__ import annotations

import logging
from collections import deque
from contextvars import Context
from typing import Any

from gevent import GreenletExit
from gevent.event import Event

from ..pubsub.failures import log_failure
from .runners import Call, Runners

log = logging.getLogger("flask_phoenix.channel")

#: Calls that may wait in one inbox before its client is not read any further.
INBOX_LIMIT = 1000

#: What calls start from that belong to no client: no context variable is set.
EMPTY = Context()


class Inbox:
    """Calls for one receiver, run one at a time and in order. While it is empty it costs no greenlet.

    :param context: the context variables that each call starts from; what it sets, no other call sees.
    """

    __slots__ = ("_calls", "_context", "_room", "_runners", "running")

    def __init__(self, runners: Runners, context: Context = EMPTY) -> None:
        self._runners = runners
        self._context = context
        self._calls: deque[tuple[Call, Any]] | None = None
        self._room: Event | None = None
        #: A call is running, or blocked.
        self.running = False

    def __len__(self) -> int:
        return len(self._calls) if self._calls else 0

    def put(self, call: Call, argument: Any = None) -> None:
        """Queue a call; a runner takes it in this turn of the event loop or the next."""
        if self.running:
            self._queue((call, argument))
        else:
            self.running = True
            self._runners.take().spawn(self._run, (call, argument))

    def put_next(self, call: Call, argument: Any = None) -> None:
        """Queue a call in front of those that wait."""
        if self._calls:
            self._calls.appendleft((call, argument))
        else:
            self.put(call, argument)

    def hand_off(self, call: Call, argument: Any) -> None:
        """Queue a call; if nothing runs, run it now and return when it ends or blocks."""
        if self.running:
            self._queue((call, argument))
        else:
            self.running = True
            self._runners.take().hand_off(self._run, (call, argument))

    def clear(self) -> None:
        """Drop the calls that wait."""
        self._calls = None
        self._signal_room()

    def wait(self) -> None:
        """Wait until a call has ended."""
        self._room = self._room or Event()
        self._room.wait()

    def _queue(self, task: tuple[Call, Any]) -> None:
        if self._calls is None:
            self._calls = deque()
        self._calls.append(task)

    def _run(self, task: tuple[Call, Any]) -> None:
        """Run a call, and those that come meanwhile."""
        try:
            while True:
                call, argument = task
                try:
                    self._context.copy().run(call, argument)
                except GreenletExit:
                    raise
                except BaseException:
                    log_failure(log, "%r failed", call)
                if self._room is not None:
                    self._signal_room()
                if not self._calls:
                    return
                task = self._calls.popleft()
        finally:
            self._calls = None
            self.running = False
            self._signal_room()

    def _signal_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
