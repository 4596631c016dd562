"""The event loop and other threads, as tests use them."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import gevent

from tests.support.processes import DEADLINE


def turn(times: int = 5) -> None:
    """Let the event loop do what is due now."""
    for _ in range(times):
        gevent.sleep(0)


def in_greenlet(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a greenlet, as a server calls a view; return what it returns."""
    return gevent.spawn(function, *arguments).get(timeout=DEADLINE)


def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread of gevent's pool; return what it returns. The event loop goes on meanwhile."""
    return gevent.get_hub().threadpool.apply(function, arguments)


def in_plain_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread that knows no greenlets; return what it returns. The event loop stands meanwhile."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(function(*arguments))
        except BaseException as error:
            outcome.append(error)

    thread = Thread(target=call)
    thread.start()
    thread.join(DEADLINE)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
