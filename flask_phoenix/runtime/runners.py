"""Runners: the greenlets in which an author's callbacks run, so that whoever reads frames waits for none of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from gevent import GreenletExit
from greenlet import getcurrent, greenlet

from ..pubsub.failures import log_failure

log = logging.getLogger("flask_phoenix.channel")

Call = Callable[[Any], None]

#: Idle runners that are kept for the next call. One is enough as long as no handler blocks.
IDLE_RUNNERS = 64

#: The task of a runner that has none.
IDLE: tuple[Call, Any] = (lambda _: None, None)


class Runner:
    """A greenlet that runs one task after another.

    The hand-off: a caller arranges to be resumed by the event loop and switches straight into the runner. A task that
    never blocks switches straight back; one that blocks leaves the loop to resume the caller at once. Measured against
    a greenlet for each message, this saves a third of the cost of an echo.
    """

    __slots__ = ("_caller", "_hub", "_runners", "_task", "greenlet")

    def __init__(self, runners: Runners) -> None:
        self._runners = runners
        self._hub = gevent.get_hub()
        #: The greenlet that waits for the task to end or block.
        self._caller: Any = None
        self._task = IDLE
        self.greenlet = greenlet(self._run, self._hub)

    def hand_off(self, call: Call, argument: Any) -> None:
        """Run a task; return when it has ended, or as soon as it blocks. Not for the event loop's own greenlet."""
        self._task = (call, argument)
        caller = self._caller = getcurrent()
        self._runners.watch(self, self._hub.loop)
        try:
            self.greenlet.switch()
        finally:
            if self._caller is caller:  # it was killed
                self._caller = None

    def spawn(self, call: Call, argument: Any) -> None:
        """Run a task in this turn of the event loop or the next."""
        self._task = (call, argument)
        self._hub.loop.run_callback(self.greenlet.switch)

    def resume_caller(self) -> None:
        """Resume whoever waits for this runner, which has blocked. Called by the event loop."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.switch()

    def _run(self) -> None:
        runners = self._runners
        while True:
            self._run_task()
            if not runners.park(self):
                return  # to the loop, which resumes a waiting caller
            caller, self._caller = self._caller, None
            if caller is not None:
                caller.switch()
            else:
                self._hub.switch()

    def _run_task(self) -> None:
        """Run the task, in a method of its own, so that a parked runner keeps nothing of it alive."""
        (call, argument), self._task = self._task, IDLE
        try:
            call(argument)
        except GreenletExit:  # it is killed, or forgotten while it is blocked
            self._runners.lose()
            raise
        except BaseException:  # a task reports its own failures; a bug there must not end the event loop
            log_failure(log, "%r failed", call)


class Runners:
    """The runners of one process."""

    __slots__ = ("_alive", "_parked", "_scheduled", "_watched")

    def __init__(self) -> None:
        self._parked: list[Runner] = []
        self._alive = 0
        #: The runner that was given a task last, by a caller who waits.
        self._watched: Runner | None = None
        self._scheduled = False

    @property
    def busy(self) -> int:
        """How many run a task, or are blocked in one."""
        return self._alive - len(self._parked)

    def take(self) -> Runner:
        """Return an idle runner."""
        if self._parked:
            return self._parked.pop()
        self._alive += 1
        return Runner(self)

    def watch(self, runner: Runner, loop: Any) -> None:
        """Have the caller of a runner resumed as soon as the event loop runs: then the runner has blocked, or ended.

        One callback does for all hand-offs of a turn. With one for each, a client that floods the server fills the
        loop's queue with callbacks that have nothing to do any more, and those of all others wait behind them.
        """
        if self._watched is not None:
            loop.run_callback(self._watched.resume_caller)
        self._watched = runner
        if not self._scheduled:
            self._scheduled = True
            loop.run_callback(self._resume)

    def _resume(self) -> None:
        self._scheduled = False
        runner, self._watched = self._watched, None
        if runner is not None:
            runner.resume_caller()

    def park(self, runner: Runner) -> bool:
        """Keep a runner whose task has ended for the next one; False: enough are kept, and it is to end."""
        if len(self._parked) < IDLE_RUNNERS:
            if self._watched is runner:
                self._watched = None
            self._parked.append(runner)
            return True
        self._alive -= 1
        return False

    def lose(self) -> None:
        """Count out a runner that has ended in the middle of its task."""
        self._alive -= 1

    def close(self) -> None:
        """End the idle runners."""
        while self._parked:
            del self._parked.pop().greenlet
            self._alive -= 1

    def forget(self) -> None:
        """Have no runners any more, in a process that was forked from the one in which they run."""
        self._parked, self._alive, self._watched, self._scheduled = [], 0, None, False
