"""Work beside the requests: where it runs, how it ends, and that one process of all does what is done once."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import current_app
from gevent.queue import Queue
from redis.exceptions import ResponseError

from flask_phoenix import InvalidOption, Phoenix
from flask_phoenix.channel_runtime import ChannelRuntime
from flask_phoenix.exceptions import NotPublished
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.redis import lease
from flask_phoenix.pubsub.unix import leader
from flask_phoenix.runtime import background
from tests.docs.pages import read
from tests.support.adapters import Recording
from tests.support.clients import Room, Site, WebSocketClient
from tests.support.loop import turn
from tests.support.processes import DEADLINE, ROOT, START, wait_until
from tests.support.redis_server import RedisServer

KIND = (WebSocketClient, "2.0.0")
MakeSite = Callable[..., Site]


@pytest.fixture
def make_site() -> Iterator[MakeSite]:
    """Return a function that makes an app."""
    sites: list[Site] = []

    def make(adapter: Adapter | None = None) -> Site:
        sites.append(Site(KIND, adapter))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.mark.parametrize("options", [{}, {"once_per_cluster": True}])
def test_it_runs_from_the_first_client_to_the_drain(make_site: MakeSite, options: dict[str, Any]) -> None:
    site, heard = make_site(), Queue[Any]()

    @site.phoenix.background(**options)
    def work() -> None:
        heard.put(current_app.name)
        try:
            gevent.sleep(DEADLINE)
        finally:
            heard.put("end")

    turn()
    assert heard.empty()
    site.serve(Room)
    site.enter()
    assert heard.get(timeout=DEADLINE) == site.app.name
    site.enter()
    site.engine.node.drain()
    assert heard.get(timeout=DEADLINE) == "end"
    assert heard.empty()


def test_one_that_fails_is_called_again_and_one_that_returns_is_not(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)
    site, heard = make_site(), Queue[int]()
    calls = iter(range(3))

    @site.phoenix.background
    def work() -> None:
        number = next(calls)
        heard.put(number)
        if number < 2:
            raise RuntimeError("oops")

    site.engine.node.serve()
    assert [heard.get(timeout=DEADLINE) for _ in range(3)] == [0, 1, 2]
    turn()
    lines = [record.getMessage() for record in caplog.records if "is called again" in record.getMessage()]
    assert len(lines) == 2
    assert next(calls, None) is None


def test_an_adapter_that_cannot_tell_who_leads(make_site: MakeSite, caplog: pytest.LogCaptureFixture) -> None:
    site = make_site(Recording())
    site.phoenix.background(once_per_cluster=True)(lambda: pytest.fail("it was called"))
    site.engine.node.serve()
    with caplog.at_level(logging.ERROR):
        assert wait_until(lambda: "cannot tell who leads" in caplog.text, turn)


def test_what_is_no_function_or_has_a_name_that_is_taken() -> None:
    phoenix = Phoenix()

    def work() -> None:
        """Do nothing."""

    with pytest.raises(InvalidOption, match="stands above a function"):
        phoenix.background(Room)  # type: ignore[type-var]
    phoenix.background(once_per_cluster=True)(work)
    with pytest.raises(InvalidOption, match="another name"):
        phoenix.background(work, once_per_cluster=True)
    phoenix.background(work)


async def awaits() -> None:
    """Do nothing."""


def yields() -> Iterator[None]:
    yield


@pytest.mark.parametrize(
    ("function", "mistake"), [(awaits, "awaits is async"), (yields, "has a yield"), (partial(awaits), "it is async")]
)
def test_a_function_of_which_nothing_would_run_is_refused(function: Any, mistake: str) -> None:
    phoenix, channel = Phoenix(), Room(ChannelRuntime(), "room:1", "1", {})
    calls: list[Callable[[], Any]] = [
        lambda: phoenix.background(function),
        lambda: phoenix.subscribe("room:1", function),
        lambda: phoenix.tap(function),
        lambda: channel.spawn(function),
    ]
    for call in calls:
        with pytest.raises(InvalidOption, match=mistake):
            call()


@pytest.mark.parametrize(
    ("function", "mistake"), [(partial(int), "needs a name"), (lambda app: None, "without arguments, and missing")]
)
def test_what_cannot_be_called_once_per_cluster(function: Any, mistake: str) -> None:
    with pytest.raises(InvalidOption, match=mistake):
        Phoenix().background(function, once_per_cluster=True)


def test_that_redis_is_away_is_said_once_until_it_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0)
    late, refused = TimeoutError("late"), ResponseError("no room")
    answers: Iterator[Any] = iter([late, NotPublished("gone"), late, refused, refused, 0, late, 1, 1])
    taken = lease.Lease(lambda commands: [next(answers)], b"key", b"owner", lambda: None, "")
    taken.acquire()
    taken.release()
    said = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert said == ["late", "no room", "late"]


def test_the_page_tells_the_times_that_the_code_keeps() -> None:
    page = " ".join(read("howto/background.md").split())
    renewal = {1.0: "each second"}[lease.RENEWAL]
    for said in (
        f"about {leader.LOOK} s after the leader's process has ended",
        f"a lease of {lease.LEASE:.0f} s, renewed {renewal}",
        f"{lease.LEASE:.0f} s after the leader was killed at most, and a second to look",
        f"ends its function {lease.MARGIN:.0f} s before Redis may give the lease to another",
        f"after {background.FIRST_PAUSE:.0f} s, then twice as long each time, up to {background.LONGEST_PAUSE:.0f} s",
        f"It has {background.STOP_GRACE:.0f} s to end at the drain",
    ):
        assert said in page


# Real processes.


class Cluster:
    """Processes that write to one file, in the order of what happened."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        with self.log.open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.support.background_process", self.url, name],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def signal(self, name: str, number: int) -> None:
        os.kill(self.processes[name].pid, number)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def wait(self, line: str, since: int = 0) -> int:
        """Wait for a line; return how many there are then."""
        assert wait_until(lambda: line in self.lines()[since:], lambda: time.sleep(0.01), START), self.lines()[-5:]
        return len(self.lines())

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(params=["workers", "redis"])
def cluster_of_two(request: pytest.FixtureRequest, short_path: Path, tmp_path: Path) -> Iterator[Cluster]:
    """Return two processes, of which ``a`` leads."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else f"workers://{short_path}/nodes"
    cluster = Cluster(url, tmp_path / "log")
    try:
        cluster.start("a")
        cluster.wait("a works")
        cluster.start("b")
        cluster.wait("b serves")
        yield cluster
    finally:
        cluster.close()


def test_a_redis_that_takes_no_writes_lets_nobody_lead(redis: RedisServer, redis_url: str, tmp_path: Path) -> None:
    cluster = Cluster(redis_url, tmp_path / "log")
    try:
        cluster.start("a")
        cluster.wait("a works")
        redis.execute("CONFIG", "SET", "maxmemory", "1")
        ended = cluster.wait("a ends")
        redis.execute("CONFIG", "SET", "maxmemory", "0")
        cluster.wait("a works", ended)
    finally:
        redis.execute("CONFIG", "SET", "maxmemory", "0")
        cluster.close()


def test_another_takes_over_from_one_that_is_killed_and_from_one_that_drains(cluster_of_two: Cluster) -> None:
    cluster = cluster_of_two
    assert "b works" not in cluster.lines()
    cluster.signal("a", signal.SIGKILL)
    seen = cluster.wait("b works")
    cluster.start("c")
    seen = cluster.wait("c serves", seen)
    cluster.signal("b", signal.SIGTERM)
    cluster.wait("c works", seen)
    lines = cluster.lines()
    assert lines.index("b ends") < lines.index("c works")
    assert "b works" not in lines[lines.index("b ends") :]


def test_a_leader_that_was_stopped_does_not_go_on_as_one_when_another_leads(cluster_of_two: Cluster) -> None:
    cluster = cluster_of_two
    cluster.signal("a", signal.SIGSTOP)
    if cluster.url.startswith("workers"):  # it leads for as long as it lives
        seen = len(cluster.lines())
        cluster.signal("a", signal.SIGCONT)
        cluster.wait("a works", seen)
        assert "b works" not in cluster.lines()
        return
    seen = cluster.wait("b works")
    cluster.signal("a", signal.SIGCONT)
    cluster.wait("a ends", seen)
    after = [line for line in cluster.lines()[seen:] if line.startswith("a ")]
    assert after[: after.index("a ends")] in ([], ["a works"])  # where it was stopped between two waits, up to the next
    cluster.signal("b", signal.SIGTERM)
    cluster.wait("a works", seen)
