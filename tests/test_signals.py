"""Signals: what operators are told, by whom, and what it does where nobody listens or a listener fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from blinker import Signal
from flask import Flask, current_app
from werkzeug.exceptions import HTTPException

from flask_phoenix import Adapter, Channel, Phoenix, Refused, Socket, on, signals
from flask_phoenix.app_state import State
from flask_phoenix.server.drain import drain
from flask_phoenix.testing import Client, MemoryAdapter
from tests.docs.pages import rows
from tests.support.loop import turn

SIGNALS = {name: each for name, each in vars(signals).items() if isinstance(each, Signal)}


class Visitor(Socket):
    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        if "bad" in params:
            raise Refused("bad")

    def id(self) -> str | None:
        return self.params.get("name")


@Visitor.channel("room:*")
class Room(Channel):
    def join(self, payload: Any) -> None:
        if "refuse" in payload:
            raise Refused("full")
        if "crash" in payload:
            raise RuntimeError("join")

    @on("do")
    def do(self, payload: Any) -> Any:
        if "refuse" in payload:
            raise Refused("no")
        if "crash" in payload:
            raise RuntimeError("do")
        return payload or None


class Notes:
    """What was told by all signals, but for what changes from run to run."""

    def __init__(self, app: Flask) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._receivers: dict[str, Callable[..., None]] = {}
        for name, signal in SIGNALS.items():
            self._receivers[name] = self._receiver(name)
            signal.connect(self._receivers[name], app)

    def _receiver(self, name: str) -> Callable[..., None]:
        def note(app: Flask, **about: Any) -> None:
            assert current_app == app
            self.told.append((name, about))

        return note

    def of(self, name: str, *keys: str) -> list[tuple[Any, ...]]:
        """Return what some signal has told, under some keys."""
        return [tuple(about[key] for key in keys) for told, about in self.told if told == name]


def serve(adapter: Adapter) -> Flask:
    """Make an app with one socket."""
    app = Flask(__name__)
    app.testing = True
    Phoenix(app, adapter).socket("/socket")(Visitor)
    return app


@pytest.fixture
def app() -> Iterator[Flask]:
    app = serve(MemoryAdapter([]))
    yield app
    for connection in list(app.extensions["phoenix"].engine.connections):
        connection.close(1000, "over")
    app.extensions["phoenix"].engine.stop()


@pytest.fixture
def phoenix(app: Flask) -> State:
    state: State = app.extensions["phoenix"]
    return state


@pytest.fixture
def notes(app: Flask) -> Notes:
    return Notes(app)


def exercise(app: Flask, phoenix: State) -> None:
    """Do what is signalled."""
    for refused in ({"bad": "1"}, {"vsn": "9.0.0"}):
        with pytest.raises((Refused, HTTPException)):
            Client(app, params=refused)
    with pytest.raises(HTTPException):
        Client(app, headers={"Origin": "http://evil.example"})
    client = Client(app, params={"name": "ann"})
    for payload in ({"refuse": True}, {"crash": True}):
        with pytest.raises(Refused):
            client.join("room:1", payload)
    room = client.join("room:1")
    room.call("do", {"n": 1})
    room.call("do", {"refuse": True})
    room.push("do", {})
    phoenix.broadcast("room:1", "news", {"n": 1})
    room.push("do", {"crash": True})
    turn()
    client.join("room:2").leave()
    client.close()
    turn()


def test_one_visit(app: Flask, notes: Notes, phoenix: State) -> None:
    exercise(app, phoenix)
    assert notes.of("socket_refused", "mount", "transport", "reason") == [
        ("/socket", "websocket", reason) for reason in ("refused", "version", "origin")
    ]
    assert notes.of("channel_refused", "pattern", "topic", "reason") == [("room:*", "room:1", {"reason": "full"})]
    crashes = notes.of("channel_crashed", "pattern", "where", "reason")
    assert [(pattern, where, str(reason)) for pattern, where, reason in crashes] == [
        ("room:*", "in its join", "join"),
        ("room:*", "at event 'do'", "do"),
    ]
    assert notes.of("channel_joined", "pattern")[0] == ("room:*",)
    outcomes = [
        (event, outcome, str(error))
        for event, outcome, error in notes.of("handled_in", "event", "outcome", "exception")
    ]
    assert outcomes == [
        ("do", "ok", "None"),
        ("do", "error", "None"),
        ("do", "noreply", "None"),
        ("do", "crashed", "do"),
    ]
    assert notes.of("broadcast_sent", "topic", "pattern", "event", "receivers", "size", "remote") == [
        ("room:1", "room:*", "news", 1, 7, False)
    ]
    (code,) = notes.of("socket_disconnected", "code")
    assert code == (1006,)
    assert all(
        0 <= seconds < 10 for name in ("handled_in", "channel_joined") for (seconds,) in notes.of(name, "seconds")
    )


def test_the_page_lists_them_and_what_comes_with_each(app: Flask, notes: Notes, phoenix: State) -> None:
    exercise(app, phoenix)
    drain(app.extensions["phoenix"].engine, 1.0)
    said = {
        name: set(keys.split("`, `")) for name, _, keys in rows("reference/signals.md", "signal", "sent when", "with")
    }
    assert set(said) == set(SIGNALS)
    assert not [(name, set(about) - said[name]) for name, about in notes.told if not set(about) <= said[name]]
    elsewhere = {"broadcast_missed", "slow_client", "limit_reached", "adapter_lost", "adapter_back"}
    assert set(SIGNALS) - {name for name, _ in notes.told} == elsewhere | {"node_joined", "node_gone"}


def test_a_receiver_that_fails_harms_nobody(app: Flask, phoenix: State, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(app: Flask, **about: Any) -> None:
        raise RuntimeError("the receiver's own")

    for signal in SIGNALS.values():
        signal.connect(fail, app)
    notes = Notes(app)
    exercise(app, phoenix)
    assert "the receiver's own" in caplog.text
    assert notes.of("handled_in", "outcome")[0] == ("ok",)


def test_close_codes(app: Flask, notes: Notes) -> None:
    def end(client: Client) -> Any:
        client.close()
        return notes.of("socket_disconnected", "code", "reason")[-1]

    gone = Client(app)
    assert end(gone) == (1006, "closed")
    app.extensions["phoenix"].disconnect("ann")
    closed = Client(app, params={"name": "ann"})
    app.extensions["phoenix"].disconnect("ann")
    turn()
    assert end(closed) == (1001, "disconnected")


def test_what_a_client_cannot_be_sent(app: Flask, notes: Notes) -> None:
    with Client(app) as client:
        client.join("room:1")
        engine = app.extensions["phoenix"].engine
        (connection,) = engine.connections
        connection.reach("conflate")
        connection.tell_slow(3)
    assert notes.of("limit_reached", "limit") == [("conflate",)]
    assert notes.of("slow_client", "size") == [(3,)]


def test_other_nodes(notes: Notes) -> None:
    network: list[MemoryAdapter] = []
    apps = [serve(MemoryAdapter(network)) for _ in range(2)]
    first = Notes(apps[0])
    with Client(apps[0]) as client, Client(apps[1]):
        turn()
        engine, other = (app.extensions["phoenix"].engine for app in apps)
        assert first.of("node_joined", "node") == [(other.node.name,)]
        assert apps[0].extensions["phoenix"].inspect()["nodes"] == [other.node.name]
        room = client.join("room:1")
        apps[1].extensions["phoenix"].broadcast("room:1", "news", {"n": 1})
        room.assert_broadcast("news")
        assert first.of("broadcast_sent", "receivers", "remote") == [(1, True)]
        name = other.node.name
        other.stop()
        turn()
        assert first.of("node_gone", "node") == [(name,)]
    engine.stop()


def test_inspect(app: Flask, phoenix: State) -> None:
    state = phoenix.inspect()
    assert set(state) == {key for key, _ in rows("reference/telemetry.md", "key", "means")}
    with Client(app, params={"name": "ann"}) as client, Client(app) as other:
        room = client.join("room:1")
        client.join("room:2")
        other.join("room:1")
        room.call("do", {"n": 1})
        phoenix.broadcast("room:1", "news", {})
        room.assert_broadcast("news")
        state = json.loads(json.dumps(phoenix.inspect(largest=1)))
    assert (state["connections"], state["transports"], state["channels"], state["topics"]) == (
        2,
        {"websocket": 2},
        3,
        2,
    )
    assert state["largest_topics"] == [{"topic": "room:1", "subscribers": 2}]
    assert (state["totals"]["messages_in"], state["totals"]["messages_out"]) == (4, 6)
    assert state["rates"]["messages_in"] > 0
    assert state["adapter"] == {"kind": "MemoryAdapter", "lost": False, "unpublished": 0}
    assert 0 <= state["loop_lag"] < 10


def test_receivers_of_another_app_cost_no_context(app: Flask) -> None:
    other, torn = Flask("other"), list[str]()
    app.teardown_appcontext(lambda error: torn.append("torn"))

    def note(sender: Flask, **about: Any) -> None:
        torn.append("told")

    with signals.socket_connected.connected_to(note, other), Client(app):
        assert torn.count("told") == 0
    alone = len(torn)
    torn.clear()
    with Client(app):
        """Without any receiver."""
    assert len(torn) == alone
