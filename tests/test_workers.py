"""The workers of one host: several in this process, and real processes that are killed, stopped and started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.unix import adapter as workers
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.peer import listen
from tests import contract
from tests.contract import Node
from tests.processes import DEADLINE, ROOT, wait_until
from tests.worker_process import GONE, SAID

#: Bytes that may wait for one worker, in tests of what happens when more does.
SMALL = 1024 * 1024
#: Seconds in which many processes start at once.
START = 5 * DEADLINE


@pytest.fixture
def directory(short_path: Path) -> Path:
    return short_path / "workers"


class TestWorkersAdapter(contract.GoneContract, contract.LossContract):
    """What every adapter keeps."""

    @pytest.fixture
    def adapters(self) -> list[WorkersAdapter]:
        return []

    @pytest.fixture
    def make_adapter(self, directory: Path, adapters: list[WorkersAdapter]) -> contract.MakeAdapter:
        def make() -> WorkersAdapter:
            adapters.append(WorkersAdapter(directory))
            return adapters[-1]

        return make

    @pytest.fixture
    def cut(self, adapters: list[WorkersAdapter]) -> contract.Cut:
        def cut() -> Callable[[], object]:
            for adapter in adapters:
                for line in list(adapter._lines):
                    line.close()
            return lambda: None

        return cut


# Real processes


class Process:
    """A worker in a process of its own: see :mod:`.worker_process`."""

    def __init__(self, boss: Boss, name: str, *options: str) -> None:
        self.boss = boss
        self.name = name
        self.log = boss.directory.with_name(f"{name}.log")
        command = [sys.executable, "-m", "tests.worker_process", str(boss.directory), name, str(SMALL), *options]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)

    def tell(self, *order: Any) -> None:
        """Give an order, and go on."""
        self.boss.publish(self.name, json.dumps(order))

    def do(self, *order: Any) -> Any:
        """Give an order, and return what came of it."""
        self.tell(*order)
        return self.boss.hear_from(self.name)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(DEADLINE)


class Boss(Node):
    """The worker in this process, who gives orders to the others."""

    def __init__(self, directory: Path) -> None:
        super().__init__(WorkersAdapter(directory, SMALL), "boss")
        self.directory = directory
        self.processes: list[Process] = []
        self.said: dict[str, list[Any]] = {}
        self.start()
        self.adapter.subscribe(SAID)

    def hire(self, *names: str, options: tuple[str, ...] = ()) -> list[Process]:
        """Start processes, all at once; return when they are ready."""
        hired = [Process(self, name, *options) for name in names]
        self.processes.extend(hired)
        for name in names:
            assert self.hear_from(name, START) == "ready"
        return hired

    def hear_from(self, name: str, within: float = DEADLINE) -> Any:
        """Return what a worker says next."""
        while not self.said.setdefault(name, []):
            _, data = self.hear(within)
            sender, what = json.loads(data)
            self.said.setdefault(sender, []).append(what)
        return self.said[name].pop(0)

    def stop(self) -> None:
        self.adapter.stop()
        for each in self.processes:
            each.process.kill()
            each.process.wait(DEADLINE)


@pytest.fixture
def boss(directory: Path) -> Iterator[Boss]:
    boss = Boss(directory)
    yield boss
    boss.stop()


def names(number: int) -> list[str]:
    return [f"worker{each}" for each in range(number)]


@pytest.mark.parametrize("options", [(), ("patched",)], ids=["plain", "patched"])
def test_processes_hear_each_other(boss: Boss, options: tuple[str, ...]) -> None:
    one, other = boss.hire("one", "other", options=options)
    one.do("subscribe", "t")
    assert other.do("publish", "t", 0, 3000) == 0
    boss.publish("t", b"done")
    heard = one.do("report")["heard"]
    heard.remove("done")
    while len(heard) < 3000:
        heard += one.do("report")["heard"]
    assert heard == [f"other {number}" for number in range(3000)]


def test_many_that_start_at_one_moment_are_all_joined(boss: Boss) -> None:
    hired = boss.hire(*names(10))
    for each in hired:
        each.do("subscribe", "t")
    for each in hired:
        each.do("publish", "t", 0, 1)
    everybody = {f"{each.name} 0" for each in hired}
    for each in hired:
        heard: list[str] = []
        while len(heard) < 9:
            report = each.do("report")
            heard += report["heard"]
        assert sorted(heard) == sorted(everybody - {f"{each.name} 0"})
        assert report["lines"] == 2 * 10


def test_what_follows_a_subscription_is_heard_from_other_processes(boss: Boss) -> None:
    for each in boss.hire("one", "other"):
        for number in range(50):
            boss.adapter.subscribe(f"room:{number}")
            each.tell("publish", f"room:{number}", number, number + 1)
        heard: list[tuple[str, str]] = []
        while len(heard) < 50:
            topic, data = boss.hear()
            if topic != SAID:
                heard.append((topic, data.decode()))
        assert heard == [(f"room:{number}", f"{each.name} {number}") for number in range(50)]


def test_a_killed_worker_is_missed_at_once(boss: Boss) -> None:
    one, other = boss.hire("one", "other")
    boss.adapter.subscribe(GONE)
    other.do("subscribe", "t")
    other.kill()
    assert boss.gone.get(timeout=DEADLINE) == "other"
    assert boss.hear() == (GONE, b'["one", "other"]')
    assert not (boss.directory / "other.sock").exists()
    boss.publish("t", b"to nobody")
    assert boss.adapter.unpublished == 0
    (another,) = boss.hire("another")
    another.do("subscribe", "t")
    one.do("publish", "t", 0, 1)
    assert another.do("report")["lines"] == 4
    assert boss.gone.empty()


def test_a_worker_that_stops_says_goodbye(boss: Boss) -> None:
    one, other = boss.hire("one", "other")
    boss.adapter.subscribe("t")
    other.tell("publish", "t", 0, 1)
    other.tell("stop")
    assert boss.gone.get(timeout=DEADLINE) == "other"
    assert other.process.wait(DEADLINE) == 0
    assert {boss.hear() for _ in range(2)} == {("t", b"other 0"), (SAID, b'["other", 0]')}
    assert one.do("report")["lines"] == 2


def test_a_process_forked_from_a_worker_does_not_stand_in_for_it(boss: Boss) -> None:
    one, other = boss.hire("one", "other")
    child = other.do("fork")
    try:
        one.do("subscribe", "t")
        other.do("publish", "t", 0, 100)
        other.kill()
        assert boss.gone.get(timeout=DEADLINE) == "other"
        os.kill(child, 0)
        assert one.do("report")["heard"] == [f"other {number}" for number in range(100)]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_worker_delays_nobody_and_comes_back(
    boss: Boss, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.1)
    one, stopped = boss.hire("one", "stopped")
    one.do("subscribe", "t")
    stopped.do("subscribe", "t")
    stopped.kill(signal.SIGSTOP)
    heard = []
    for number in range(100):
        boss.publish("t", f"{number}".ljust(64 * 1024))
        heard += one.do("report")["heard"]
    assert heard == [str(number) for number in range(100)]
    lost = boss.adapter.unpublished
    assert 0 < lost < 100
    boss.adapter.subscribe("u")
    boss.adapter.subscribe("v")
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "worker stopped takes nothing",
        "worker stopped does not answer",
    ]
    assert boss.gone.empty()

    stopped.kill(signal.SIGCONT)
    heard = hear_again(boss, stopped)
    assert heard == [str(number) for number in range(100 - lost)]
    assert boss.adapter.unpublished >= lost
    assert "the line from worker boss broke" in stopped.log.read_text()
    boss.adapter.subscribe("w")
    stopped.tell("publish", "w", 0, 1)
    assert boss.hear() == ("w", b"stopped 0")


def hear_again(boss: Boss, worker: Process) -> list[str]:
    """Ask a worker for a report until the order gets through; return what it has heard."""

    def ask() -> None:
        worker.tell("report")
        with suppress(gevent.Timeout), gevent.Timeout(0.05):
            heard.append(boss.hear_from(worker.name)["heard"])

    heard: list[list[str]] = []
    assert wait_until(lambda: bool(heard), ask)
    return heard[0]


def test_a_worker_that_never_answers_is_not_waited_for(
    directory: Path, boss: Boss, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.05)
    monkeypatch.setattr(workers, "GRACE", 0.05)
    dumb = listen(directory, "dumb")
    node = Node(WorkersAdapter(directory, limit=10_000), "node")
    node.start()
    boss.adapter.subscribe("t")
    for number in range(100):
        node.publish("t", f"{number}".ljust(1000))
        assert boss.hear() == ("t", f"{number}".ljust(1000).encode())
    assert 0 < node.adapter.unpublished < 100
    node.adapter.subscribe("u")
    node.adapter.subscribe("v")
    boss.publish("v", b"hello")
    assert node.hear() == ("v", b"hello")
    node.adapter.stop()
    assert node.adapter.unpublished == 100
    assert [record.message for record in caplog.records if "dumb" in record.message or "lost" in record.message] == [
        "worker dumb takes nothing; 1 messages are lost by now",
        "worker dumb does not answer; what it publishes is missed until it does",
        "workers take nothing; 10 messages are lost as this one stops",
    ]
    dumb.close()


def test_a_worker_that_cannot_be_dialed_is_tried_again(directory: Path, boss: Boss) -> None:
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(str(directory / "full.sock"))
        full.listen(0)
        first.connect(str(directory / "full.sock"))
        node = Node(WorkersAdapter(directory), "node")
        node.start()
        asking = gevent.spawn(node.adapter.subscribe, "t")
        asking.join(3 * workers.RETRY)
        assert not asking.ready()
    asking.get(timeout=DEADLINE)
    assert not (directory / "full.sock").exists()
    node.adapter.stop()


# The directory


def test_what_a_dead_worker_has_left_is_removed(directory: Path, boss: Boss) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "dead.sock"))
    node = Node(WorkersAdapter(directory), "node")
    node.start()
    node.publish("t", b"held for nobody")
    node.adapter.subscribe("t")
    assert not (directory / "dead.sock").exists()
    boss.publish("t", b"hello")
    assert node.hear() == ("t", b"hello")
    assert node.gone.empty()
    node.adapter.stop()
    assert node.adapter.unpublished == 0


def test_the_directory_must_be_private(directory: Path) -> None:
    directory.mkdir(0o755)
    node = Node(WorkersAdapter(directory), "node")
    with pytest.raises(InvalidOption, match=r"chmod 700 .*workers:///run/myapp"):
        node.start()
    with pytest.raises(NotPublished):
        node.publish("t", b"")
    node.adapter.stop()


def test_the_directory_may_be_found_when_the_adapter_starts(directory: Path, boss: Boss) -> None:
    node = Node(WorkersAdapter(lambda: directory), "node")
    node.start()
    boss.adapter.subscribe("t")
    node.publish("t", b"hello")
    assert boss.hear() == ("t", b"hello")
    node.adapter.stop()


def test_a_directory_in_a_url(directory: Path, boss: Boss) -> None:
    node = Node(WorkersAdapter.from_url(f"workers://{directory}"), "node")
    node.start()
    node.adapter.subscribe("t")
    boss.publish("t", b"hello")
    assert node.hear() == ("t", b"hello")
    node.adapter.stop()


def test_a_path_that_is_too_long(short_path: Path) -> None:
    node = Node(WorkersAdapter(short_path / ("x" * 100)), "node")
    with pytest.raises(InvalidOption, match=r"AF_UNIX path too long.*workers:///run/myapp"):
        node.start()


def test_an_adapter_may_start_again(directory: Path, boss: Boss) -> None:
    node = Node(WorkersAdapter(directory), "node")
    node.adapter.subscribe("t")
    for name in ("first", "second"):
        node.name = name
        node.start()
        node.adapter.subscribe("u")
        boss.publish("t", name)
        assert node.hear() == ("t", name.encode())
        node.adapter.stop()
        assert boss.gone.get(timeout=DEADLINE) == name
