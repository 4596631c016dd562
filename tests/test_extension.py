"""The extension: factories, several apps, broadcasts from anywhere, contexts, JSON, adapters, presences."""

from __future__ import annotations

import gc
import json
import logging
import signal
import subprocess
import sys
import uuid
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.socket
import pytest
from flask import Blueprint, Flask, current_app, has_app_context, has_request_context
from flask.json.provider import DefaultJSONProvider, JSONProvider
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix import (
    Broadcast,
    Channel,
    InvalidOption,
    InvalidPayload,
    NotPublished,
    Phoenix,
    PhoenixError,
    Refused,
    Socket,
    on,
)
from flask_phoenix.presence import Presence
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.testing import Client, Joined, MemoryAdapter
from tests.support.loop import in_thread
from tests.support.processes import DEADLINE, ROOT, START
from tests.support.wire import UPGRADE


def room(phoenix: Phoenix, online: Any = None) -> None:
    """Mount a socket with rooms; a client is named by its parameter ``user``, and present by that name."""

    @phoenix.socket("/socket", longpoll=True)
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            if "banned" in params:
                raise Refused

        def id(self) -> str | None:
            return self.params.get("user")

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        if online is not None:
            presence = online

        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            if online is not None:
                self.track(self.params["user"])
                self.push("presence_state", self.presences())

        @on("shout")
        def shout(self, payload: Any) -> Any:
            phoenix.broadcast(self.topic, "shout", payload)
            return {}

        @on("shout_from")
        def shout_from(self, payload: Any) -> Any:
            phoenix.broadcast_from(self, self.topic, "shout", payload)
            return {}


MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """Make apps, and stop what runs for them in the end."""
    apps: list[Flask] = []

    def make_app(**config: Any) -> Flask:
        apps.append(Flask(f"app{len(apps)}"))
        apps[-1].secret_key = "a secret for tests"
        apps[-1].config.update(config)
        return apps[-1]

    yield make_app
    for app in apps:
        if "phoenix" in app.extensions:
            app.extensions["phoenix"].engine.stop()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app()


@pytest.fixture
def phoenix(app: Flask) -> Phoenix:
    phoenix = Phoenix(app)
    room(phoenix)
    return phoenix


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def enter(app: Flask, phoenix: Phoenix, stack: ExitStack) -> Callable[..., Client]:
    """Connect clients to the app."""
    return lambda **params: stack.enter_context(Client(app, params=params))


# Apps


@pytest.mark.parametrize("order", ["mounts first", "app first"])
def test_factory(make_app: MakeApp, order: str) -> None:
    phoenix, apps = Phoenix(), [make_app(PHOENIX_TIMEOUT=None), make_app(PHOENIX_TIMEOUT=1.5)]
    for step in ("mounts", "apps") if order == "mounts first" else ("apps", "mounts"):
        if step == "mounts":
            room(phoenix)
            phoenix.socket("/other", timeout=5)(Socket)
        for app in apps if step == "apps" else ():
            phoenix.init_app(app)
    for app, timeout in zip(apps, (None, 1.5), strict=True):
        assert {rule.rule for rule in app.url_map.iter_rules() if rule.websocket and "long" not in rule.rule} == {
            "/socket/websocket",
            "/other/websocket",
        }
        timeouts = [endpoint.mount.options.timeout for endpoint in app.extensions["phoenix"].endpoints]
        assert timeouts == [timeout, timeout, 5]  # each app has its own configuration
        with Client(app) as client:
            assert client.join("room:1").response == {}


def test_apps_of_one_extension_are_apart(make_app: MakeApp, stack: ExitStack) -> None:
    phoenix, apps = Phoenix(), [make_app(), make_app()]
    room(phoenix)
    with pytest.raises(PhoenixError, match=r"call phoenix\.init_app"):
        phoenix.broadcast("room:1", "news", {})
    for app in apps:
        phoenix.init_app(app)
    rooms = [stack.enter_context(Client(app)).join("room:1") for app in apps]
    for app in apps:
        with app.app_context():
            phoenix.broadcast("room:1", "news", {"app": app.name})
            assert phoenix.connection_count() == 1
    assert [each.assert_push("news") for each in rooms] == [{"app": app.name} for app in apps]
    assert rooms[0].call("shout", {"n": 1}).status == "ok"  # a channel speaks for its own app
    assert rooms[0].assert_push("shout") == {"n": 1}
    rooms[1].refute_push("shout")
    with pytest.raises(PhoenixError, match=r"2 apps.*app\.app_context\(\), or say app\.extensions\[\"phoenix\"\]"):
        phoenix.connection_count()
    heard: Queue[Any] = Queue()
    state = apps[1].extensions["phoenix"]
    ends = [state.subscribe("room:1", heard.put), state.tap(heard.put)]
    state.broadcast("room:1", "news", {"n": 1})
    state.local_broadcast("room:1", "news", {"n": 2})
    assert [rooms[1].assert_push("news") for _ in range(2)] == [{"n": 1}, {"n": 2}]
    assert sorted(heard.get(timeout=DEADLINE).payload["n"] for _ in range(4)) == [1, 1, 2, 2]
    assert state.connection_count() == 1
    rooms[0].refute_push("news")
    for end in ends:
        end()


def test_an_extension_speaks_for_its_own_app_and_forgets_those_that_are_gone(
    phoenix: Phoenix, make_app: MakeApp, enter: Callable[..., Client]
) -> None:
    other, other_app = Phoenix(), make_app()
    other.init_app(other_app)
    other.init_app(Flask("gone"))
    joined = enter().join("room:1")
    with other_app.app_context():  # of none of its apps: the only one that it has is meant
        phoenix.broadcast("room:1", "news", {"n": 1})
    assert joined.assert_push("news") == {"n": 1}
    gc.collect()
    assert other.connection_count() == 0


def test_what_cannot_be_mounted(make_app: MakeApp, app: Flask, phoenix: Phoenix) -> None:
    for init in (phoenix.init_app, Phoenix):
        with pytest.raises(InvalidOption, match="already"):
            init(app)
    for path in ("/socket", "/socket/", "socket"):
        with pytest.raises(InvalidOption, match="/socket/websocket"):
            phoenix.socket(path)(Socket)
    with pytest.raises(InvalidOption, match="'compress'"):
        phoenix.socket("/other", compres=True)(Socket)  # type: ignore[arg-type]
    with pytest.raises(PhoenixError, match="/socket/websocket"):
        Client(app, "/nowhere")
    twice = Phoenix()
    for _ in range(2):
        twice.socket("/socket")(Socket)
    with pytest.raises(InvalidOption, match="/socket/websocket"):
        twice.init_app(make_app())
    with pytest.raises(InvalidOption, match="an adapter serves one app"):
        Phoenix(make_app(), adapter=MemoryAdapter([])).init_app(make_app())


NOTHING_STARTS = """
from gevent._hub_local import get_hub_if_exists
from flask import Flask
from flask_phoenix import Phoenix, Socket

phoenix = Phoenix()
phoenix.socket("/socket")(Socket)
app = Flask(__name__)
phoenix.init_app(app)
assert get_hub_if_exists() is None, "gevent's event loop has begun"
assert not app.extensions["phoenix"].engine.hub.running
"""


def test_nothing_starts_before_the_fork() -> None:
    subprocess.run([sys.executable, "-c", NOTHING_STARTS], cwd=ROOT, timeout=START, check=True)


# Broadcasts


def test_broadcasts(app: Flask, phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    @app.post("/announce")
    def announce() -> str:
        phoenix.broadcast("room:1", "news", {"from": "a view"})
        return ""

    speaker, listener, elsewhere = enter().join("room:1"), enter().join("room:1"), enter().join("room:2")
    assert app.test_client().post("/announce").status_code == 200
    assert listener.assert_push("news") == {"from": "a view"}
    assert not has_app_context()
    phoenix.broadcast("room:1", "news", {"n": 1})
    phoenix.broadcast("room:1", "news", b"\xde\xad")
    phoenix.local_broadcast("room:1", "news", {"n": 2})
    assert [listener.assert_push("news") for _ in range(3)] == [{"n": 1}, b"\xde\xad", {"n": 2}]
    assert speaker.call("shout", {"n": 1}).status == "ok"
    assert [each.assert_push("shout") for each in (speaker, listener)] == [{"n": 1}] * 2
    assert speaker.call("shout_from", {"n": 2}).status == "ok"
    assert listener.assert_push("shout") == {"n": 2}
    speaker.refute_push("shout")
    elsewhere.refute_push("news")


# Functions that listen


@pytest.mark.parametrize("listen", ["subscribe", "tap"])
def test_functions_that_listen(app: Flask, phoenix: Phoenix, enter: Callable[..., Client], listen: str) -> None:
    heard: Queue[Any] = Queue()

    def hear(broadcast: Broadcast) -> None:
        assert current_app.name == app.name
        assert not has_request_context()
        heard.put(broadcast)

    end = phoenix.subscribe("room:1", hear) if listen == "subscribe" else phoenix.tap(hear)
    phoenix.broadcast("room:1", "news", {"n": "before the first client"})
    enter()
    in_thread(phoenix.broadcast, "room:1", "news", {"n": "of a thread"})
    phoenix.local_broadcast("room:2", "blob", b"\x01")
    expected = [Broadcast("room:1", "news", {"n": n}) for n in ("before the first client", "of a thread")]
    expected += [Broadcast("room:2", "blob", b"\x01")] if listen == "tap" else []
    assert [heard.get(timeout=DEADLINE) for _ in expected] == expected
    for _ in range(2):
        end()
    phoenix.broadcast("room:1", "news", {"n": "late"})
    gevent.idle()
    assert heard.empty()


@pytest.mark.parametrize("failure", [RuntimeError("no"), CancelledError(), gevent.Timeout(1), gevent.GreenletExit()])
def test_a_function_that_fails_or_blocks_delays_nobody(
    phoenix: Phoenix, enter: Callable[..., Client], caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    heard: Queue[Any] = Queue()
    release = Event()

    def listen(broadcast: Broadcast) -> None:
        release.wait(DEADLINE)
        if broadcast.payload["n"] == 0:
            raise failure
        heard.put(broadcast.payload)

    phoenix.subscribe("room:1", listen)
    joined = enter().join("room:1")
    for number in range(2):
        phoenix.broadcast("room:1", "news", {"n": number})
        assert joined.assert_push("news") == {"n": number}
    release.set()
    assert heard.get(timeout=DEADLINE) == {"n": 1}
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.ERROR, "flask_phoenix.pubsub")
    assert "'room:1'" in record.getMessage()
    assert "listen" in record.getMessage()


# Connections


def test_disconnect_and_count(app: Flask, phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    assert phoenix.connection_count() == 0
    with pytest.raises(NotPublished, match="PHOENIX_PUBSUB_URL"):
        phoenix.disconnect("user:ada")
    ada = [enter(user="user:ada") for _ in range(2)]
    grace, nobody = enter(user="user:grace"), enter()
    still_there = grace.join("room:1")
    with pytest.raises(Refused):
        Client(app, params={"banned": "yes"})
    phoenix.broadcast("user:ada", "news", {})  # another event on an id closes nobody
    assert phoenix.connection_count() == 4
    phoenix.disconnect("user:ada")
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert still_there.assert_push("news") == {"n": 1}
    assert [client.closed for client in ada] == [(1001, "disconnected")] * 2
    assert grace.closed is nobody.closed is None
    for _ in range(2):
        nobody.close()
    assert phoenix.connection_count() == 1


# JSON

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ID = uuid.UUID("12345678123456781234567812345678")


class IsoProvider(DefaultJSONProvider):
    default = staticmethod(lambda value: value.isoformat())


class WholeProvider(JSONProvider):
    """Writes whole texts, and has no ``default``."""

    def dumps(self, obj: Any, **options: Any) -> str:
        return json.dumps(obj, default=lambda value: f"<{value.isoformat()}>")

    def loads(self, s: str | bytes, **options: Any) -> Any:
        return json.loads(s)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("module", [None, "json"])
@pytest.mark.parametrize(
    ("provider", "written"),
    [
        (DefaultJSONProvider, "2026-01-02T03:04:05Z"),
        (IsoProvider, MOMENT.isoformat()),
        (WholeProvider, f"<{MOMENT.isoformat()}>"),
    ],
)
def test_other_types_are_written_as_the_app_writes_them(
    make_app: MakeApp, stack: ExitStack, provider: Any, written: str, module: str | None, late: bool
) -> None:
    app, phoenix = make_app(PHOENIX_JSON=module), Phoenix()
    for step in ("init", "provider") if late else ("provider", "init"):
        if step == "provider":
            app.json = provider(app)
        else:
            phoenix.init_app(app)
    room(phoenix)
    joined = stack.enter_context(Client(app)).join("room:1")
    phoenix.broadcast("room:1", "news", {"at": MOMENT})
    assert joined.assert_push("news") == {"at": written}
    with pytest.raises(InvalidPayload):
        phoenix.broadcast("room:1", "news", {"at": object()})


@pytest.mark.parametrize("kind", ["name", "module", "object"])
def test_json_module(make_app: MakeApp, stack: ExitStack, kind: str) -> None:
    written: list[Any] = []

    def dumps(value: Any) -> str:
        written.append(value)
        return json.dumps(value)

    recorder = SimpleNamespace(dumps=dumps, loads=json.loads)
    app = make_app(PHOENIX_JSON={"name": "json", "module": json, "object": recorder}[kind])
    phoenix = Phoenix(app)
    room(phoenix)
    joined = stack.enter_context(Client(app)).join("room:1", {"n": 1.5})
    assert joined.call("shout", {"text": "\u00e9"}).status == "ok"
    assert joined.assert_push("shout") == {"text": "\u00e9"}
    assert ({"text": "\u00e9"} in written) is (kind == "object")


@pytest.mark.parametrize("setting", [7, object(), SimpleNamespace(dumps=json.dumps), "flask"])
def test_json_module_that_is_none(make_app: MakeApp, setting: Any) -> None:
    with pytest.raises(InvalidOption, match="PHOENIX_JSON"):
        Phoenix(make_app(PHOENIX_JSON=setting))


# Several nodes


@pytest.fixture
def network(make_app: MakeApp, stack: ExitStack) -> tuple[list[Phoenix], list[Client], list[Joined]]:
    """Return two apps that hear each other, and a client in a room of each."""
    adapters: list[MemoryAdapter] = []
    apps = [make_app(), make_app()]
    nodes = [Phoenix(app, adapter=MemoryAdapter(adapters)) for app in apps]
    for phoenix in nodes:
        room(phoenix)
    clients = [stack.enter_context(Client(app, params={"user": "ann"})) for app in apps]
    return nodes, clients, [client.join("room:1") for client in clients]


def test_broadcasts_among_nodes(network: tuple[list[Phoenix], list[Client], list[Joined]]) -> None:
    (here, there), clients, rooms = network
    heard: Queue[Broadcast] = Queue()
    ends = [there.subscribe("room:1", heard.put), there.tap(heard.put)]
    here.broadcast("room:1", "shout", {"n": 1})
    here.broadcast("nobody hears it there", "shout", {"n": 2})
    assert [each.assert_push("shout") for each in rooms] == [{"n": 1}] * 2
    assert [heard.get(timeout=DEADLINE) for _ in ends] == [Broadcast("room:1", "shout", {"n": 1})] * 2
    assert heard.empty()
    for end in ends:
        end()
    here.local_broadcast("room:1", "news", {"n": 3})
    assert rooms[0].assert_push("news") == {"n": 3}
    assert rooms[1].call("shout_from", {"n": 4}).status == "ok"
    assert rooms[0].assert_push("shout") == {"n": 4}
    for event in ("shout", "news"):
        rooms[1].refute_push(event)
    here.disconnect("ann")
    for client in clients:
        client.refute(lambda message: True)
        assert client.closed == (1001, "disconnected")


# Adapters


@pytest.fixture
def no_setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Take the environment's setting away; return where workers of one server meet that have none."""
    monkeypatch.delenv("PHOENIX_PUBSUB_URL", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with TemporaryDirectory() as folder:  # the name of a socket has to be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)
    signal.signal(signal.SIGTERM, before)


def started(app: Flask) -> Adapter | None:
    """Serve, as the first client makes it happen; return the adapter."""
    engine = app.extensions["phoenix"].engine
    engine.serve()
    adapter: Adapter | None = engine.node.adapter
    return adapter


def directories(folder: Path) -> list[str]:
    """Return the directories in a folder in which somebody listens."""
    return sorted(path.name for path in folder.iterdir() if list(path.glob("*.sock")))


@pytest.mark.parametrize("place", ["config", "environment", "both"])
def test_a_url_joins_the_nodes(
    make_app: MakeApp, no_setting: Path, monkeypatch: pytest.MonkeyPatch, place: str, stack: ExitStack
) -> None:
    url, other = (f"workers://{no_setting / name}" for name in ("workers", "others"))
    if place != "config":
        monkeypatch.setenv("PHOENIX_PUBSUB_URL", url if place == "environment" else other)
    apps = [make_app(**({} if place == "environment" else {"PHOENIX_PUBSUB_URL": url})) for _ in range(2)]
    nodes = [Phoenix(app) for app in apps]
    for phoenix in nodes:
        room(phoenix)
    monkeypatch.setenv("PHOENIX_PUBSUB_URL", "too late")
    rooms = [stack.enter_context(Client(app)).join("room:1") for app in apps]
    nodes[0].broadcast("room:1", "news", {"n": 1})
    assert [each.assert_push("news") for each in rooms] == [{"n": 1}] * 2
    assert directories(no_setting) == ["workers"]


class Worker:
    """A worker of gunicorn's, as far as it is looked at."""

    cfg = SimpleNamespace(workers=4)

    def handle_exit(self, number: int, frame: Any) -> None:
        pytest.fail("nobody sends a signal here")


def several(app: Flask, told: str | None) -> None:
    """Let an app find out that several processes serve it."""
    if told == "by the server":
        app.extensions["phoenix"].engine.one_of_many = True
    elif told == "by a signal's handler":
        signal.signal(signal.SIGTERM, Worker().handle_exit)


@pytest.mark.parametrize("told", ["by the server", "by a signal's handler"])
def test_several_workers_are_joined_by_themselves(
    make_app: MakeApp, no_setting: Path, told: str, caplog: pytest.LogCaptureFixture, stack: ExitStack
) -> None:
    apps = [make_app(), make_app(), make_app()]
    apps[1].import_name = apps[0].import_name  # as in two workers of one server
    for app in apps:
        room(Phoenix(app))
        several(app, told)
        assert isinstance(started(app), WorkersAdapter)
    assert len(directories(no_setting)) == 2
    rooms = [stack.enter_context(Client(app)).join("room:1") for app in apps]
    assert rooms[0].call("shout_from", {"n": 1}).status == "ok"
    assert rooms[1].assert_push("shout") == {"n": 1}
    rooms[2].refute_push("shout")
    assert caplog.records == []


@pytest.mark.parametrize("setting", [None, "", "none"])
@pytest.mark.parametrize("told", [None, "by the server", "by a signal's handler"])
def test_processes_that_nothing_joins(
    make_app: MakeApp, no_setting: Path, setting: Any, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(PHOENIX_PUBSUB_URL=setting)
    Phoenix(app)
    if setting == "none":
        several(app, told)
    for _ in range(2):
        assert started(app) is None
    assert directories(no_setting) == []
    warned = [(record.levelname, record.name) for record in caplog.records]
    assert warned == ([("WARNING", "flask_phoenix.pubsub")] if setting == "none" and told else [])
    for word in ("several processes", "PHOENIX_PUBSUB_URL", "'none'", "redis://localhost") if warned else ():
        assert word in caplog.text


@pytest.mark.parametrize("setting", [None, "none", "workers:///nowhere"])
@pytest.mark.parametrize("told", [None, "by the server"])
def test_an_adapter_that_is_handed_in_is_used(
    make_app: MakeApp, no_setting: Path, setting: Any, told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, app = MemoryAdapter([]), make_app(PHOENIX_PUBSUB_URL=setting)
    Phoenix(app, adapter=adapter)
    several(app, told)
    assert started(app) is adapter
    assert caplog.records == []


@pytest.mark.parametrize("place", ["config", "environment"])
@pytest.mark.parametrize("url", ["kafka://localhost", "localhost", "/run/myapp"])
def test_an_unknown_url_is_told_when_the_app_is_made(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, place: str, url: str
) -> None:
    if place == "environment":
        monkeypatch.setenv("PHOENIX_PUBSUB_URL", url)
    app = make_app(**({} if place == "environment" else {"PHOENIX_PUBSUB_URL": url}))
    with pytest.raises(InvalidOption) as mistake:
        Phoenix(app)
    for word in ("'redis'", "'rediss'", "'workers'", repr(url.partition(":")[0])):
        assert word in str(mistake.value)
    assert "phoenix" not in app.extensions


def test_an_adapter_that_cannot_start_is_tried_again_with_the_next_client(
    make_app: MakeApp, no_setting: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = no_setting / "workers"
    directory.mkdir(0o755)
    app = make_app(PHOENIX_PUBSUB_URL=f"workers://{directory}")
    phoenix = Phoenix(app)
    room(phoenix)
    for _ in range(2):
        with pytest.raises(InvalidOption, match="chmod 700"):
            Client(app)
        with pytest.raises(NotPublished):
            phoenix.broadcast("room:1", "news", {})
        assert phoenix.connection_count() == 0
        for path, headers in (("websocket", UPGRADE), ("longpoll", {})):
            environ = {"flask_phoenix.socket": gevent.socket.socket()}
            with environ["flask_phoenix.socket"]:
                answer = app.test_client().get(f"/socket/{path}", headers=headers, environ_overrides=environ)
            assert answer.status_code == 503
    assert "chmod 700" in caplog.text
    directory.chmod(0o700)
    with Client(app) as client:
        assert client.join("room:1").response == {}
    assert directories(no_setting) == ["workers"]


# Presences


class Online(Presence):
    """Tells where it was asked."""

    def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
        return {key: {**presence, "app": current_app.name} for key, presence in presences.items()}


def test_presences_of_apps_are_apart(make_app: MakeApp, stack: ExitStack) -> None:
    phoenix, apps = Phoenix(), [make_app(), make_app()]
    phoenix.init_app(apps[0])
    online = phoenix.presence(Online)  # after one app, and before the other
    room(phoenix, online)
    phoenix.init_app(apps[1])

    @apps[0].get("/online")
    def people() -> dict[str, Any]:
        return {"people": list(online.list("room:1")), "count": online.count("room:1")}

    clients = [stack.enter_context(Client(app, params={"user": user})) for app, user in zip(apps, "ab", strict=True)]
    rooms = [client.join("room:1") for client in clients]
    for app, joined, user in zip(apps, rooms, "ab", strict=True):
        state = joined.assert_push("presence_state")
        assert {key: each["app"] for key, each in state.items()} == {user: app.name}
        assert joined.assert_push("presence_diff") == {"joins": state, "leaves": {}}
        with app.app_context():
            assert online.list("room:1") == state
    assert apps[0].test_client().get("/online").json == {"people": ["a"], "count": 1}
    with pytest.raises(PhoenixError, match=r"call it inside app\.app_context\(\)"):
        online.list("room:1")
    clients[0].close()
    rooms[1].refute_push("presence_diff")
    with pytest.raises(PhoenixError, match=r"call phoenix\.init_app"):
        Phoenix().presence().track("room:1", "ada")


def test_kinds_and_names_of_presences(make_app: MakeApp, app: Flask, phoenix: Phoenix) -> None:
    plain, own, named = phoenix.presence(), phoenix.presence(Online), phoenix.presence(Online, name="Typing")
    assert (type(plain), type(own), type(named)) == (Presence, Online, Online)
    assert (plain.name, own.name, named.name) == ("Presence", "Online", "Typing")
    for online in (plain, own, named):
        online.track("room:1", online.name)
    with app.app_context():
        assert [list(online.list("room:1")) for online in (plain, own, named)] == [["Presence"], ["Online"], ["Typing"]]
    for arguments in ({"kind": Online}, {"name": "Online"}):
        with pytest.raises(InvalidOption, match="there is a presence 'Online' already: give this one another name="):
            phoenix.presence(**arguments)
    Phoenix(make_app()).presence(Online)
    periods: list[Any] = [0, -1, float("inf"), float("nan"), "30", None]
    for period in periods:
        with pytest.raises(InvalidOption, match="down_period is a positive number of seconds, got"):
            phoenix.presence(name="Another", down_period=period)
    phoenix.presence(name="Another", down_period=0.5)


@pytest.mark.parametrize("late", [False, True])
def test_presences_of_nodes_are_one(make_app: MakeApp, stack: ExitStack, late: bool) -> None:
    adapters: list[MemoryAdapter] = []
    apps = [make_app(), make_app()]
    nodes = [Phoenix(app, adapter=MemoryAdapter(adapters)) for app in apps]
    for app in apps if late else ():
        started(app)
    presences = [phoenix.presence() for phoenix in nodes]
    for phoenix, online in zip(nodes, presences, strict=True):
        room(phoenix, online)
    clients = [stack.enter_context(Client(app, params={"user": app.name})) for app in apps]
    for joined in [client.join("room:1") for client in clients]:
        names: set[str] = set()
        while names != {app.name for app in apps}:
            names |= set(joined.assert_push("presence_diff")["joins"])
    assert presences[0].list("room:1") == presences[1].list("room:1")


def test_a_socket_of_a_blueprint_is_served_by_apps_that_register_it() -> None:
    phoenix, shop = Phoenix(), Blueprint("shop", __name__)
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    phoenix.socket("/socket", blueprint=shop, longpoll=True)(Socket)
    outer.register_blueprint(shop, url_prefix="/shop/<shop_id>")
    with pytest.raises(PhoenixError, match="init_app"):
        Flask("early").register_blueprint(shop)
    apps = [Flask("one"), Flask("other")]
    for app in apps:
        phoenix.init_app(app)
    apps[0].register_blueprint(outer)
    apps[0].register_blueprint(shop, name="again")
    mounts = [[each.mount.url for each in app.extensions["phoenix"].endpoints] for app in apps]
    outer_urls = ["/outer/shop/<shop_id>/socket/websocket", "/outer/shop/<shop_id>/socket/longpoll"]
    assert mounts == [[*outer_urls, "/socket/websocket", "/socket/longpoll"], []]
    with Client(apps[0], "/outer/shop/7/socket"):
        (connection,) = apps[0].extensions["phoenix"].engine.connections
        assert connection.socket.params["shop_id"] == "7"
