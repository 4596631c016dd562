"""Waiting for what follows at once from what was done, and for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import Waiter

from ..exceptions import PhoenixError

#: As in .client.
__tracebackhide__ = __unittest = True

#: libev's lowest priority: after everything else that the event loop has to do.
LAST = -2
#: Real seconds after which what goes on and on follows from nothing any more.
RESTLESS = 10.0
#: Real seconds between two looks at what others may have done.
LOOK = 0.001
#: Seconds of a test's clock that may pass while a client connects.
PATIENCE = 60.0

NEVER_RESTS = (
    f"the app has not come to rest within {RESTLESS:.0f} s: a greenlet runs without end; let it wait for longer than"
    " gevent.sleep(0)"
)


def settle() -> None:
    """Run the event loop until it has nothing more to do but to wait.

    :raises PhoenixError: it goes on without end.
    """
    hub = gevent.get_hub()
    loop = _real_loop()
    waiter: Any = Waiter(hub)
    with loop.idle(priority=LAST) as idle, loop.timer(RESTLESS) as limit:
        idle.start(waiter.switch, True)
        limit.start(waiter.switch, False, update=True)  # the test may have run for long
        rests = waiter.get()
    if not rests:
        raise PhoenixError(NEVER_RESTS)


def wait_for(condition: Callable[[], Any], within: float) -> bool:
    """Let happen what follows from what was done, and wait so many real seconds at most until a condition holds."""
    settle()
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        _pause(LOOK)
        settle()
    return True


def call(function: Callable[..., Any], *arguments: Any, within: float) -> Any:
    """Call a function in a greenlet, as a server does; return or raise what it does.

    What it waits for comes: a test's clock goes on meanwhile.

    :raises AssertionError: it does not end.
    """
    outcome: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    working = gevent.spawn(work)
    settle()
    clock = getattr(gevent.get_hub().loop, "clock", None)
    while not outcome and clock is not None and (clock.next or PATIENCE) < PATIENCE and clock.advance_to_next():
        pass
    if not wait_for(lambda: outcome, within):
        working.kill()
        raise AssertionError(f"{function.__name__} has not ended within {within} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _pause(seconds: float) -> None:
    """Wait for real seconds, whatever a test's clock says."""
    loop = _real_loop()
    loop.update_now()
    with loop.timer(seconds) as timer:
        gevent.get_hub().wait(timer)


def _real_loop() -> Any:
    loop = gevent.get_hub().loop
    return getattr(loop, "real", loop)
