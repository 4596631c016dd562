"""What clients lose to each kind of failure, without a history and with one: the table in docs/howto/recovery.md."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger, place
from tests.faults.run import Clients, Publishers, last_receipt
from tests.support.fleet import Fleet, start
from tests.support.processes import DEADLINE, Servers, wait_until
from tests.support.redis_server import RedisServer

log = logging.getLogger(__name__)

APP = "tests.faults.app:app"
KEEPS, FORGETS = "room:1", "plain:1"
#: Three clients of each kind.
PLAN = {
    f"{kind} {number}": topic
    for kind, topic in (("websocket", KEEPS), ("longpoll", KEEPS), ("plain", FORGETS), ("plainpoll", FORGETS))
    for number in range(3)
}
#: Seconds between two messages of each of three publishers: ten messages a second on each of two topics.
PACE = 0.15
PATIENCE = 3 * DEADLINE


class Losses:
    """Clients of both kinds, and what they lose."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ledger = Ledger()
        self.clients = Clients(self.ledger, fleet.server.port, 1, PLAN)
        self.clients.tell("calm")
        self.publishers = Publishers(self.ledger, fleet, "", 1, (KEEPS, FORGETS), PACE)
        self._settle()

    def close(self) -> None:
        """End all."""
        self.publishers.close()
        self.clients.close()

    def measure(self, what: str, fail: Callable[[], None]) -> int:
        """Let something fail; log what was lost, and return how many losses were declared."""
        before, declared = set(self.publishers.said), self.ledger.counts["declared losses"]
        time.sleep(1)
        fail()
        said = self._settle() - before
        lost = {name: len(said - heard) for name, heard in self.clients.heard.items()}
        declared = self.ledger.counts["declared losses"] - declared
        log.info("%s: of %d lost without a history %s; with one %d declared", what, len(said), lost, declared)
        assert self.ledger.wrong == []
        return declared

    def cut(self) -> None:
        """Drop all connections for a second."""
        self.clients.tell("cut")
        time.sleep(1.2)

    def restart(self) -> None:
        """Have new workers take the place of all."""
        old = self.fleet.workers()
        os.kill(self.fleet.server.pid, signal.SIGHUP)
        assert wait_until(lambda: not old & self.fleet.pids(), self.fleet.wait_briefly, PATIENCE)
        self.fleet.workers()

    def kill(self) -> None:
        """Kill each worker in turn."""
        for worker in self.fleet.workers():
            os.kill(worker, signal.SIGKILL)
            self.fleet.workers({worker})

    def _settle(self) -> set[int]:
        """Wait until all clients hear what is said from now on; return what was said before."""
        epoch, offset = place(last_receipt(self.publishers, KEEPS))
        said = set(self.publishers.said)
        last = max(said, default=0)

        def all_hear() -> bool:
            places, heard = list(self.ledger.places.values()), list(self.clients.heard.values())
            return (
                len(places) + len(heard) == len(PLAN)
                and all(there[0] == epoch and there[1] >= offset for there in places)
                and all(max(numbers, default=0) > last for numbers in heard)
            )

        assert wait_until(all_hear, lambda: time.sleep(0.05), PATIENCE), (self.ledger.places, epoch, offset)
        return said


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["one process", "workers", "redis"])
def test_nothing_is_lost_but_what_is_declared(
    servers: Servers, short_path: Path, redis: RedisServer, kind: str
) -> None:
    url = {"one process": "", "workers": f"workers://{short_path / 'workers'}", "redis": redis.url}[kind]
    environment = {"FLASK_PHOENIX_PUBSUB_URL": url} if url else {}
    losses = Losses(start(servers, environment, app=APP, workers=3 if url else 1))

    def fail() -> None:
        redis.kill()
        time.sleep(0.5)
        redis.start()

    try:
        assert losses.measure("a drop of 1 s", losses.cut) == 0
        for what, trouble in (("a HUP", losses.restart), ("each worker killed", losses.kill)):
            declared = losses.measure(what, trouble)
            assert (declared == 0) == bool(url)
        if kind == "redis":
            assert losses.measure("a restart of Redis", fail) > 0
    finally:
        losses.close()
