"""A function of the app that runs beside the requests: once in each process that serves, or once among all of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any

import gevent
from gevent.event import Event

from .. import clock
from ..exceptions import PhoenixError
from .engine import FAILURES, Engine
from .node import Service

log = logging.getLogger("flask_phoenix.server")

#: Seconds until a function that has failed is called again: at first, and at most; each failure doubles them.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: Seconds that a function has to run for its earlier failures to be forgotten.
STEADY = 60.0
#: Seconds that a function has to end when it is stopped.
STOP_GRACE = 5.0


def _keep_leading() -> None:
    """Give up nothing: there is nobody to whom it could be given."""


class Background(Service):
    """Calls a function in a greenlet and an app context, from the first client to the drain.

    It is called again when it has failed, and not when it has returned.

    :param name: under which nodes agree on who calls it; empty: each does.
    """

    def __init__(self, engine: Engine, function: Callable[[], Any], name: str) -> None:
        self._engine = engine
        self._function = function
        self._name = name
        self._process = 0
        self._supervisor: Any = None

    def start(self) -> None:
        """Wait for :meth:`greet`: the function may speak to other nodes."""

    def greet(self) -> None:
        """Begin."""
        if self._supervisor is None:
            self._process = os.getpid()
            self._supervisor = Context().run(gevent.spawn, self._supervise)

    def drain(self) -> None:
        """End: clients go now, and another node may take over."""
        self.stop()

    def farewell(self) -> None:
        """Say nothing: other nodes see who leads."""

    def gone(self, node: str) -> None:
        """Do nothing: what a node led is free when it has ended."""

    def stop(self) -> None:
        """End the function, by ``GreenletExit`` where it waits, and wait for its end."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and self._process == os.getpid():  # a forked one has no greenlets of its parent
            supervisor.kill()

    def _supervise(self) -> None:
        leads = True
        while leads:
            task: Any = gevent.Greenlet(self._call_until_it_returns)
            try:
                release = self._lead(partial(task.throw, gevent.GreenletExit))
            except PhoenixError:
                log.exception("%r is not called here", self._function)
                return
            try:
                task.start()
                task.join()
                if leads := isinstance(task.value, gevent.GreenletExit):
                    log.warning("%r was stopped here: it is not certain that this process leads", self._function)
                else:
                    Event().wait()  # it has returned, and is not to be called elsewhere while this one lives
            finally:
                task.kill(timeout=STOP_GRACE)
                if task.ready():
                    release()
                else:
                    log.error("%r has not ended within %.0f s, and goes on", self._function, STOP_GRACE)

    def _lead(self, lost: Callable[[], None]) -> Callable[[], None]:
        """Wait until the function is to be called here; return what gives that up."""
        adapter = self._engine.node.adapter
        if not self._name or adapter is None:
            return _keep_leading
        return adapter.lead(self._name, lost)

    def _call_until_it_returns(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = clock.monotonic()
            try:
                with self._engine.context():
                    self._function()
                return
            except gevent.GreenletExit:
                raise
            except FAILURES as failure:
                if clock.monotonic() - began > STEADY:
                    pause = FIRST_PAUSE
                log.exception("%r failed, and is called again in %.0f s", self._function, pause)
                self._engine.caught(failure)
            gevent.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
