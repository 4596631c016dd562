"""Clients behind a bad network, publishers everywhere, and what kills workers and Redis: one run of all of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from flask_phoenix import NotPublished
from flask_phoenix.protocol.json import Json
from flask_phoenix.pubsub.adapter import make_publisher
from flask_phoenix.pubsub.envelope import pack_entry
from tests.faults.app import Hall, Room, broadcast_of
from tests.faults.ledger import Ledger
from tests.support.child import Child
from tests.support.fleet import Fleet
from tests.support.processes import DEADLINE, HOST, wait_until

CLIENTS = Path(__file__).parent.parent / "clients"
TOPICS = ("room:1", "hall:1", "blob:1")
#: The topic of each client, whose name begins with its kind. Bytes travel over WebSockets of the newest version alone.
PLAN = {
    f"{kind} {number}": topic
    for kind, topics in (
        ("websocket", (*TOPICS, "room:1")),
        ("longpoll", TOPICS[:2]),
        ("raw", TOPICS[:2]),
        ("old", TOPICS[:2]),
    )
    for number, topic in enumerate(topics)
}
#: Seconds between two messages of a publisher.
PACE = 0.02
JSON = Json()


class Outcome(NamedTuple):
    """What a run has counted, and what was wrong."""

    counts: dict[str, int]
    wrong: list[str]


class Clients:
    """The clients, in a process of their own, and what they say."""

    def __init__(self, ledger: Ledger, port: int, seed: int, plan: dict[str, str]) -> None:
        self._ledger = ledger
        self._topics = plan
        #: Who is present, as each client says that follows it.
        self.present: dict[str, list[str]] = {}
        #: The numbers that each client without a history has got, and those of them that have joined.
        self.heard: dict[str, set[int]] = {}
        self.drops: int | None = None
        self._child = Child(("node", "faulty.mjs", str(port), str(seed), json.dumps(plan)), CLIENTS, self._take)
        #: Says something to them, and ends them.
        self.tell, self.close = self._child.tell, self._child.close

    def have(self, last: dict[str, str]) -> bool:
        """Tell whether all have the last message of their topic."""
        places = dict(self._ledger.places)
        return all(
            client in places and f"{places[client][0]}:{places[client][1]}" == last[topic]
            for client, topic in self._topics.items()
        )

    def see_each_other(self) -> bool:
        """Tell whether each sees all on its topic, and nobody else."""
        return all(
            present == sorted(name for name, topic in self._topics.items() if topic == self._topics[client])
            for client, present in dict(self.present).items()
        )

    def _take(self, line: str) -> None:
        record = json.loads(line)
        if "drops" in record:
            self.drops = record["drops"]
        elif "told" in record:
            self._ledger.told(record["name"], record["told"])
        elif "present" in record:
            self.present[record["name"]] = record["present"]
        elif record["name"].startswith("plain"):
            self.heard.setdefault(record["name"], set()).update([record["n"]] if "n" in record else [])
        else:
            name = record["name"]
            self._ledger.message(name, self._topics[name], record.get("ref"), record["n"])


class Publishers:
    """Threads that publish through the workers, and one that does so from outside."""

    def __init__(
        self,
        ledger: Ledger,
        fleet: Fleet,
        url: str,
        seed: int,
        topics: tuple[str, ...] = TOPICS,
        pace: float = PACE,
    ) -> None:
        #: The numbers that were said on topics without a history.
        self.said: set[int] = set()
        self._topics = topics
        self._pace = pace
        self._ledger = ledger
        self._fleet = fleet
        self._numbers = count(1)
        self._over = threading.Event()
        self._publisher = make_publisher(url) if url else None
        self._threads = [
            threading.Thread(target=self._run, args=(say, random.Random(seed + number)), daemon=True)
            for number, say in enumerate(
                (self.say_inside, self.say_inside, self._say_outside if url else self.say_inside)
            )
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Publish no more."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * DEADLINE)
        if self._publisher is not None:
            self._publisher.close()

    def say_inside(self, topic: str) -> str | None:
        """Publish through whichever worker takes a request; return the receipt, if there is one."""
        number = next(self._numbers)
        connection = http.client.HTTPConnection(HOST, self._fleet.server.port, timeout=DEADLINE)
        try:
            connection.request("POST", f"/say?topic={topic}&n={number}", headers={"Connection": "close"})
            with connection.getresponse() as response:
                ref: str | None = json.loads(response.read()).get("ref")
        except (OSError, http.client.HTTPException, ValueError):
            ref = None
        finally:
            connection.close()
        return self._noted(topic, ref, number)

    def _say_outside(self, topic: str) -> str | None:
        assert self._publisher is not None
        number = next(self._numbers)
        entry = pack_entry("", broadcast_of(topic, number), JSON)
        history = (Hall if topic == "hall:1" else Room).history
        try:
            ref = str(self._publisher.keep(topic, history, entry, "")[0])
        except NotPublished:
            ref = None
        return self._noted(topic, ref, number)

    def _noted(self, topic: str, ref: str | None, number: int) -> str | None:
        if ref is None:
            self._ledger.counts["without a receipt"] += 1
        elif ref == str(None):
            self.said.add(number)
        else:
            self._ledger.receipt(topic, ref, number)
        return ref

    def _run(self, say: Callable[[str], Any], chance: random.Random) -> None:
        while not self._over.is_set():
            say(chance.choice(self._topics))
            self._over.wait(chance.uniform(0, 2 * self._pace))


class Trouble:
    """What happens to the server: workers are killed, stopped and restarted."""

    def __init__(self, fleet: Fleet, chance: random.Random) -> None:
        self._fleet = fleet
        self._chance = chance

    def kinds(self) -> list[Callable[[], None]]:
        """Return all of it."""
        return [self._kill, self._stop, self._restart]

    def _worker(self) -> int:
        return self._chance.choice(sorted(self._fleet.pids()))

    def _kill(self) -> None:
        self._fleet.workers()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._worker(), signal.SIGKILL)

    def _stop(self) -> None:
        worker = self._worker()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.1, 1.5))
            os.kill(worker, signal.SIGCONT)

    def _restart(self) -> None:
        before = self._fleet.workers()
        os.kill(self._fleet.server.pid, signal.SIGHUP)
        if len(before) == 1:  # two that nothing joins are two servers
            assert wait_until(lambda: not before & self._fleet.pids(), self._fleet.wait_briefly, 3 * DEADLINE)


def run(
    fleet: Fleet,
    url: str,
    trouble: list[Callable[[], None]],
    until: Callable[[Ledger], bool],
    seed: int = 1,
) -> Outcome:
    """Let clients listen and publishers speak through all trouble; return what came of it.

    :param trouble: is made one after another, over and over.
    :param until: tells whether this was enough; asked after each.
    """
    ledger, chance = Ledger(), random.Random(seed)
    clients = Clients(ledger, fleet.server.port, seed, PLAN)
    publishers = Publishers(ledger, fleet, url, seed)
    try:
        assert wait_until(lambda: len(ledger.places) == len(PLAN), lambda: time.sleep(0.05), 3 * DEADLINE)
        for make in _cycle(trouble):
            time.sleep(chance.uniform(0.5, 2))
            make()
            if until(ledger):
                break
        clients.tell("calm")
        publishers.close()
        last = {topic: last_receipt(publishers, topic) for topic in TOPICS}
        arrived = wait_until(lambda: clients.have(last), lambda: time.sleep(0.05), 3 * DEADLINE)
        seen = wait_until(clients.see_each_other, lambda: time.sleep(0.05), 3 * DEADLINE)
        clients.tell("count")
        assert wait_until(lambda: clients.drops is not None, lambda: time.sleep(0.05))
    finally:
        clients.close()
    wrong = [*ledger.wrong]
    wrong += [] if arrived else [f"not all have {last}: {ledger.places}"]
    wrong += [] if seen else [f"not all see each other: {clients.present}"]
    return Outcome({**ledger.counts, "drops": clients.drops or 0}, wrong)


def _cycle(trouble: list[Callable[[], None]]) -> Iterator[Callable[[], None]]:
    while True:
        yield from trouble


def last_receipt(publishers: Publishers, topic: str) -> str:
    """Publish something last, once a server takes it."""
    found: list[str] = []

    def say() -> None:
        ref = publishers.say_inside(topic)
        found.extend([ref] if ref else [])

    assert wait_until(lambda: bool(found), say, 3 * DEADLINE)
    return found[0]
