"""Caps of one process: how many clients it has, and how fast they may come, join and speak. Off unless set."""

from __future__ import annotations

import logging
from collections import Counter
from ipaddress import IPv6Address, ip_address
from math import inf
from types import TracebackType

import gevent

from .. import clock
from .settings import Settings

log = logging.getLogger("flask_phoenix.handshake")

#: Seconds that a handshake or a join waits at most for its turn: clients of Phoenix give a join 10 seconds.
MAX_DELAY = 8.0
#: Seconds of a rate that may come at once, after a pause.
BURST = 1.0
#: Seconds between two lines that say that a cap is reached.
REPORT_PERIOD = 60.0


class Rate:
    """A token bucket that delays: whoever comes too fast waits for its turn, instead of being refused.

    :param max_delay: seconds that one may have to wait.
    """

    def __init__(self, per_second: float, burst: float = BURST, max_delay: float = MAX_DELAY) -> None:
        self._interval = 1 / per_second
        self._burst = max(burst, self._interval)
        self._max_delay = max_delay
        #: When the last turn is that was given away.
        self._last = -inf

    def delay(self) -> float | None:
        """Take a turn; return the seconds until it comes. None: too many wait, and none was taken."""
        now = clock.monotonic()
        turn = max(self._last, now - self._burst) + self._interval
        if turn - now > self._max_delay:
            return None
        self._last = turn
        return max(0.0, turn - now)

    def wait(self) -> bool:
        """Wait for a turn; return False, at once, where that would take too long."""
        delay = self.delay()
        if delay:
            gevent.sleep(delay)
        return delay is not None


class Place:
    """A client's place among those that may be connected; free again, at the latest, when nobody keeps it."""

    def __init__(self, caps: Caps | None = None, address: str = "") -> None:
        self._caps = caps
        self._address = address

    def close(self) -> None:
        """Give the place back; a second call does nothing."""
        caps, self._caps = self._caps, None
        if caps is not None:
            caps.leave(self._address)

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        """Free the place of one who was not let in after all."""
        if kind is not None:
            self.close()

    def __del__(self) -> None:
        self.close()


class Caps:
    """What one process allows."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_connections or inf
        self._most_of_one = settings.max_connections_per_address or inf
        self._counts = (self._most, self._most_of_one) != (inf, inf)
        self._taken = 0
        self._by_address: Counter[str] = Counter()
        self._bodies_total = settings.bodies_total
        self._bodies = 0
        self._reported: dict[str, float] = {}
        self.handshakes = Rate(settings.handshakes_per_second) if settings.handshakes_per_second else None
        self.joins = Rate(settings.joins_per_second) if settings.joins_per_second else None

    def take(self, address: str) -> Place | str:
        """Take a place for a client, or return the name of the cap that leaves none.

        :param address: counts unless it is empty, as behind a Unix socket.
        """
        if not self._counts:
            return Place()
        address = network_of(address)
        if self._taken >= self._most:
            return "max_connections"
        if address and self._by_address[address] >= self._most_of_one:
            return "max_connections_per_address"
        self._taken += 1
        self._by_address[address] += 1
        return Place(self, address)

    def leave(self, address: str) -> None:
        """Count a client no more."""
        self._taken -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def hold(self, size: int) -> bool:
        """Count bytes of a body that is being read; return False if there is no room for them."""
        if self._bodies + size > self._bodies_total:
            return False
        self._bodies += size
        return True

    def release(self, size: int) -> None:
        """Count bytes of a body no more."""
        self._bodies -= size

    def report(self, cap: str, what: str = "clients are refused") -> None:
        """Log that a cap is reached, and what that means, once in a while."""
        now = clock.monotonic()
        if now - self._reported.get(cap, -inf) > REPORT_PERIOD:
            self._reported[cap] = now
            log.warning("%s: PHOENIX_%s is reached", what, cap.upper())


def network_of(address: str) -> str:
    """Return what counts as one address: of IPv6 the /64 network, which one client may have as a whole."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else parsed.packed[:8].hex()
