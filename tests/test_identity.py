"""Who a client is stays true: connections that expire, new tokens, disconnects of one channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from math import inf
from typing import Any

import pytest
from gevent.event import Event

from flask_phoenix import RawSocket, Refused, clock
from flask_phoenix.runtime.expiry import EXPIRED
from flask_phoenix.testing import Clock, MemoryAdapter
from tests.support.clients import JOINED, KINDS, UNMATCHED, Client, Site, scripted
from tests.support.loop import turn
from tests.support.processes import DEADLINE, wait_until
from tests.support.wire import UPGRADE

CLOSED = ["1", "1", "room:1", "phx_close", {}]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].__name__} {kind[1]}")
def kind(request: pytest.FixtureRequest) -> Any:
    """Return a transport and a version."""
    return request.param


@pytest.fixture
def make(kind: Any) -> Iterator[Callable[..., Site]]:
    """Make sites that are closed afterwards."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(kind, **options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


def expires(site: Site, seconds: float | None, refresh: Callable[[Any], Any] | None = None) -> None:
    """Let the site's clients expire in so many seconds after they connect."""

    def connect(self: Any, *_: Any) -> None:
        self.expires_at = None if seconds is None else time.time() + seconds

    site.socket.connect = connect  # type: ignore[method-assign, assignment]
    if refresh is not None:
        site.socket.refresh = lambda _, token: refresh(token)  # type: ignore[method-assign, assignment]


def refreshed(client: Client, payload: Any, join_ref: str = "1") -> Any:
    """Hand in a token; return the reply."""
    return client.call("phx_refresh", payload, join_ref=join_ref)


# The end of a client's time


def test_a_client_is_told_and_closed_in_time(phoenix_clock: Clock, make: Callable[..., Site]) -> None:
    site = make(expiry_notice=2)
    expires(site, 8)
    client = site.enter()
    phoenix_clock.advance(5.9)
    client.hears_only()
    phoenix_clock.advance(0.1)
    assert client.hear()[2:] == ["room:1", "token_expiring", {"expires_in": 2}]
    phoenix_clock.advance(1.9)
    assert client.connection.open
    phoenix_clock.advance(0.1)
    client.is_closed(EXPIRED)
    assert site.noted() == "token expired"
    assert not client.connection.open


def test_a_clock_that_is_set_ahead_is_noticed_within_a_minute(phoenix_clock: Clock) -> None:
    site = Site(KINDS[1], timeout=600)
    expires(site, 3600)
    client = site.enter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "time", lambda: phoenix_clock.time() + 3600)
        phoenix_clock.advance(60)
    client.is_closed(EXPIRED)
    site.close()


def test_a_client_that_joins_late_is_told_too(make: Callable[..., Site]) -> None:
    site = make()
    expires(site, 30)
    client = site.enter()
    assert client.hear()[3] == "token_expiring"
    client.join("room:2", "2")
    assert client.hear()[:4] == (["2"] if client.vsn == "2.0.0" else [None]) + [None, "room:2", "token_expiring"]
    assert client.rest() == []


def test_without_an_end_there_is_no_timer(make: Callable[..., Site]) -> None:
    site = make()
    assert site.enter().connection.expiry is None


def test_nothing_is_left_of_a_client_that_went(make: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    site = make()
    expires(site, 3600)
    client = site.enter()
    kept: Any = client.connection.expiry
    assert kept._timer is not None
    client.hang_up()
    assert wait_until(lambda: kept._timer is None, turn)
    kept._look()  # was due in the same turn
    assert kept._timer is None


@pytest.mark.parametrize(
    ("expires_at", "line"),
    [(datetime(2100, 1, 1, tzinfo=timezone.utc), "timestamp()"), (inf, "Unix time"), (True, "Unix time"), (1.0, "")],
)
def test_ends_that_cannot_be(expires_at: Any, line: str, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(KINDS[0])
    site.socket.expires_at = expires_at
    assert site.app.test_client().get("/socket/websocket", headers=UPGRADE).status_code == 403
    assert line in caplog.text


def test_a_raw_socket_expires_and_moves_its_end(phoenix_clock: Clock) -> None:
    class Raw(RawSocket):
        def connect(self, params: Any, info: Any) -> None:
            self.expires_at = time.time() + 20

        def handle_frame(self, frame: Any) -> None:
            self.expires_at = time.time() + 40
            self.send("moved")

    site = Site(KINDS[0])
    wire = site.connect_raw(Raw)
    wire.text("more")
    assert wire.data() == "moved"
    phoenix_clock.advance(39.9)
    assert site.engine.connections
    phoenix_clock.advance(0.1)
    assert wire.closed() == EXPIRED
    site.close()


# New tokens


def test_a_new_token_moves_the_end(phoenix_clock: Clock, make: Callable[..., Site]) -> None:
    site = make(expiry_notice=2)
    expires(site, 8, lambda token: time.time() + token)
    client = site.enter()
    phoenix_clock.advance(6)
    assert client.hear()[3] == "token_expiring"
    assert refreshed(client, {"token": 3600}) == JOINED
    assert client.connection.expiry is not None
    assert client.connection.expiry.left == 3600
    assert not client.connection.expiry.told
    assert refreshed(client, {"token": 1}) == JOINED
    phoenix_clock.advance(1)
    assert not client.connection.open


def test_a_client_without_an_end_gets_one(make: Callable[..., Site]) -> None:
    site = make()
    expires(site, None, lambda token: time.time() + 3600)
    client = site.enter()
    assert refreshed(client, {"token": "new"}) == JOINED
    assert client.connection.expiry is not None


@pytest.mark.parametrize("payload", [{"token": "bad"}, {}, [1], "bad"])
def test_a_token_is_refused(make: Callable[..., Site], payload: Any) -> None:
    def refresh(token: Any) -> float:
        raise Refused("bad token")

    site = make()
    expires(site, 3600, refresh)
    client = site.enter()
    refusal = {"status": "error", "response": {"reason": "bad token"}}
    assert refreshed(client, payload) == refusal
    assert client.connection.open


def test_a_socket_without_refresh_takes_no_token(make: Callable[..., Site]) -> None:
    client = make().enter()
    assert refreshed(client, {"token": "new"})["response"] == {"reason": "no new token is taken here"}


def test_a_refresh_without_a_time_is_the_authors_mistake(
    make: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = make()
    expires(site, 3600, lambda token: None)
    client = site.enter()
    client.say("1", "2", "room:1", "phx_refresh", {"token": "new"})
    assert client.hear()[3] == "phx_error"
    assert "Visitor.refresh gives None" in caplog.text


# One channel of a client


def test_a_channel_is_ended_in_every_connection_on_every_node(kind: Any) -> None:
    network: list[MemoryAdapter] = []
    here, there = (Site(kind, MemoryAdapter(network)) for _ in range(2))
    mine = [here.enter(user="ann"), there.enter(user="ann")]
    other = here.connect(user="bob")
    other.join()
    for client in mine:
        client.join("room:2", "2")
    here.phoenix.disconnect("ann", topic="room:1")
    here.phoenix.disconnect("ann", topic="room:3")  # which nobody has joined
    for client in mine:
        client.hears_only(CLOSED)
        client.say("1", "9", "room:1", "echo")
        client.hears([None, "9", "room:1", "phx_reply", UNMATCHED])
        assert client.call("echo", {"n": 1}, "room:2", "2") == {"status": "ok", "response": {"n": 1}}
        client.join("room:1", "3")  # if its join lets it
    assert [site.noted() for site in (here, there)] == ["disconnected"] * 2
    other.hears_only()
    here.close()
    there.close()


@pytest.mark.parametrize("decides", [None, Refused("full")])
def test_a_join_that_runs_is_decided_and_ended(make: Callable[..., Site], decides: Any) -> None:
    site, gate = make(), Event()

    def join(_: Any) -> None:
        assert gate.wait(DEADLINE)
        if decides is not None:
            raise decides

    site.serve(scripted(join=join))
    client = site.connect(user="ann")
    client.say("1", "1", "room:1", "phx_join")
    assert wait_until(lambda: "room:1" in client.connection.protocol.memberships, turn)
    site.phoenix.disconnect("ann", topic="room:1")
    turn()
    gate.set()
    if decides is None:
        client.hears_only(["1", "1", "room:1", "phx_reply", JOINED], CLOSED)
    else:
        assert client.hear()[4] == {"status": "error", "response": {"reason": "full"}}
        assert client.rest() == []
    assert (site.noted(), site.notes()) == ("disconnected" if decides is None else "shutdown", [])


def test_a_channel_ends_at_once_while_its_method_runs(make: Callable[..., Site]) -> None:
    site, gate = make(), Event()

    def do(room: Any) -> None:
        room.note("runs")
        assert gate.wait(DEADLINE)

    site.serve(scripted(do=do))
    client = site.connect(user="ann")
    client.join()
    client.say("1", "2", "room:1", "do")
    assert site.noted() == "runs"
    site.phoenix.disconnect("ann", topic="room:1")
    turn()
    site.phoenix.broadcast("room:1", "news", {})
    client.hears_only(CLOSED)
    gate.set()
    assert site.noted() == "disconnected"


def test_a_raw_socket_has_no_channels() -> None:
    class Raw(RawSocket):
        def id(self) -> str:
            return "ann"

        def handle_frame(self, frame: Any) -> None:
            self.send(frame)

    site = Site(KINDS[0])
    wire = site.connect_raw(Raw)
    site.phoenix.disconnect("ann", topic="room:1")
    wire.text("still here")
    assert wire.data() == "still here"
    site.close()
