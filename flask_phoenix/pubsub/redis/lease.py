"""Who leads among the nodes of a Redis: who holds a lease there, and renews it.

The leader stops its work a second before Redis may give the lease to another: by its own clock, from the moment at
which it asked. That needs no answer of Redis, and no agreement of clocks but on how long a second is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent
from redis.exceptions import NoPermissionError, ResponseError

from ... import clock
from ...exceptions import NotPublished
from .client import Command

log = logging.getLogger("flask_phoenix.redis")

#: Seconds that a lease lasts, unless it is renewed; between two renewals; and before its end, when the leader stops.
LEASE, RENEWAL, MARGIN = 6.0, 1.0, 1.0
#: Seconds that a node that gives it up waits for Redis.
DROP_TIMEOUT = 1.0
#: Takes the lease or renews it: where nobody else has it.
TAKE = (
    "if (redis.call('GET', KEYS[1]) or ARGV[1]) ~= ARGV[1] then return 0 end"
    " redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1"
)
DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"


class Lease:
    """A lease on a key of Redis.

    :param execute: has commands carried out, and waits for their answers.
    :param lost: called in the event loop when it is not certain any longer that this node has the lease.
    :param remedy: what to do where Redis does not permit it.
    """

    def __init__(
        self,
        execute: Callable[[list[Command]], list[Any]],
        key: bytes,
        owner: bytes,
        lost: Callable[[], None],
        remedy: str,
    ) -> None:
        self._execute = execute
        self._key, self._owner = key, owner
        self._lost = lost
        self._remedy = remedy
        self._watchdog: Any = None
        self._renewer: Any = None
        self._refusal = ""

    def acquire(self) -> None:
        """Wait for it."""
        try:
            while not self._take():
                gevent.sleep(RENEWAL)
        except BaseException:
            self.release()
            raise
        self._renewer = gevent.spawn(self._renew)

    def release(self) -> None:
        """Give it up."""
        self._stop_watchdog()
        if self._renewer is not None:
            self._renewer.kill(block=False)
        with gevent.Timeout(DROP_TIMEOUT, False):  # type: ignore[arg-type]
            self._ask(DROP)

    def _renew(self) -> None:
        while self._watchdog is not None:
            gevent.sleep(RENEWAL)
            if self._watchdog is not None and self._take() is False:
                self._stop_watchdog()
                gevent.get_hub().loop.run_callback(self._lost)

    def _take(self) -> bool | None:
        """Tell whether the lease is had; None: that is unknown."""
        asked, leads = clock.monotonic(), self._watchdog is not None
        answer = self._ask(TAKE, int(LEASE * 1000))
        if answer != 1 or (leads and self._watchdog is None):
            return None if answer is None else False
        self._stop_watchdog()
        left = asked + LEASE - MARGIN - clock.monotonic()
        if left <= 0:
            return False
        loop = gevent.get_hub().loop
        # Of all that is due in one turn of the loop, as when a stopped process goes on, it comes first.
        self._watchdog = loop.timer(left, priority=loop.MAXPRI)  # type: ignore[attr-defined]
        self._watchdog.start(self._lose)
        return True

    def _lose(self) -> None:
        self._stop_watchdog()
        self._lost()

    def _stop_watchdog(self) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.close()

    def _ask(self, script: str, *arguments: Any) -> Any:
        answer: Any
        try:
            [answer] = self._execute([(self._key, ("EVAL", script, 1, self._key, self._owner, *arguments))])
        except NotPublished as error:
            answer = error
        if not isinstance(answer, Exception):
            self._refusal = ""
            return answer
        # While Redis is away, the errors of one connection after another tell nothing new.
        refusal = str(answer) if isinstance(answer, ResponseError) else "no answer"
        if refusal != self._refusal:
            self._refusal = refusal
            remedy = f"; {self._remedy}" if isinstance(answer, NoPermissionError) else ""
            log.error("it is unknown who leads, until Redis answers: %s%s", answer, remedy)
        return None
