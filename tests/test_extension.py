"""The extension: factories, several apps, broadcasts from anywhere, contexts, and the app's JSON."""

from __future__ import annotations

import gc
import json
import logging
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask, current_app, g, has_app_context, has_request_context, render_template_string
from flask.json.provider import DefaultJSONProvider
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix import (
    Broadcast,
    Channel,
    InvalidOption,
    InvalidPayload,
    Message,
    NotPublished,
    Phoenix,
    PhoenixError,
    Refused,
    Socket,
    on,
)
from flask_phoenix.presence import Presence
from flask_phoenix.protocol.serializers import V2Serializer
from flask_phoenix.pubsub.adapter import Adapter
from flask_phoenix.pubsub.unix.adapter import WorkersAdapter
from flask_phoenix.pubsub.unix.meeting import directory_of_server
from flask_phoenix.testing import Client, MemoryAdapter
from tests.processes import DEADLINE, ROOT
from tests.roads import in_thread
from tests.wire import Entry


def room(phoenix: Phoenix) -> type[Socket]:
    """Mount a socket with rooms; a client is named by its parameter ``user``."""

    @phoenix.socket("/socket")
    class UserSocket(Socket):
        def id(self) -> str | None:
            return self.params.get("user")

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            return None

        @on("shout")
        def shout(self, payload: Any) -> Any:
            phoenix.broadcast(self.topic, "shout", payload)
            return {}

        @on("shout_from")
        def shout_from(self, payload: Any) -> Any:
            phoenix.broadcast_from(self, self.topic, "shout", payload)
            return {}

    return UserSocket


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
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
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def phoenix(app: Flask) -> Phoenix:
    phoenix = Phoenix(app)
    room(phoenix)
    return phoenix


@pytest.fixture
def enter(app: Flask, phoenix: Phoenix) -> Iterator[Callable[..., Client]]:
    """Connect clients to the app."""
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(Client(app, **arguments))


def websocket_rules(app: Flask) -> set[str]:
    return {rule.rule for rule in app.url_map.iter_rules() if rule.websocket}


# Apps


@pytest.mark.parametrize("order", ["mounts first", "app first"])
def test_factory(make_app: Callable[..., Flask], order: str) -> None:
    phoenix, app = Phoenix(), make_app()
    steps: list[Callable[[], Any]] = [lambda: room(phoenix), lambda: phoenix.init_app(app)]
    for step in steps if order == "mounts first" else reversed(steps):
        step()
    assert websocket_rules(app) == {"/socket/websocket"}
    with Client(app) as client:
        assert client.join("room:1").response == {}


def test_each_app_gets_every_mount(make_app: Callable[..., Flask]) -> None:
    phoenix, apps = Phoenix(), [make_app(), make_app()]
    phoenix.init_app(apps[0])
    room(phoenix)
    phoenix.init_app(apps[1])
    phoenix.socket("/other")(Socket)
    assert [websocket_rules(app) for app in apps] == [{"/socket/websocket", "/other/websocket"}] * 2


def test_each_app_has_its_own_configuration(make_app: Callable[..., Flask]) -> None:
    phoenix = Phoenix()
    phoenix.socket("/socket")(Socket)
    phoenix.socket("/strict", timeout=5)(Socket)
    patient, hasty = make_app(PHOENIX_TIMEOUT=None), make_app(PHOENIX_TIMEOUT=1.5)
    timeouts = []
    for app in (patient, hasty):
        phoenix.init_app(app)
        timeouts.append([endpoint.mount.options.timeout for endpoint in app.extensions["phoenix"].endpoints])
    assert timeouts == [[None, 5], [1.5, 5]]


def test_apps_of_one_extension_are_apart(make_app: Callable[..., Flask]) -> None:
    phoenix, apps = Phoenix(), [make_app(), make_app()]
    room(phoenix)
    for app in apps:
        phoenix.init_app(app)
    with Client(apps[0]) as one, Client(apps[1]) as other:
        rooms = [one.join("room:1"), other.join("room:1")]
        for app in apps:
            with app.app_context():
                phoenix.broadcast("room:1", "news", {"app": app.name})
                assert phoenix.connection_count() == 1
        assert [each.expect("news") for each in rooms] == [{"app": app.name} for app in apps]
        assert rooms[0].call("shout", {"n": 1}).status == "ok"  # a channel speaks for its own app
        assert rooms[0].expect("shout") == {"n": 1}
        rooms[1].refute("shout")


def test_extensions_are_apart(make_app: Callable[..., Flask]) -> None:
    pairs = [(Phoenix(), make_app()) for _ in range(2)]
    for phoenix, app in pairs:
        room(phoenix)
        phoenix.init_app(app)
    (one, one_app), (other, other_app) = pairs
    with Client(one_app) as client, Client(other_app) as stranger:
        joined, apart = client.join("room:1"), stranger.join("room:1")
        with other_app.app_context():  # not one of its apps: the only one that it has is meant
            one.broadcast("room:1", "news", {"n": 1})
        assert joined.expect("news") == {"n": 1}
        apart.refute("news")
        assert other.connection_count() == 1


def test_no_app() -> None:
    with pytest.raises(PhoenixError, match="call init_app first"):
        Phoenix().broadcast("room:1", "news", {})


def test_several_apps_and_no_context(make_app: Callable[..., Flask]) -> None:
    phoenix = Phoenix()
    kept = [make_app() for _ in range(3)]
    for app in kept:
        phoenix.init_app(app)
    with pytest.raises(PhoenixError) as ambiguous:
        phoenix.connection_count()
    assert "3 apps" in str(ambiguous.value)
    assert "app.app_context()" in str(ambiguous.value)


def test_apps_that_are_gone_do_not_count() -> None:
    phoenix = Phoenix()
    room(phoenix)
    phoenix.init_app(Flask("gone"))
    kept = Flask("kept")
    phoenix.init_app(kept)
    gc.collect()
    phoenix.broadcast("room:1", "news", {})


def test_init_twice(app: Flask, phoenix: Phoenix) -> None:
    with pytest.raises(InvalidOption, match="already"):
        phoenix.init_app(app)
    with pytest.raises(InvalidOption, match="already"):
        Phoenix(app)


def test_mount_returns_the_class(phoenix: Phoenix) -> None:
    assert phoenix.socket("/other")(Socket) is Socket


@pytest.mark.parametrize("path", ["/socket", "/socket/", "socket"])
def test_two_mounts_at_one_place(phoenix: Phoenix, path: str) -> None:
    with pytest.raises(InvalidOption, match="/socket/websocket"):
        phoenix.socket(path)(Socket)


def test_two_mounts_at_one_place_of_an_app_to_come(make_app: Callable[..., Flask]) -> None:
    def build() -> None:
        phoenix = Phoenix()
        for _ in range(2):
            phoenix.socket("/socket")(Socket)
        phoenix.init_app(make_app())

    with pytest.raises(InvalidOption, match="/socket/websocket"):
        build()


def test_mount_that_is_not_there(app: Flask, phoenix: Phoenix) -> None:
    with pytest.raises(PhoenixError, match="/socket/websocket"):
        Client(app, "/nowhere")


def test_unknown_option_at_the_mount(phoenix: Phoenix) -> None:
    with pytest.raises(InvalidOption, match="'compress'"):
        phoenix.socket("/other", compres=True)(Socket)


NOTHING_STARTS = """
from gevent._hub_local import get_hub_if_exists
from flask import Flask
from flask_phoenix import Channel, Phoenix, Socket

phoenix = Phoenix()


@phoenix.socket("/socket")
class UserSocket(Socket):
    pass


app = Flask(__name__)
phoenix.init_app(app)
assert get_hub_if_exists() is None, "gevent's event loop has begun"
assert not app.extensions["phoenix"].engine.hub.running
"""


def test_nothing_starts_before_the_fork() -> None:
    subprocess.run([sys.executable, "-c", NOTHING_STARTS], cwd=ROOT, timeout=DEADLINE, check=True)


def test_it_starts_with_the_first_client(app: Flask, enter: Callable[..., Client]) -> None:
    engine = app.extensions["phoenix"].engine
    assert not engine.hub.running
    enter()
    assert engine.hub.running


# Broadcasts


def test_broadcast_from_a_view(app: Flask, phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    @app.post("/announce")
    def announce() -> str:
        phoenix.broadcast("room:1", "news", {"from": "a view"})
        return ""

    joined = enter().join("room:1")
    assert app.test_client().post("/announce").status_code == 200
    assert joined.expect("news") == {"from": "a view"}


def test_broadcast_outside_any_context(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    joined, elsewhere = enter().join("room:1"), enter().join("room:2")
    assert not has_app_context()
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert joined.expect("news") == {"n": 1}
    elsewhere.refute("news")


def test_broadcast_of_bytes(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    joined = enter().join("room:1")
    phoenix.broadcast("room:1", "blob", b"\xde\xad")
    assert joined.expect("blob") == b"\xde\xad"


def test_broadcast_from_another_thread(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    joined = enter().join("room:1")

    def work() -> None:
        for number in range(100):
            phoenix.broadcast("room:1", "news", {"n": number})

    thread = Thread(target=work)
    thread.start()
    assert [joined.expect("news") for _ in range(100)] == [{"n": number} for number in range(100)]
    thread.join(DEADLINE)


def test_broadcast_from_another_thread_raises_there(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    enter().join("room:1")
    raised: list[Exception] = []

    def work() -> None:
        try:
            phoenix.broadcast("room:1", "news", ["no dict"])
        except InvalidPayload as error:
            raised.append(error)

    thread = Thread(target=work)
    thread.start()
    thread.join(DEADLINE)
    assert len(raised) == 1


def test_broadcast_from_a_channel(enter: Callable[..., Client]) -> None:
    speaker, listener = enter().join("room:1"), enter().join("room:1")
    assert speaker.call("shout", {"n": 1}).status == "ok"
    assert [each.expect("shout") for each in (speaker, listener)] == [{"n": 1}] * 2
    assert speaker.call("shout_from", {"n": 2}).status == "ok"
    assert listener.expect("shout") == {"n": 2}
    speaker.refute("shout")


def test_local_broadcast(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    joined = enter().join("room:1")
    phoenix.local_broadcast("room:1", "news", {"n": 1})
    assert joined.expect("news") == {"n": 1}


@pytest.mark.parametrize("payload", [["a list"], "text", None, {"n": float("nan")}, {"n": object()}])
def test_broadcast_that_a_client_cannot_take(phoenix: Phoenix, enter: Callable[..., Client], payload: Any) -> None:
    joined = enter().join("room:1")
    with pytest.raises(InvalidPayload):
        phoenix.broadcast("room:1", "news", payload)
    joined.refute("news")


@pytest.mark.parametrize(("topic", "event"), [(7, "news"), ("room:1", 7), (None, "news"), ("room:1", b"news")])
def test_broadcast_with_odd_names(phoenix: Phoenix, topic: Any, event: Any) -> None:
    with pytest.raises(InvalidPayload, match="strings"):
        phoenix.broadcast(topic, event, {})


def test_broadcast_to_nobody(phoenix: Phoenix) -> None:
    phoenix.broadcast("room:1", "news", {})


# Functions that listen


def test_subscribe(app: Flask, phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    heard: Queue[Any] = Queue()

    def listen(broadcast: Broadcast) -> None:
        assert current_app.name == app.name
        assert not has_request_context()
        heard.put(broadcast)

    end = phoenix.subscribe("room:1", listen)
    enter()
    for number in range(3):
        phoenix.broadcast("room:1", "news", {"n": number})
        phoenix.broadcast("room:2", "news", {"n": number})
    expected = [Broadcast("room:1", "news", {"n": number}) for number in range(3)]
    assert [heard.get(timeout=DEADLINE) for _ in range(3)] == expected
    end()
    end()
    phoenix.broadcast("room:1", "news", {"n": "late"})
    gevent.idle()
    assert heard.empty()


def test_subscribe_where_nothing_is_served(phoenix: Phoenix) -> None:
    heard: list[Any] = []
    phoenix.subscribe("room:1", lambda broadcast: heard.append(broadcast.payload))
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert heard == [{"n": 1}]


def test_broadcast_from_a_thread_before_the_first_client(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    heard: Queue[Any] = Queue()
    phoenix.subscribe("room:1", lambda broadcast: heard.put(broadcast.payload))
    thread = Thread(target=phoenix.broadcast, args=("room:1", "news", {"n": 1}))
    thread.start()
    thread.join(DEADLINE)
    assert heard.get(timeout=DEADLINE) == {"n": 1}
    enter()
    phoenix.broadcast("room:1", "news", {"n": 2})
    assert heard.get(timeout=DEADLINE) == {"n": 2}


def test_subscribe_from_another_thread(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    heard: Queue[Any] = Queue()
    subscribed = gevent.get_hub().loop.async_()
    enter()
    waiting = Event()
    subscribed.start(waiting.set)

    def work() -> None:
        phoenix.subscribe("room:1", lambda broadcast: heard.put(broadcast.payload))
        subscribed.send()

    thread = Thread(target=work)
    thread.start()
    assert waiting.wait(DEADLINE)
    thread.join(DEADLINE)
    subscribed.close()
    gevent.idle()
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert heard.get(timeout=DEADLINE) == {"n": 1}


@pytest.mark.parametrize("failure", [RuntimeError("no"), SystemExit(1), gevent.Timeout(1), gevent.GreenletExit()])
def test_function_that_fails_is_logged_and_goes_on(
    phoenix: Phoenix, enter: Callable[..., Client], caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    heard: Queue[Any] = Queue()

    def listen(broadcast: Broadcast) -> None:
        if broadcast.payload["n"] == 0:
            raise failure
        heard.put(broadcast.payload)

    phoenix.subscribe("room:1", listen)
    enter()
    for number in range(2):
        phoenix.broadcast("room:1", "news", {"n": number})
    assert heard.get(timeout=DEADLINE) == {"n": 1}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "room:1" in record.getMessage()
    assert "listen" in record.getMessage()


def test_function_that_blocks_delays_nobody(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    blocked, done = Event(), Event()

    def listen(broadcast: Broadcast) -> None:
        blocked.wait(DEADLINE)
        done.set()

    phoenix.subscribe("room:1", listen)
    joined = enter().join("room:1")
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert joined.expect("news") == {"n": 1}
    assert not done.is_set()
    blocked.set()
    assert done.wait(DEADLINE)


def test_tap(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    heard: Queue[Any] = Queue()
    enter()
    end = phoenix.tap(heard.put)
    phoenix.broadcast("room:1", "news", {"n": 1})
    phoenix.local_broadcast("nobody:here", "blob", b"\x01")
    assert heard.get(timeout=DEADLINE) == Broadcast("room:1", "news", {"n": 1})
    assert heard.get(timeout=DEADLINE) == Broadcast("nobody:here", "blob", b"\x01")
    end()
    phoenix.broadcast("room:1", "news", {"n": 2})
    gevent.idle()
    assert heard.empty()


def test_tap_ends_once(phoenix: Phoenix) -> None:
    heard: list[Any] = []
    ends = [phoenix.tap(heard.append) for _ in range(2)]
    ends[0]()
    ends[0]()
    phoenix.broadcast("room:1", "news", {})
    assert len(heard) == 1
    ends[1]()


def test_tap_that_fails(phoenix: Phoenix, enter: Callable[..., Client], caplog: pytest.LogCaptureFixture) -> None:
    joined = enter().join("room:1")
    phoenix.tap(lambda broadcast: broadcast.payload["missing"])
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert joined.expect("news") == {"n": 1}
    gevent.idle()
    assert "KeyError" in caplog.text


# Connections


def test_disconnect(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    ada = [enter(params={"user": "user:ada"}) for _ in range(2)]
    grace, nobody = enter(params={"user": "user:grace"}), enter()
    still_there = grace.join("room:1")
    assert phoenix.connection_count() == 4
    phoenix.disconnect("user:ada")
    phoenix.broadcast("room:1", "news", {"n": 1})
    assert still_there.expect("news") == {"n": 1}
    assert [client.closed for client in ada] == [(1001, "disconnected")] * 2
    assert grace.closed is nobody.closed is None
    assert phoenix.connection_count() == 2


def test_disconnect_of_nobody(phoenix: Phoenix) -> None:
    phoenix.disconnect("user:ada")


def test_other_events_on_an_id_close_nobody(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    ada = enter(params={"user": "user:ada"})
    phoenix.broadcast("user:ada", "news", {})
    assert ada.join("room:1").response == {}
    assert ada.closed is None


def test_connection_count(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    assert phoenix.connection_count() == 0
    clients = [enter() for _ in range(3)]
    assert phoenix.connection_count() == 3
    clients[0].close()
    clients[0].close()
    assert phoenix.connection_count() == 2


def test_connection_that_is_refused_does_not_count(app: Flask, phoenix: Phoenix) -> None:
    @phoenix.socket("/closed")
    class ClosedSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            raise Refused

    with pytest.raises(Refused):
        Client(app, "/closed")
    assert phoenix.connection_count() == 0


def test_csrf_token_in_a_template(app: Flask, phoenix: Phoenix) -> None:
    with app.test_request_context():
        token = render_template_string("{{ phoenix_csrf_token() }}")
        assert token == phoenix.csrf_token()
        assert render_template_string("{{ phoenix_csrf_token('k') }}") == phoenix.csrf_token("k") != token


# JSON

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
ID = uuid.UUID("12345678123456781234567812345678")


def test_payload_of_the_apps_json_provider(phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    joined = enter().join("room:1")
    phoenix.broadcast("room:1", "news", {"at": MOMENT, "id": ID})
    assert joined.expect("news") == {"at": "Fri, 02 Jan 2026 03:04:05 GMT", "id": str(ID)}


def test_default_of_a_provider_of_the_app(app: Flask) -> None:
    class IsoProvider(DefaultJSONProvider):
        default = staticmethod(lambda value: value.isoformat())

    app.json = IsoProvider(app)
    phoenix = Phoenix(app)
    room(phoenix)
    with Client(app) as client:
        joined = client.join("room:1")
        phoenix.broadcast("room:1", "news", {"at": MOMENT})
        assert joined.expect("news") == {"at": MOMENT.isoformat()}
        with pytest.raises(InvalidPayload):
            phoenix.broadcast("room:1", "news", {"at": object()})


@pytest.mark.parametrize("setting", ["json", json])
def test_json_module(make_app: Callable[..., Flask], setting: Any) -> None:
    app = make_app(PHOENIX_JSON=setting)
    phoenix = Phoenix(app)
    room(phoenix)
    with Client(app) as client:
        joined = client.join("room:1", {"n": 1.5})
        assert joined.call("shout", {"text": "\u00e9"}).status == "ok"
        assert joined.expect("shout") == {"text": "\u00e9"}
        with pytest.raises(InvalidPayload):
            phoenix.broadcast("room:1", "news", {"at": MOMENT})


def test_json_module_does_the_work(make_app: Callable[..., Flask]) -> None:
    written: list[Any] = []

    def dumps(value: Any) -> str:
        written.append(value)
        return json.dumps(value)

    app = make_app(PHOENIX_JSON=SimpleNamespace(dumps=dumps, loads=json.loads))
    phoenix = Phoenix(app)
    room(phoenix)
    with Client(app) as client:
        joined = client.join("room:1")
        phoenix.broadcast("room:1", "news", {"n": 1})
        assert joined.expect("news") == {"n": 1}
    assert {"n": 1} in written


@pytest.mark.parametrize("setting", [7, object(), SimpleNamespace(dumps=json.dumps), "flask"])
def test_json_module_that_is_none(make_app: Callable[..., Flask], setting: Any) -> None:
    with pytest.raises(InvalidOption, match="PHOENIX_JSON"):
        Phoenix(make_app(PHOENIX_JSON=setting))


# Contexts


class Diary:
    """What happened to one client, in order, and which contexts were open then."""

    entry: Entry

    def __init__(self) -> None:
        self.entries: list[str] = []
        self.ended = Event()

    def note(self, what: str) -> None:
        """Write down what happens, and the contexts."""
        contexts = {"app": has_app_context(), "request": has_request_context()}
        self.entries.append(f"{what} [{' '.join(name for name, is_open in contexts.items() if is_open)}]")

    def take(self) -> list[str]:
        """Tear out what was written."""
        entries, self.entries = self.entries, []
        return entries

    def say(self, event: str, ref: int) -> str:
        """Send an event over the WebSocket; return what is answered."""
        self.entry.wire.text(json.dumps(["1", str(ref), "room:1", event, {}]))
        return self.hear()

    def hear(self) -> str:
        """Return the next thing that the client is sent."""
        return str(self.entry.wire.data())


@pytest.fixture
def diary(app: Flask) -> Iterator[Diary]:
    """Serve a channel all of whose methods write into a diary, and note each teardown."""
    diary = Diary()
    app.teardown_appcontext(lambda error: diary.entries.append("teardown"))

    class NotingSerializer(V2Serializer):
        def decode(self, frame: str | bytes) -> Message:
            diary.note("frame")
            return super().decode(frame)

    phoenix = Phoenix(app)

    @phoenix.socket("/socket", serializer=[(NotingSerializer, "~> 2.0.0")])
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            diary.note("connect")

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            diary.note("join")

        def after_join(self) -> None:
            diary.note("after_join")

        @on("event")
        def event(self, payload: Any) -> Any:
            assert current_app.name == app.name
            assert "seen" not in g
            g.seen = True
            diary.note("event")
            self.send("info")
            return {}

        @on("crash")
        def crash(self, payload: Any) -> Any:
            raise RuntimeError("crash")

        def handle_info(self, message: Any) -> None:
            assert "seen" not in g
            diary.note("info")
            self.push("informed", {})

        def terminate(self, reason: Any) -> None:
            diary.note("terminate")
            diary.ended.set()

    diary.entry = Entry(app)
    yield diary
    diary.entry.close()


def test_handshake_is_torn_down_before_the_first_frame(diary: Diary) -> None:
    assert diary.take() == ["connect [app request]", "teardown"]
    diary.say("phx_join", 1)
    assert diary.take()[0] == "frame []"


def test_each_callback_has_a_context_of_its_own(diary: Diary) -> None:
    diary.say("phx_join", 1)
    diary.take()
    for ref in (2, 3):
        assert "ok" in diary.say("event", ref)
        assert "informed" in diary.hear()
        assert diary.take() == ["frame []", "event [app]", "teardown", "info [app]", "teardown"]


def test_contexts_of_a_join_and_an_end(diary: Diary) -> None:
    diary.take()
    diary.say("phx_join", 1)
    diary.say("phx_leave", 2)
    assert diary.ended.wait(DEADLINE)
    gevent.idle()
    assert diary.take() == [
        "frame []",
        "join [app]",
        "teardown",
        "after_join [app]",
        "teardown",
        "frame []",
        "terminate [app]",
        "teardown",
    ]


def test_contexts_of_a_crash(diary: Diary) -> None:
    diary.say("phx_join", 1)
    diary.take()
    assert "channel_crash" in diary.say("crash", 2)
    assert diary.take() == ["frame []", "teardown", "terminate [app]", "teardown"]


def test_teardown_hears_of_a_crash(app: Flask, phoenix: Phoenix, enter: Callable[..., Client]) -> None:
    errors: list[Any] = []
    app.teardown_appcontext(errors.append)
    joined = enter().join("room:1")
    errors.clear()
    joined.push("unknown event")
    joined.expect("phx_error")
    assert "UnknownEvent" in repr(errors[0])


def test_no_context_is_open_while_a_client_is_idle(diary: Diary) -> None:
    diary.say("phx_join", 1)
    diary.take()
    gevent.idle()
    assert not has_app_context()
    assert diary.take() == []


def test_joins_of_many_leave_no_context(app: Flask, enter: Callable[..., Client]) -> None:
    depth: list[int] = []
    app.teardown_appcontext(lambda error: depth.append(1))
    clients = [enter() for _ in range(20)]
    for client in clients:
        client.join("room:1")
    assert len(depth) == 20 * 3  # the handshake, the join and what follows it
    assert not has_app_context()


# Several nodes


@pytest.fixture
def network(make_app: Callable[..., Flask]) -> list[tuple[Phoenix, Flask]]:
    """Return two apps that hear each other."""
    adapters: list[MemoryAdapter] = []
    nodes = []
    for _ in range(2):
        app = make_app()
        phoenix = Phoenix(app, adapter=MemoryAdapter(adapters))
        room(phoenix)
        nodes.append((phoenix, app))
    return nodes


def test_a_broadcast_reaches_clients_of_every_node(network: list[tuple[Phoenix, Flask]]) -> None:
    (here, app), (_, other) = network
    with Client(app) as one, Client(other) as two:
        rooms = [one.join("room:1"), two.join("room:1")]
        here.broadcast("room:1", "shout", {"n": 1})
        assert [each.expect("shout") for each in rooms] == [{"n": 1}] * 2
        assert rooms[1].call("shout_from", {"n": 2}).status == "ok"
        assert rooms[0].expect("shout") == {"n": 2}
        rooms[1].refute("shout")


def test_an_adapter_serves_one_app(make_app: Callable[..., Flask]) -> None:
    phoenix = Phoenix(make_app(), adapter=MemoryAdapter([]))
    with pytest.raises(InvalidOption, match="an adapter serves one app"):
        phoenix.init_app(make_app())


def test_a_local_broadcast_reaches_clients_of_this_node(network: list[tuple[Phoenix, Flask]]) -> None:
    (here, app), (_, other) = network
    with Client(app) as one, Client(other) as two:
        rooms = [one.join("room:1"), two.join("room:1")]
        here.local_broadcast("room:1", "shout", {"n": 1})
        assert rooms[0].expect("shout") == {"n": 1}
        rooms[1].refute("shout")


def test_listeners_and_taps_of_other_nodes(network: list[tuple[Phoenix, Flask]]) -> None:
    (here, app), (there, other) = network
    heard: Queue[Broadcast] = Queue()
    stops = [there.subscribe("room:1", heard.put), there.tap(heard.put)]
    with Client(app), Client(other):
        here.broadcast("room:1", "shout", {"n": 1})
        here.broadcast("nobody hears it there", "shout", {"n": 2})
        assert [heard.get(timeout=DEADLINE) for _ in range(2)] == [Broadcast("room:1", "shout", {"n": 1})] * 2
        assert heard.empty()
        for stop in stops:
            stop()


def test_disconnecting_on_another_node(network: list[tuple[Phoenix, Flask]]) -> None:
    (here, app), (_, other) = network
    with Client(app, params={"user": "ann"}) as one, Client(other, params={"user": "ann"}) as two:
        here.disconnect("ann")
        for client in (one, two):
            client.refute(lambda message: True)
            assert client.closed == (1001, "disconnected")


# The way to other nodes


@pytest.fixture
def no_setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Take the environment's setting away; return where workers of one server meet that have none."""
    monkeypatch.delenv("PHOENIX_PUBSUB_URL", raising=False)
    with TemporaryDirectory() as folder:  # the name of a socket has to be short
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def started(app: Flask) -> Adapter | None:
    """Serve, as the first client makes it happen; return the way to other nodes."""
    engine = app.extensions["phoenix"].engine
    engine.serve()
    adapter: Adapter | None = engine.adapter
    return adapter


def directories(folder: Path) -> list[str]:
    """Return the directories in a folder in which somebody listens."""
    return sorted(path.name for path in folder.iterdir() if list(path.glob("*.sock")))


@pytest.mark.parametrize("place", ["config", "environment", "both"])
def test_a_url_joins_the_nodes(
    make_app: Callable[..., Flask], no_setting: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    url, other = (f"workers://{no_setting / name}" for name in ("workers", "others"))
    if place != "config":
        monkeypatch.setenv("PHOENIX_PUBSUB_URL", url if place == "environment" else other)
    apps = [make_app(**({} if place == "environment" else {"PHOENIX_PUBSUB_URL": url})) for _ in range(2)]
    nodes = [Phoenix(app) for app in apps]
    for phoenix in nodes:
        room(phoenix)
    monkeypatch.setenv("PHOENIX_PUBSUB_URL", "too late")
    with Client(apps[0]) as one, Client(apps[1]) as two:
        rooms = [one.join("room:1"), two.join("room:1")]
        nodes[0].broadcast("room:1", "news", {"n": 1})
        assert [each.expect("news") for each in rooms] == [{"n": 1}] * 2
    assert directories(no_setting) == ["workers"]


@pytest.mark.parametrize("setting", [None, ""])
def test_a_process_alone_has_no_way_and_needs_none(
    make_app: Callable[..., Flask], no_setting: Path, setting: Any
) -> None:
    app = make_app(PHOENIX_PUBSUB_URL=setting)
    Phoenix(app)
    assert started(app) is None
    assert directories(no_setting) == []


def many(app: Flask, told: str) -> None:
    """Let an app find out that several processes serve it."""
    if told == "by the server":
        app.extensions["phoenix"].engine.one_of_many = True
    else:
        signal.signal(signal.SIGTERM, Manned().handle_exit)


class Manned:
    """A worker of gunicorn's, as far as it is looked at."""

    cfg = SimpleNamespace(workers=4)

    def handle_exit(self, number: int, frame: Any) -> None:
        pytest.fail("nobody sends a signal here")


@pytest.fixture
def signals() -> Iterator[None]:
    """Put the handler of SIGTERM back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("told", ["by the server", "by a signal's handler"])
def test_several_workers_are_joined_by_themselves(
    make_app: Callable[..., Flask], no_setting: Path, signals: None, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    apps = [make_app(), make_app(), make_app()]
    apps[1].import_name = apps[0].import_name  # as in two workers of one server
    for app in apps:
        room(Phoenix(app))
        many(app, told)
        assert isinstance(started(app), WorkersAdapter)
    assert directories(no_setting) == sorted(directory_of_server(f"app{number}").name for number in (0, 2))
    with Client(apps[0]) as one, Client(apps[1]) as two, Client(apps[2]) as stranger:
        rooms = [client.join("room:1") for client in (one, two, stranger)]
        assert rooms[0].call("shout_from", {"n": 1}).status == "ok"
        assert rooms[1].expect("shout") == {"n": 1}
        rooms[2].refute("shout")
    assert caplog.records == []


@pytest.mark.parametrize("place", ["config", "environment"])
@pytest.mark.parametrize("told", [None, "by the server", "by a signal's handler"])
def test_processes_that_are_to_be_apart_are_warned_of(
    make_app: Callable[..., Flask],
    no_setting: Path,
    signals: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: str,
    told: str | None,
) -> None:
    monkeypatch.setenv("PHOENIX_PUBSUB_URL", "none" if place == "environment" else "workers:///nowhere")
    app = make_app(**({} if place == "environment" else {"PHOENIX_PUBSUB_URL": "none"}))
    Phoenix(app)
    if told is not None:
        many(app, told)
    for _ in range(2):
        assert started(app) is None
    assert directories(no_setting) == []
    warned = [(record.levelname, record.getMessage()) for record in caplog.records]
    if told is None:
        assert warned == []
    else:
        ((level, message),) = warned
        assert level == "WARNING"
        for word in ("several processes", "PHOENIX_PUBSUB_URL", "'none'", "redis://localhost"):
            assert word in message


@pytest.mark.parametrize("setting", [None, "none", "workers:///nowhere"])
@pytest.mark.parametrize("alone", [True, False])
def test_an_adapter_that_is_handed_in_is_the_way(
    make_app: Callable[..., Flask], no_setting: Path, setting: Any, alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = MemoryAdapter([])
    app = make_app(PHOENIX_PUBSUB_URL=setting)
    Phoenix(app, adapter=adapter)
    if not alone:
        many(app, "by the server")
    assert started(app) is adapter
    assert caplog.records == []


@pytest.mark.parametrize("place", ["config", "environment"])
@pytest.mark.parametrize("url", ["kafka://localhost", "localhost", "/run/myapp"])
def test_an_unknown_way_is_told_when_the_app_is_made(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, place: str, url: str
) -> None:
    if place == "environment":
        monkeypatch.setenv("PHOENIX_PUBSUB_URL", url)
    app = make_app(**({} if place == "environment" else {"PHOENIX_PUBSUB_URL": url}))
    with pytest.raises(InvalidOption) as mistake:
        Phoenix(app)
    for word in ("'redis'", "'rediss'", "'workers'", repr(url.partition(":")[0])):
        assert word in str(mistake.value)
    assert "phoenix" not in app.extensions


def test_a_way_that_cannot_be_is_tried_again_with_the_next_client(
    make_app: Callable[..., Flask], no_setting: Path, caplog: pytest.LogCaptureFixture
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
    directory.chmod(0o700)
    with Client(app) as client:
        assert client.join("room:1").response == {}
    assert directories(no_setting) == ["workers"]


def test_a_socket_of_one_who_cannot_be_served_is_closed(make_app: Callable[..., Flask], no_setting: Path) -> None:
    directory = no_setting / "workers"
    directory.mkdir(0o755)
    app = make_app(PHOENIX_PUBSUB_URL=f"workers://{directory}")
    phoenix = Phoenix(app)
    room(phoenix)
    refused = Entry(app)
    try:
        assert refused.wire.closed() == 1011
    finally:
        with suppress(InvalidOption):
            refused.close()
        refused._sock.close()
    directory.chmod(0o700)
    entry = Entry(app)
    entry.wire.text('["1","1","room:1","phx_join",{}]')
    assert '"status":"ok"' in str(entry.wire.data())
    entry.close()


SPEAKER = """
import os
import sys
import threading
from flask import Flask
from flask_phoenix import Phoenix

app = Flask("speaker")
app.config["PHOENIX_PUBSUB_URL"] = sys.argv[1]
phoenix = Phoenix(app)

def speak(first=0, last=100):
    for number in range(first, last):
        phoenix.broadcast("room:1", "news", {"n": number})

def call(first, last):
    thread = threading.Thread(target=speak, args=(first, last))
    thread.start()
    thread.join()

"""

#: What somebody does who serves nobody. A word from the parent comes when all has been heard.
SPEECHES = {
    "and ends at once": "speak()",
    "and goes on": "speak(); sys.stdin.readline()",
    "in a thread": "call(0, 100); sys.stdin.readline()",
    "in one thread and another": "call(0, 50); call(50, 100); sys.stdin.readline()",
    "in a child": "if os.fork(): os.wait()\nelse: speak()",
    "in a child too": "speak(0, 50)\nif os.fork(): os.wait()\nelse: speak(50, 100)",
}


@pytest.mark.parametrize("how", SPEECHES)
def test_who_serves_nobody_is_heard(make_app: Callable[..., Flask], no_setting: Path, how: str) -> None:
    url = f"workers://{no_setting / 'workers'}"
    app = make_app(PHOENIX_PUBSUB_URL=url)
    room(Phoenix(app))
    with Client(app) as client:
        joined = client.join("room:1")
        command = [sys.executable, "-W", "error", "-c", SPEAKER + SPEECHES[how], url]
        with subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=STDOUT, text=True) as speaker:
            try:
                heard = [joined.expect("news", DEADLINE) for _ in range(100)]
            finally:
                said, _ = in_thread(speaker.communicate, "go", DEADLINE)
    assert heard == [{"n": number} for number in range(100)]
    assert (speaker.returncode, said) == (0, "")


# Presences


def crowd(phoenix: Phoenix, online: Presence, path: str = "/crowd") -> None:
    """Mount a socket whose rooms tell who is there; a client is named by its parameter ``user``."""

    class CrowdedRoom(Channel):
        presence = online

        def join(self, payload: Any) -> None:
            return None

        def after_join(self) -> None:
            self.track(self.params["user"])
            self.push("presence_state", self.presences())

    class CrowdSocket(Socket):
        pass

    CrowdSocket.channel("room:*")(CrowdedRoom)
    phoenix.socket(path)(CrowdSocket)


class Online(Presence):
    """Tells where it was asked."""

    def fetch(self, topic: str, presences: dict[str, Any]) -> dict[str, Any]:
        return {key: {**presence, "app": current_app.name} for key, presence in presences.items()}


@pytest.mark.parametrize("late", [False, True])
def test_a_presence_may_be_made_before_or_behind_init_app(make_app: Callable[..., Flask], late: bool) -> None:
    phoenix, app = Phoenix(), make_app()
    if late:
        phoenix.init_app(app)
    online = phoenix.presence()
    crowd(phoenix, online)
    if not late:
        phoenix.init_app(app)
    with Client(app, "/crowd", {"user": "ada"}) as client:
        state = client.join("room:1").expect("presence_state")
        assert state == online.list("room:1")
        assert list(state) == ["ada"]
        assert online.count("room:1") == 1
    assert online.list("room:1") == {}


def test_a_presence_is_of_the_kind_that_is_asked_for(app: Flask, phoenix: Phoenix) -> None:
    plain, own, named = phoenix.presence(), phoenix.presence(Online), phoenix.presence(Online, name="Typing")
    assert (type(plain), type(own), type(named)) == (Presence, Online, Online)
    assert (plain.name, own.name, named.name) == ("Presence", "Online", "Typing")
    for online in (plain, own, named):
        online.track("room:1", online.name)
    with app.app_context():
        assert [list(online.list("room:1")) for online in (plain, own, named)] == [["Presence"], ["Online"], ["Typing"]]


def test_the_name_of_a_presence_is_taken_once(make_app: Callable[..., Flask]) -> None:
    phoenix, other = Phoenix(make_app()), Phoenix(make_app())
    phoenix.presence(Online)
    for arguments in ({"kind": Online}, {"name": "Online"}, {"kind": Online, "name": "Online"}):
        with pytest.raises(InvalidOption, match="there is a presence 'Online' already: give this one another name="):
            phoenix.presence(**arguments)
    phoenix.presence(name="Another")
    other.presence(Online)


@pytest.mark.parametrize("period", [0, -1, float("inf"), float("nan"), "30", None, [1]])
def test_a_down_period_is_a_positive_number(make_app: Callable[..., Flask], period: Any) -> None:
    phoenix = Phoenix(make_app())
    with pytest.raises(InvalidOption, match="down_period is a positive number of seconds, got"):
        phoenix.presence(down_period=period)
    phoenix.presence(down_period=0.5)


def test_presences_of_apps_are_apart(make_app: Callable[..., Flask]) -> None:
    phoenix, apps = Phoenix(), [make_app(), make_app()]
    online = phoenix.presence(Online)
    crowd(phoenix, online)
    for app in apps:
        phoenix.init_app(app)
    with Client(apps[0], "/crowd", {"user": "ada"}) as one, Client(apps[1], "/crowd", {"user": "bob"}) as other:
        rooms = [one.join("room:1"), other.join("room:1")]
        states = [room.expect("presence_state") for room in rooms]
        assert [{key: each["app"] for key, each in state.items()} for state in states] == [
            {"ada": apps[0].name},
            {"bob": apps[1].name},
        ]
        for app, state, room in zip(apps, states, rooms, strict=True):
            assert room.expect("presence_diff") == {"joins": state, "leaves": {}}
            room.refute("presence_diff")
            with app.app_context():
                assert online.list("room:1") == state
        with pytest.raises(PhoenixError, match=r"call it inside app\.app_context\(\)"):
            online.list("room:1")
        one.close()
        rooms[1].refute("presence_diff")
    for app in apps:
        with app.app_context():
            assert online.list("room:1") == {}


def test_a_presence_without_an_app() -> None:
    online = Phoenix().presence()
    for ask in (lambda: online.list("room:1"), lambda: online.track("room:1", "ada")):
        with pytest.raises(PhoenixError, match="call init_app first"):
            ask()


@pytest.mark.parametrize("late", [False, True])
def test_presences_of_nodes_are_one(make_app: Callable[..., Flask], late: bool) -> None:
    adapters: list[MemoryAdapter] = []
    apps = [make_app(), make_app()]
    nodes = [Phoenix(app, adapter=MemoryAdapter(adapters)) for app in apps]
    for phoenix in nodes:
        room(phoenix)
    with ExitStack() as stack:
        if late:
            for app in apps:
                stack.enter_context(Client(app))
        presences = [phoenix.presence() for phoenix in nodes]
        for phoenix, online in zip(nodes, presences, strict=True):
            crowd(phoenix, online)
        clients = [stack.enter_context(Client(app, "/crowd", {"user": app.name})) for app in apps]
        rooms = [client.join("room:1") for client in clients]
        for joined in rooms:
            names: set[str] = set()
            while names != {app.name for app in apps}:
                names |= set(joined.expect("presence_diff")["joins"])
        assert presences[0].list("room:1") == presences[1].list("room:1")
        clients[0].close()
        assert list(rooms[1].expect("presence_diff")["leaves"]) == [apps[0].name]


def test_a_presence_from_a_view(app: Flask, phoenix: Phoenix) -> None:
    online = phoenix.presence(Online)
    crowd(phoenix, online)

    @app.get("/online")
    def people() -> dict[str, Any]:
        return {"people": list(online.list("room:1")), "count": online.count("room:1")}

    with Client(app, "/crowd", {"user": "ada"}) as client:
        client.join("room:1")
        assert app.test_client().get("/online").json == {"people": ["ada"], "count": 1}
