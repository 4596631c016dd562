"""Servers on a host whose clock jumps: what counts seconds goes on, and what names a time follows."""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.hosts import RATE, TIMEOUT, lives, missed
from tests.support.fleet import GUNICORN, Client, Fleet
from tests.support.http import open_websocket
from tests.support.jumping import HostClock
from tests.support.processes import DEADLINE, HOST, Server, Servers
from tests.support.wire import UPGRADE

HOUR = 3600.0


@pytest.fixture
def clock(tmp_path: Path) -> HostClock:
    return HostClock(tmp_path)


@pytest.fixture
def fleet(clock: HostClock, servers: Servers, short_path: Path) -> Fleet:
    command = (sys.executable, "-m", "tests.support.jumping", *GUNICORN[2:], "-w", "2", "tests.faults.clocks:app")
    return Fleet(servers.start(*command, FLASK_PHOENIX_PUBSUB_URL=f"workers://{short_path}", **clock.environment), 2)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_nobody_is_cut_off_and_nothing_is_lost(fleet: Fleet, clock: HostClock, jump: float) -> None:
    tabs, poller = fleet.tabs(), fleet.poller()
    clients = [*tabs, poller]
    told = [client.join("room:1", {"name": f"{at}", "since": None}) for at, client in enumerate(clients)]
    fleet.ask("POST", "/say", n="1")
    clients[0].push("later", {"seconds": 0.5})
    clock.jump(jump)
    live(clients, 2 * TIMEOUT)
    assert poller.workers == fleet.workers()
    fleet.ask("POST", "/say", n="2")
    for client, expected in zip(clients, (["said", "late", "said"], ["said"] * 2, ["said"] * 2), strict=True):
        assert [event for event, _ in client.await_heard(len(expected))] == expected
        assert sorted(client.state) == ["0", "1", "2"]
    assert missed(fleet.server, told[0]["phx_history"]["ref"]) == [1, 2]
    fleet.close()


@pytest.mark.parametrize("jump", [TIMEOUT / 2 + 0.5, HOUR, -HOUR])
def test_silence_is_what_a_client_does_not_say(fleet: Fleet, clock: HostClock, jump: float) -> None:
    wire = open_websocket(fleet.server.port)
    assert wire.silent(TIMEOUT / 2)
    spoke = time.monotonic()
    assert lives(wire)
    clock.jump(jump)
    assert wire.closed() == 1002
    assert time.monotonic() - spoke > TIMEOUT


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_rate_is_kept(fleet: Fleet, clock: HostClock, jump: float) -> None:
    wire = open_websocket(fleet.server.port)
    began = time.monotonic()
    for wrong in (0, jump, 0):  # what two seconds may bring at once, and one more
        clock.jump(wrong)
        for _ in range(RATE):
            wire.text('[null,"1","phoenix","heartbeat",{}]')
    for _ in range(3 * RATE):
        assert '"status":"ok"' in str(wire.data())
    assert 0.5 < time.monotonic() - began < DEADLINE
    wire.sock.close()


def test_tokens_and_their_ends_follow_the_clock(fleet: Fleet, clock: HostClock) -> None:
    token = fleet.ask("GET", "/token").value["token"]
    tab, lasting = fleet.tab(seconds=f"{HOUR / 2}"), fleet.tab(seconds=f"{2 * HOUR}")
    assert status(fleet.server, token) == 101
    clock.jump(-HOUR)
    assert status(fleet.server, token) == 403
    short = fleet.tab(seconds="1")
    clock.jump(-2 * HOUR)
    assert status(fleet.server, token) == 403
    for each in (tab, short, lasting):
        each.join("room:1", {"name": "a"})
    live([tab, short, lasting], 1.5)
    clock.jump(HOUR)
    assert tab.closed() == short.closed() == 3000
    assert lasting.push("echo") == {}
    assert status(fleet.server, token) == 403
    clock.jump(0)
    assert status(fleet.server, token) == 101
    fleet.close()


def live(clients: Sequence[Client], seconds: float) -> None:
    """Have clients speak, and be answered, for so long."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for client in clients:
            assert client.push("echo", {"n": 1}) == {"n": 1}
        clients[0].pump(0.05)


def status(server: Server, token: str) -> int:
    """Return what a client with a token is answered."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    connection.request("GET", f"/socket/websocket?vsn=2.0.0&token={token}", headers=UPGRADE)
    answer = connection.getresponse()
    connection.close()
    return answer.status
