"""What waits for an author's code: the bytes of clients' messages, counted for each client and for the process."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from gevent.event import Event


class Budget:
    """Bytes of clients' messages that were received and are not handled yet, in one process.

    A message counts from the moment that it has to wait until its handler has ended, or its client is gone: what JSON
    becomes in memory may take 24 times the bytes of its text, and is kept as long.

    :param limit: bytes of all clients together.
    :param shed: closes the client of an account, which is the one with the most when the limit is passed.
    """

    def __init__(self, limit: float, shed: Callable[[Account], None]) -> None:
        self._limit = limit
        self._shed = shed
        self._accounts: set[Account] = set()
        self.total = 0

    def add(self, account: Account, size: int) -> None:
        """Count bytes; past the limit, the client with the most is closed."""
        self._accounts.add(account)
        self.total += size
        if self.total > self._limit:
            self._shed(max(self._accounts, key=lambda each: each.size))

    def remove(self, account: Account, size: int) -> None:
        """Count bytes no more."""
        self.total -= size
        if not account.size:
            self._accounts.discard(account)


def ignore_close(code: int, reason: str) -> None:
    """Close a client that is gone."""


class Account:
    """What one client has waiting.

    :param close: closes the client, by a code and a reason.
    :param limit: bytes that may wait before the client is read no further; one message may be larger.
    """

    __slots__ = ("_budget", "_limit", "_room", "close", "ended", "size")

    def __init__(self, budget: Budget, close: Callable[[int, str], None], limit: float = inf) -> None:
        self._budget = budget
        self._limit = limit
        self._room: Event | None = None
        self.close = close
        self.ended = False
        self.size = 0

    def hold(self, size: int) -> None:
        """Count bytes of a message that waits, or that is handled by code that blocks."""
        if not self.ended:
            self.size += size
            self._budget.add(self, size)

    def release(self, size: int) -> None:
        """Count bytes of a message no more."""
        if not self.ended:
            self.size -= size
            self._budget.remove(self, size)
            self._signal_room()

    def wait(self) -> None:
        """Wait while more waits than may, and the client is not gone."""
        while self.size >= self._limit and not self.ended:
            self._room = self._room or Event()
            self._room.wait()

    def end(self) -> None:
        """Let nobody wait any more: the client is gone, and nobody else is to pay for handlers of its that hang."""
        self.release(self.size)
        self.ended = True
        self.close = ignore_close
        self._signal_room()

    def _signal_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.set()
