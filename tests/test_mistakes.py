"""What newcomers get wrong, and what they are told: the table of docs/troubleshooting/mistakes.md, row by row."""

from __future__ import annotations

import errno
import importlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, abort, session
from flask.cli import ScriptInfo
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.exceptions import HTTPException

from flask_phoenix import Channel, InvalidOption, Phoenix, Refused, Reply, Socket, intercept, on
from flask_phoenix.app_state import state_of
from flask_phoenix.cli.run import warn_if_forgotten
from flask_phoenix.patterns import CONVERTERS
from flask_phoenix.runtime import watchdog
from flask_phoenix.runtime.watchdog import HOLD
from flask_phoenix.testing import Client
from tests.docs.pages import rows
from tests.support.loop import in_greenlet, turn
from tests.support.processes import wait_until

TABLE = [(mistake, says) for mistake, says, _ in rows("troubleshooting/mistakes.md", "mistake", "it says", "do")]

#: Makes a mistake, by the name that it has in the table.
MISTAKES: dict[str, Callable[[Stage], Any]] = {}


def mistake(name: str) -> Callable[[Callable[[Stage], Any]], Callable[[Stage], Any]]:
    def keep(function: Callable[[Stage], Any]) -> Callable[[Stage], Any]:
        MISTAKES[name.strip("`")] = function
        return function

    return keep


class User(DeclarativeBase):
    """Stands for the models of an app."""


class Author(User):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)


class RoomChannel(Channel):
    def join(self, payload: Any) -> Any:
        if payload.get("push"):
            self.push("hello", {})
        if payload.get("author"):
            self.assigns["author"] = Author(id=1)

    @on("list")
    def list_all(self, payload: Any) -> Any:
        return 1, 2

    @on("tags")
    def tags(self, payload: Any) -> Any:
        return {"room": {"name": "1", "tags": [object()]}}

    @on("state")
    def state(self, payload: Any) -> Any:
        return Reply({"a": 1})  # type: ignore[arg-type]

    @on("session")
    def read_session(self, payload: Any) -> Any:
        return {"name": session["name"]}

    @on("abort")
    def abort(self, payload: Any) -> Any:
        abort(403)

    @on("emit")
    def emit_elsewhere(self, payload: Any) -> Any:
        self.emit("news", {})  # type: ignore[attr-defined]

    @on("nothing")
    def push_nothing(self, payload: Any) -> Any:
        self.push(None, {})  # type: ignore[arg-type]

    @on("spawn")
    def spawn_nothing(self, payload: Any) -> Any:
        self.spawn(None)  # type: ignore[arg-type]

    @on("later")
    def tick_later(self, payload: Any) -> Any:
        self.send_after("tick", 1)  # type: ignore[arg-type]

    @on("say")
    def say(self, payload: Any) -> Any:
        self.push("said", payload["what"])

    @on("hold")
    def hold(self, payload: Any) -> Any:
        time.sleep(2 * HOLD)
        return {}


@pytest.fixture(autouse=True)
def told_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here they are told."""
    monkeypatch.setattr(watchdog, "HOLD", HOLD)


class Stage:
    """An app with a socket, and a client of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
        class UserSocket(Socket):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> Any:
                return False if "refuse" in params else None

        self.folder, self.monkeypatch, self.socket = folder, monkeypatch, UserSocket
        self.app = Flask("chat")
        self.app.testing, self.app.debug = True, debug
        self.phoenix = Phoenix(self.app)
        self.phoenix.socket("/socket", longpoll=True)(UserSocket)
        UserSocket.channel("room:*")(RoomChannel)

    def crash(self, event: str, **payload: Any) -> None:
        """Have a handler crash."""
        with Client(self.app) as client:
            joined = client.join("room:1")
            joined.push(event, payload)
            joined.assert_push("phx_error")

    def close(self) -> None:
        state_of(self.app).engine.stop()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Iterator[Stage]:
    stage = Stage(tmp_path, monkeypatch, "under debug" in request.node.name)
    yield stage
    stage.close()


@mistake("`init_app` is forgotten")
def _(stage: Stage) -> None:
    Phoenix().broadcast("room:1", "news", {})


@mistake("`Phoenix` is given a factory")
def _(stage: Stage) -> None:
    def create_app() -> Flask:
        return stage.app

    Phoenix(create_app)  # type: ignore[arg-type]


@mistake("`Client` of an app without `init_app`")
def _(stage: Stage) -> None:
    Client(Flask("chat"))


@mistake("`flask run` of an app without `init_app`")
def _(stage: Stage) -> None:
    (stage.folder / "forgetful.py").write_text(
        "from flask import Flask\nfrom flask_phoenix import Phoenix, Socket\n"
        "app = Flask(__name__)\nphoenix = Phoenix()\nphoenix.socket('/socket')(Socket)\n"
    )
    stage.monkeypatch.syspath_prepend(str(stage.folder))
    warn_if_forgotten(ScriptInfo("forgetful").load_app())
    stage.monkeypatch.delitem(sys.modules, "forgetful")


@mistake("no socket is mounted, or on another `Phoenix`")
def _(stage: Stage) -> None:
    app = Flask("chat")
    phoenix = Phoenix(app)
    phoenix.run(app)


@mistake("modules import each other in a circle")
def _(stage: Stage) -> None:
    (stage.folder / "circle.py").write_text("import circle_channels\nphoenix = None\n")
    (stage.folder / "circle_channels.py").write_text("from circle import phoenix\n")
    stage.monkeypatch.syspath_prepend(str(stage.folder))
    importlib.import_module("circle")


@mistake("`@phoenix.socket` without parentheses")
def _(stage: Stage) -> None:
    @stage.phoenix.socket  # type: ignore[arg-type]
    class UserSocket(Socket):
        pass


@mistake("`@phoenix.socket(...)` above a channel")
def _(stage: Stage) -> None:
    stage.phoenix.socket("/room")(RoomChannel)  # type: ignore[type-var]


@mistake("`@phoenix.socket(...)` above a function")
def _(stage: Stage) -> None:
    @stage.phoenix.socket("/room")  # type: ignore[type-var]
    def room() -> None:
        pass


@mistake("two sockets at one path")
def _(stage: Stage) -> None:
    stage.phoenix.socket("/socket")(Socket)


@mistake("`@UserSocket.channel` without parentheses")
def _(stage: Stage) -> None:
    stage.socket.channel(RoomChannel)  # type: ignore[arg-type]


@mistake("`@Socket.channel(...)`, on the base class")
def _(stage: Stage) -> None:
    Socket.channel("room:*")(RoomChannel)


@mistake("`@UserSocket.channel(...)` above a plain class")
def _(stage: Stage) -> None:
    stage.socket.channel("hall:*")(type("Hall", (), {}))


@mistake("a pattern that cannot be")
def _(stage: Stage) -> None:
    stage.socket.channel("*:lobby")(RoomChannel)


@mistake("`UserSocket.channel(pattern, channel)`")
def _(stage: Stage) -> None:
    stage.socket.channel("hall:*", RoomChannel)  # type: ignore[arg-type]


@mistake("a variable in braces")
def _(stage: Stage) -> None:
    stage.socket.channel("hall:{hall_id}")(RoomChannel)


@mistake("a pattern below one that takes all its topics")
def _(stage: Stage) -> None:
    stage.socket.channel("room:lobby")(RoomChannel)


@mistake("a variable of an unknown kind")
def _(stage: Stage) -> None:
    stage.socket.channel("room:<number:id>")(RoomChannel)


@mistake("one pattern twice")
def _(stage: Stage) -> None:
    stage.socket.channel("room:*")(type("HallChannel", (RoomChannel,), {}))


@mistake("no `join`")
def _(stage: Stage) -> None:
    stage.socket.channel("hall:*")(type("HallChannel", (Channel,), {}))


@mistake("a `join` that does not take the variables of its pattern")
def _(stage: Stage) -> None:
    stage.socket.channel("hall:<hall_id>")(RoomChannel)


@mistake("`async def`")
def _(stage: Stage) -> None:
    class HallChannel(Channel):
        async def join(self, payload: Any) -> Any:  # type: ignore[override]
            return {}


@mistake("a handler with a `yield`")
def _(stage: Stage) -> None:
    class HallChannel(Channel):
        @on("count")
        def count(self, payload: Any) -> Any:
            yield {}


@mistake("a method that takes other arguments")
def _(stage: Stage) -> None:
    class HallChannel(Channel):
        @on("new_msg")  # type: ignore[type-var]
        def new_msg(self, event: str, payload: Any) -> Any:
            return {}


@mistake("`connect` without `info`")
def _(stage: Stage) -> None:
    class HallSocket(Socket):
        def connect(self, params: Any) -> None:  # type: ignore[override]
            pass


@mistake("an `__init__` of one's own")
def _(stage: Stage) -> None:
    class HallChannel(RoomChannel):
        def __init__(self) -> None:
            self.said: list[str] = []


@mistake("`@on` without an event")
def _(stage: Stage) -> None:
    on(lambda self, payload: None)  # type: ignore[arg-type]


@mistake("`@on(...)` above a class")
def _(stage: Stage) -> None:
    on("new_msg")(RoomChannel)  # type: ignore[type-var]


@mistake("`@on(...)` above a function that is no method")
def _(stage: Stage) -> None:
    @on("new_msg")  # type: ignore[type-var]
    def new_msg(payload: Any) -> None:
        pass


@mistake("`@on(...)` in a socket's class")
def _(stage: Stage) -> None:
    class HallSocket(Socket):
        @on("new_msg")
        def new_msg(self, payload: Any) -> None:
            pass


@mistake("`handle_out` without `@intercept`")
def _(stage: Stage) -> None:
    @stage.socket.channel("hall:*")
    class HallChannel(RoomChannel):
        def handle_out(self, event: str, payload: Any) -> None:
            pass


@mistake("`@on` with an event of the protocol")
def _(stage: Stage) -> None:
    on("phx_join")


@mistake("two methods for one event")
def _(stage: Stage) -> None:
    class HallChannel(RoomChannel):
        @on("new_msg")
        def new_msg(self, payload: Any) -> None:
            pass

        @on("new_msg")
        def new_message(self, payload: Any) -> None:
            pass


@mistake("a method with a name of `Channel`'s own")
def _(stage: Stage) -> None:
    type("HallChannel", (RoomChannel,), {"update": on("update")(lambda self, payload: None)})


@mistake("a misspelt key of the app")
def _(stage: Stage) -> None:
    app = Flask("chat")
    app.config["PHOENIX_TIMEOT"] = 30
    Phoenix(app)


@mistake("a key of the app whose beginning is misspelt")
def _(stage: Stage) -> None:
    app = Flask("chat")
    app.config["PHEONIX_TIMEOUT"] = 30
    Phoenix(app)


@mistake("a misspelt option of a mount")
def _(stage: Stage) -> None:
    stage.phoenix.socket("/other", longpol=True)(Socket)  # type: ignore[arg-type]


@mistake("`connect` returns False")
def _(stage: Stage) -> None:
    with pytest.raises(HTTPException):
        Client(stage.app, params={"refuse": "yes"})


@mistake("`push` in `join`")
def _(stage: Stage) -> None:
    with pytest.raises(Refused, match="join crashed"), Client(stage.app) as client:
        client.join("room:1", {"push": True})


@mistake("a handler returns what is no reply")
def _(stage: Stage) -> None:
    stage.crash("list")


@mistake("an event without a method")
def _(stage: Stage) -> None:
    stage.crash("new_msg")


@mistake("a misspelt event")
def _(stage: Stage) -> None:
    stage.crash("lst")


@mistake("a reply that JSON cannot hold")
def _(stage: Stage) -> None:
    stage.crash("tags")


@mistake("a `Reply` whose status is no string")
def _(stage: Stage) -> None:
    stage.crash("state")


@mistake("`session` or `request` in a channel")
def _(stage: Stage) -> None:
    stage.crash("session")


@mistake("`abort` in a channel")
def _(stage: Stage) -> None:
    stage.crash("abort")


@mistake("a name that channels have elsewhere, such as `emit`")
def _(stage: Stage) -> None:
    stage.crash("emit")


@mistake("`push` of an event that is no string")
def _(stage: Stage) -> None:
    stage.crash("nothing")


@mistake("`spawn` of what a function returned")
def _(stage: Stage) -> None:
    stage.crash("spawn")


@mistake("the arguments of `send_after` in the other order")
def _(stage: Stage) -> None:
    stage.crash("later")


@mistake("a push of what is no dict")
def _(stage: Stage) -> None:
    stage.crash("say", what="hello")


@mistake("a broadcast of a string")
def _(stage: Stage) -> None:
    stage.phoenix.broadcast("room:1", "news", "hello")


@mistake("a client joins a topic that no pattern fits")
def _(stage: Stage) -> None:
    with pytest.raises(Refused, match="unmatched topic"), Client(stage.app) as client:
        client.join("rooms:1")


@mistake("a client speaks on a topic that it has not joined")
def _(stage: Stage) -> None:
    with Client(stage.app) as client:
        client.reply(client.push("room:1", "list", {}))


@mistake("a socket without channels")
def _(stage: Stage) -> None:
    stage.socket.channels = ()
    with pytest.raises(Refused, match="unmatched topic"), Client(stage.app) as client:
        client.join("room:1")


@mistake("a broadcast to a misspelt topic, under debug")
def _(stage: Stage) -> None:
    stage.phoenix.broadcast("rooms:1", "news", {})


@mistake("topic and event in the other order, under debug")
def _(stage: Stage) -> None:
    stage.phoenix.broadcast("news", "room:1", {})


@mistake("a broadcast to topics that nobody has ever joined, under debug")
def _(stage: Stage) -> None:
    stage.phoenix.broadcast("room:1", "news", {})
    with Client(stage.app) as client:
        client.join("room:2")


@mistake("a loop that is started at import, under debug")
def _(stage: Stage) -> None:
    in_greenlet(stage.phoenix.broadcast, "room:1", "tick", {})


@mistake("a handler that holds the event loop, under debug")
def _(stage: Stage) -> None:
    with Client(stage.app) as client:
        client.join("room:1").call("hold")


@mistake("a model of SQLAlchemy in `assigns`, under debug")
def _(stage: Stage) -> None:
    with Client(stage.app) as client:
        client.join("room:1", {"author": True})


@mistake("a client is given the path with the transport, under debug")
def _(stage: Stage) -> None:
    stage.app.test_client().get("/socket/websocket/websocket", headers={"Upgrade": "websocket"})


@mistake("a client polls where there is no long polling, under debug")
def _(stage: Stage) -> None:
    stage.phoenix.socket("/chat")(type("ChatSocket", (Socket,), {}))
    stage.app.test_client().get("/chat/longpoll?vsn=2.0.0")


@mistake("a client has another path than the mount, under debug")
def _(stage: Stage) -> None:
    stage.app.test_client().get("/sockets/websocket", headers={"Upgrade": "websocket"})


@mistake("long polling without a `SECRET_KEY`")
def _(stage: Stage) -> None:
    stage.app.test_client().get("/socket/longpoll?vsn=2.0.0")


@mistake("a process that gevent has not patched")
def _(stage: Stage) -> None:
    stage.phoenix.run(stage.app)


@mistake("a server without an event loop")
def _(stage: Stage) -> None:
    stage.app.test_client().get("/socket/websocket", environ_base={"SERVER_SOFTWARE": "some/1.0"})


def test_each_row_has_its_mistake() -> None:
    assert [name for name, _ in TABLE] == list(MISTAKES)


@pytest.mark.parametrize(("name", "says"), TABLE, ids=[name for name, _ in TABLE])
def test_what_a_mistake_says(
    name: str, says: str, stage: Stage, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = re.compile(".*".join(map(re.escape, says.split("..."))), re.DOTALL)
    raised = ""
    try:
        MISTAKES[name](stage)
    except Exception as error:
        raised = str(error)
    printed = capsys.readouterr().err
    assert wait_until(lambda: bool(expected.search(raised + printed + caplog.text)), turn), (
        raised + printed + caplog.text
    )


@pytest.mark.parametrize(
    ("pattern", "topic", "variables"),
    [
        ("room:<room_id>", "room:42", {"room_id": "42"}),
        ("room:<room_id>", "room:a:b", None),
        ("room:<room_id>", "room:", None),
        ("room:<int:room_id>", "room:42", {"room_id": 42}),
        ("room:<int:room_id>", "room:x", None),
        ("shop:<shop>:item:<int:item>", "shop:a/b:item:7", {"shop": "a/b", "item": 7}),
        ("price:<float:price>", "price:1.5", {"price": 1.5}),
        ("file:<path:name>", "file:a:b", {"name": "a:b"}),
        ("shop:<a>-:-<b>", "shop:1-:-2", {"a": "1", "b": "2"}),
        ("<kind>:<id>", "a.b:1\n", {"kind": "a.b", "id": "1\n"}),
        ("room.<room_id>", "roomx1", None),
    ],
)
def test_variables_of_a_pattern(pattern: str, topic: str, variables: dict[str, Any] | None) -> None:
    class Some(Socket):
        pass

    class Any_(Channel):
        def join(self, payload: Any, **variables: Any) -> Any:
            return {name: str(value) for name, value in variables.items()}

    Some.channel(pattern)(Any_)
    route = Some.match(topic)
    assert (route.variables(topic) if route is not None else None) == variables
    app = Flask("chat")
    Phoenix(app).socket("/socket")(Some)
    with Client(app) as client:
        if variables is None:
            with pytest.raises(Refused, match="unmatched topic"):
                client.join(topic)
        else:
            assert client.join(topic).response == {name: str(value) for name, value in variables.items()}
    state_of(app).engine.stop()


def test_variables_in_a_channel() -> None:
    class Some(Socket):
        pass

    @Some.channel("lobby")
    @Some.channel("room:<uuid:room_id>:*")
    class Room(Channel):
        def join(self, payload: Any, room_id: Any = None) -> Any:
            return {"room": str(room_id), "rest": self.subtopic, "kept": [str(value) for value in self.variables]}

    app = Flask("chat")
    Phoenix(app).socket("/socket")(Some)
    room = "01234567-89ab-cdef-0123-456789ABCDEF"
    with Client(app) as client:
        said = client.join(f"room:{room}:a:b").response
        assert said == {"room": room.lower(), "rest": "a:b", "kept": ["room_id"]}
        assert client.join("lobby").response == {"room": "None", "rest": "", "kept": []}
    state_of(app).engine.stop()


@pytest.mark.parametrize(
    "pattern",
    ["<a>:<a>", "<payload>", "<", "r:<>", "<int:>", "<int:a", "a*<b>", "<a><b>", "<a>-<b>", "<path:a>:b", "<path:a>*"],
)
def test_variables_that_cannot_be(pattern: str) -> None:
    with pytest.raises(InvalidOption):
        type("Some", (Socket,), {}).channel(pattern)  # type: ignore[attr-defined]


def test_kinds_of_variables() -> None:
    assert [kind for kind, *_ in rows("howto/channels.md", "variable", "stands for", "value")] == list(CONVERTERS)


def test_hints_are_given_once_and_only_under_debug(caplog: pytest.LogCaptureFixture) -> None:
    for debug, times in ((False, 0), (True, 1)):
        app = Flask("chat")
        app.testing, app.debug = True, debug
        phoenix = Phoenix(app)
        for _ in range(3):
            phoenix.broadcast("nowhere", "news", {})
        assert caplog.text.count("a broadcast on 'nowhere'") == times


def test_a_hold_that_does_not_end_is_told_meanwhile(
    stage: Stage, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LONG_HOLD", 1.2 * HOLD)
    told: list[str] = []

    class Endless(RoomChannel):
        @on("hold")
        def hold(self, payload: Any) -> Any:
            assert wait_until(lambda: bool("".join(told)), lambda: told.append(capfd.readouterr().err))
            return {}

    app = Flask("chat")
    app.debug = True
    Phoenix(app).socket("/socket")(stage.socket)
    stage.socket.channel("endless")(Endless)
    with Client(app) as client:
        client.join("endless").call("hold")
    state_of(app).engine.stop()
    assert "the event loop is held for more than" in "".join(told)
    assert ", in hold" in "".join(told)


def test_a_hold_is_told_also_after_one_that_could_not_be_written(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LONG_HOLD", 1.2 * HOLD)
    told: list[bytes] = []

    def write(descriptor: int, line: bytes) -> None:
        told.append(line)
        if len(told) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watchdog, "os", SimpleNamespace(write=write))

    class Endless(RoomChannel):
        @on("hold")
        def hold(self, payload: Any) -> Any:
            return {"told": wait_until(lambda: len(told) == payload["n"], lambda: time.sleep(0.01))}

    app = Flask("chat")
    app.debug = True
    Phoenix(app).socket("/socket")(stage.socket)
    stage.socket.channel("endless")(Endless)
    with Client(app) as client:
        channel = client.join("endless")
        assert [channel.call("hold", {"n": n}).response["told"] for n in (1, 2)] == [True, True]
    state_of(app).engine.stop()


def test_interception_twice_is_a_mistake_too() -> None:
    body = {name: intercept("news")(lambda self, payload: None) for name in ("one", "two")}
    with pytest.raises(InvalidOption, match=r"take @intercept\('news'\) away"):
        type("Mine", (Channel,), body)


def test_a_key_that_resembles_none_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("chat")
    app.config["PHOENIX_ARIZONA"] = 1
    Phoenix(app)
    assert "the app's configuration has PHOENIX_ARIZONA, which nothing reads" in caplog.text
