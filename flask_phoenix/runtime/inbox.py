"""Inboxes: the calls that wait for one receiver, which run one at a time and in order."""

from __future__ import annotations

import logging
from collections import deque
from contextvars import Context
from typing import Any

from gevent import GreenletExit
from gevent.event import Event

from ..pubsub.failures import log_failure
from .budget import Account
from .runners import Call, Runners

log = logging.getLogger("flask_phoenix.channel")

#: Calls that may wait in one inbox before its client is not read any further.
INBOX_LIMIT = 1000

#: What calls start from that belong to no client: no context variable is set.
EMPTY = Context()


class Inbox:
    """Calls for one receiver, run one at a time and in order. While it is empty it costs no greenlet.

    :param context: the context variables that each call starts from; what it sets, no other call sees.
    :param account: counts the bytes that calls say they hold, while they wait and while they are blocked.
    """

    __slots__ = ("_account", "_calls", "_context", "_room", "_runners", "_size", "running")

    def __init__(self, runners: Runners, context: Context = EMPTY, account: Account | None = None) -> None:
        self._runners = runners
        self._context = context
        self._account = account
        self._calls: deque[tuple[Call, Any, int]] | None = None
        #: The bytes that the running call holds, as far as they are counted.
        self._size = 0
        self._room: Event | None = None
        #: A call is running, or blocked.
        self.running = False

    def __len__(self) -> int:
        return len(self._calls) if self._calls else 0

    def put(self, call: Call, argument: Any = None, size: int = 0) -> None:
        """Queue a call that holds so many bytes; a runner takes it in this turn of the event loop or the next."""
        if self.running:
            self._queue(call, argument, size)
        else:
            self.running = True
            self._hold(size)
            self._runners.take().spawn(self._run, (call, argument))

    def put_next(self, call: Call, argument: Any = None) -> None:
        """Queue a call in front of those that wait."""
        if self._calls:
            self._calls.appendleft((call, argument, 0))
        else:
            self.put(call, argument)

    def hand_off(self, call: Call, argument: Any, size: int = 0) -> None:
        """Queue a call; if nothing runs, run it now and return when it ends or blocks."""
        if self.running:
            self._queue(call, argument, size)
        else:
            self.running = True
            self._runners.take().hand_off(self._run, (call, argument))
            if self.running:
                self._hold(size)

    def clear(self) -> None:
        """Drop the calls that wait."""
        calls, self._calls = self._calls, None
        if calls and self._account is not None:
            self._account.release(sum(size for _, _, size in calls))
        self._signal_room()

    def wait(self) -> None:
        """Wait until a call has ended."""
        self._room = self._room or Event()
        self._room.wait()

    def _queue(self, call: Call, argument: Any, size: int) -> None:
        if self._calls is None:
            self._calls = deque()
        self._calls.append((call, argument, size))
        if size and self._account is not None:
            self._account.hold(size)

    def _hold(self, size: int) -> None:
        """Count bytes until the call that runs, or is about to, has ended."""
        if size and self._account is not None:
            self._size += size
            self._account.hold(size)

    def _release(self) -> None:
        size, self._size = self._size, 0
        if size and self._account is not None:
            self._account.release(size)

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
                if self._size:
                    self._release()
                if self._room is not None:
                    self._signal_room()
                if not self._calls:
                    return
                call, argument, self._size = self._calls.popleft()
                task = call, argument
        finally:
            self.running = False
            if self._size:
                self._release()
            if self._calls or self._room is not None:
                self.clear()

    def _signal_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
