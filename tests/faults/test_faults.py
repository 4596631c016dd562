"""A short run of the checker for each adapter; ``make faults`` runs it for longer."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.ledger import Ledger
from tests.faults.run import Trouble, run
from tests.support.fleet import start
from tests.support.processes import Servers
from tests.support.redis_server import RedisServer

log = logging.getLogger(__name__)

#: Seconds that a run lasts, where the environment says so; else it ends when enough has happened.
SECONDS = float(os.environ.get("PHOENIX_FAULTS_SECONDS", "0"))
SEED = int(os.environ.get("PHOENIX_FAULTS_SEED", "1"))
APP = "tests.faults.app:app"


def enough() -> Callable[[Ledger], bool]:
    """Return what tells when a run was long enough."""
    began = time.monotonic()

    def until(ledger: Ledger) -> bool:
        if SECONDS:
            return time.monotonic() - began > SECONDS
        return ledger.counts["recoveries"] > 20 and ledger.counts["messages"] > 1000

    return until


@pytest.mark.timeout(120 + SECONDS)
def test_one_process(servers: Servers) -> None:
    fleet = start(servers, {}, app=APP, workers=1)
    outcome = run(fleet, "", Trouble(fleet, random.Random(SEED)).kinds(), enough(), SEED)
    log.info("%s", outcome.counts)
    assert outcome.wrong == []


@pytest.mark.timeout(120 + SECONDS)
def test_workers(servers: Servers, short_path: Path) -> None:
    url = f"workers://{short_path / 'workers'}"
    fleet = start(servers, {"FLASK_PHOENIX_PUBSUB_URL": url}, app=APP)
    outcome = run(fleet, url, Trouble(fleet, random.Random(SEED)).kinds(), enough(), SEED)
    log.info("%s", outcome.counts)
    assert outcome.wrong == []


@pytest.mark.timeout(120 + SECONDS)
def test_redis(servers: Servers, redis: RedisServer) -> None:
    fleet = start(servers, {"FLASK_PHOENIX_PUBSUB_URL": redis.url}, app=APP)

    def fail() -> None:
        redis.kill()
        time.sleep(0.5)
        redis.start()

    outcome = run(fleet, redis.url, [*Trouble(fleet, random.Random(SEED)).kinds(), fail], enough(), SEED)
    log.info("%s", outcome.counts)
    assert outcome.wrong == []
