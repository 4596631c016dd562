"""``flask phoenix routes``, ``gen``, ``new`` and ``client``: what they show and write, and that it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from flask_phoenix import Channel, History, Phoenix, Socket, intercept, on
from flask_phoenix.cli.commands import phoenix as commands
from flask_phoenix.cli.files import CLIENT
from tests.support.processes import DEADLINE, HOST, ROOT, START, Server, Servers
from tests.support.terminal import Terminal
from tests.support.wire import certify

VENDOR = ROOT / "example_app" / "node_modules" / "phoenix"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}


def command(*arguments: str, app: Flask | None = None, given: str | None = None) -> Result:
    """Run ``flask phoenix``."""
    runner = CliRunner() if app is None else app.test_cli_runner()
    result: Result = runner.invoke(commands, arguments, input=given)
    return result


def run(folder: Path, *words: str) -> str:
    """Run Python in a folder, and return what it writes."""
    done = subprocess.run(
        (sys.executable, *words), cwd=folder, env=ENVIRONMENT, timeout=START, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Looking around


class UserSocket(Socket):
    pass


class Base(Channel):
    def join(self, payload: Any, **variables: Any) -> None:
        return None


@UserSocket.channel("room:lobby")
@UserSocket.channel("room:*")
class RoomChannel(Base):
    history = History(size=50, ttl=60)
    conflate = {"moved": lambda payload: payload["id"]}  # noqa: RUF012

    @on("new_msg", "status")
    def said(self, payload: Any) -> None:
        pass

    @intercept("news")
    def news(self, payload: Any) -> None:
        pass

    def handle_in(self, event: str, payload: Any) -> None:
        pass


@UserSocket.channel("shop:<int:shop>")
class ShopChannel(Base):
    pass


ROUTES = """\
/socket  tests.test_commands.UserSocket
  websocket  /socket/websocket  timeout=5
  longpoll   /socket/longpoll  timeout=5 window=2.0
  room:*           tests.test_commands.RoomChannel
                     takes      new_msg, status, and any other
                     intercepts news
                     conflates  moved
                     keeps      50 messages for 60 s
  room:lobby       tests.test_commands.RoomChannel  (never: 'room:*' comes before it, and fits all its topics)
                     takes      new_msg, status, and any other
                     intercepts news
                     conflates  moved
                     keeps      50 messages for 60 s
  shop:<int:shop>  tests.test_commands.ShopChannel

/bare  tests.test_commands.Bare
  websocket  /bare/websocket  check_origin=['//example.com']
  no channels: write @Bare.channel('room:*') above one, in a module that the app imports

"""


class Bare(Socket):
    pass


def test_routes() -> None:
    app = Flask(__name__)
    phoenix = Phoenix(app)
    phoenix.socket("/socket", timeout=5, longpoll={"window": 2.0})(UserSocket)
    phoenix.socket("/bare", check_origin=["//example.com"])(Bare)
    assert command("routes", app=app).stdout == ROUTES


def test_routes_of_an_app_that_has_none() -> None:
    app = Flask(__name__)
    forgotten = command("routes", app=app)
    assert (forgotten.exit_code, forgotten.stderr.partition(":")[0]) == (1, "Error")
    assert "has no phoenix: call phoenix.init_app(app)" in forgotten.stderr
    Phoenix(app)
    assert command("routes", app=app).stdout.startswith("no socket is mounted: write @phoenix.socket('/socket')")


# What is written


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write everything that can be written, in one app."""
    folder = tmp_path_factory.mktemp("new") / "my-chat"
    assert command("new", str(folder)).exit_code == 0
    app = Flask(__name__, root_path=str(folder))
    package = folder / "shop" / "live"
    package.mkdir(parents=True)
    (folder / "tests").mkdir()
    for each in (package, package.parent):
        (each / "__init__.py").write_text('"""A package."""\n')
    for kind, name in (("socket", "User"), ("channel", "ChatRoom"), ("channel", "GameChannel"), ("presence", "Online")):
        assert command("gen", kind, name, app=app).exit_code == 0
    written = command("gen", "channel", "Cart", "--to", str(package), app=app)
    assert "from shop.live.cart_channel import CartChannel\n\n    UserSocket.channel('cart:*')" in written.stdout
    return folder


def test_what_is_written(chat: Path) -> None:
    written = {str(path.relative_to(chat)) for path in chat.rglob("*") if path.is_file()}
    assert written >= {
        "app.py",
        "test_app.py",
        "templates/chat.html",
        "static/chat.mjs",
        "static/phoenix.mjs",
        "README.md",
        "user_socket.py",
        "static/user_socket.mjs",
        "chat_room_channel.py",
        "game_channel.py",
        "online_presence.py",
        "shop/live/cart_channel.py",
        "tests/test_cart_channel.py",
        "tests/test_user_socket.py",
    }
    assert "class GameChannel(Channel)" in (chat / "game_channel.py").read_text()
    assert not [path for path in chat.rglob("*.*") if path != chat / "static/phoenix.mjs" and "__" in _code(path)]


def _code(path: Path) -> str:
    return path.read_text("utf-8").replace("__future__", "").replace("__name__", "")


def test_what_is_written_passes_its_tests(chat: Path) -> None:
    said = run(chat, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", ".")
    assert said.splitlines()[-1].startswith("16 passed"), said


def test_what_is_written_passes_style_and_types(chat: Path) -> None:
    for words in (
        ("check", "--select", "B,C4,D,E,F,I,PT,RUF,SIM,UP,W", "--ignore", "D"),
        ("check",),
        ("format", "--check"),
    ):
        run(chat, "-m", "ruff", *words, "--isolated", "--no-cache", ".")
    run(chat, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(ROOT / ".mypy_cache"), ".")
    (chat / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT)]}))
    run(chat, "-m", "pyright", "--project", str(chat), "--pythonpath", sys.executable)


@pytest.mark.parametrize(
    ("folders", "to", "module", "test"),
    [
        (["shop/__init__.py"], "shop/live/rooms", "shop.live.rooms.cart_channel", "test_cart_channel.py"),
        (["src/shop/__init__.py", "tests/x"], "src/shop", "shop.cart_channel", "tests/test_cart_channel.py"),
        ([], "parts", "parts.cart_channel", "test_cart_channel.py"),
        ([], ".", "cart_channel", "test_cart_channel.py"),
        ([], "my-parts", "cart_channel", "my-parts/test_cart_channel.py"),
    ],
)
def test_where_it_is_imported_from(
    folders: list[str], to: str, module: str, test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--to`` no app is needed: it may import already what is to be written."""
    for each in folders:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).touch()
    monkeypatch.chdir(tmp_path)
    written = command("gen", "channel", "Cart", "--to", to)
    assert written.exit_code == 0, written.output
    assert f"from {module} import CartChannel" in written.stdout
    assert f"from {module} import CartChannel" in (tmp_path / test).read_text()
    assert f"python -m pytest {test}" in written.stdout


def test_without_an_app_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLASK_APP", raising=False)
    result = command("gen", "channel", "Cart")
    assert result.exit_code == 2
    assert "flask phoenix new" in result.stderr
    assert "--to ." in result.stderr


def test_a_new_app_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes before it there, a repository or a virtual environment, does no harm."""
    folder = tmp_path / "chat"
    (folder / "venv").mkdir(parents=True)
    (folder / "venv" / "pyvenv.cfg").touch()
    (folder / ".git").mkdir()
    monkeypatch.chdir(folder)
    result = command("new", ".")
    assert (result.exit_code, "cd " in result.stdout) == (0, False), result.output
    assert "<h1>chat</h1>" in (folder / "templates" / "chat.html").read_text()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path / "full")
    result = command("new", ".")
    assert (result.exit_code, "notes.txt" in result.stderr) == (1, True)
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("name", "taken"), [("chat-room", "ChatRoom"), ("chat_room", "ChatRoom"), ("room", "Room")])
def test_a_name_that_would_do_is_named(name: str, taken: str, tmp_path: Path) -> None:
    app = Flask(__name__, root_path=str(tmp_path))
    assert f"take {taken}" in command("gen", "channel", name, app=app).stderr


@pytest.mark.parametrize("name", ["room", "", "Room-1", "../Room", "R\u00f6om", "1Room", "Room.Two"])
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    app = Flask(__name__, root_path=str(tmp_path))
    result = command("gen", "channel", "--", name, app=app)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "is no name of a class" in result.stderr


def test_more_names_that_are_refused(tmp_path: Path) -> None:
    app = Flask(__name__, root_path=str(tmp_path))
    for kind, name in (("presence", "None"), ("presence", "Presence"), ("presence", "Channel"), ("view", "Room")):
        assert command("gen", kind, name, app=app).exit_code == 2
    for name in ("1chat", "a b", "a.py"):
        assert command("new", str(tmp_path / name)).exit_code == 2
    assert not any(tmp_path.iterdir())


def test_nothing_is_written_over(chat: Path) -> None:
    app = Flask(__name__, root_path=str(chat))
    before = (chat / "user_socket.py").read_text()
    for arguments in (("gen", "socket", "User"), ("new", str(chat))):
        result = command(*arguments, app=app)
        assert (result.exit_code, "is there already, and stays as it is" in result.stderr) == (1, True), arguments
    (chat / "tests" / "test_other_channel.py").write_text("")
    assert command("gen", "channel", "Other", app=app).exit_code == 1
    assert not (chat / "other_channel.py").exists()
    assert (chat / "user_socket.py").read_text() == before
    (chat / "tests" / "test_other_channel.py").unlink()


def test_the_client_for_pages_is_that_of_npm() -> None:
    published = (VENDOR / "priv" / "static" / "phoenix.mjs").read_text("utf-8")
    version = json.loads((VENDOR / "package.json").read_text("utf-8"))["version"]
    ours = CLIENT.read_text("utf-8")
    assert ours.endswith("\n\n" + published.rpartition("//# sourceMappingURL")[0])
    assert f"npm's phoenix {version}," in ours
    assert "Copyright (c) 2014 Chris McCord" in ours


# A client in the shell


@pytest.fixture(scope="module")
def served(chat: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    servers = Servers(tmp_path_factory.mktemp("served"))
    (chat / "polled.py").write_text(POLLED)
    words = (sys.executable, "-m", "flask", "--app", "polled", "run", "--port", "{port}")
    yield servers.start(*words, PYTHONPATH=os.pathsep.join([str(ROOT), str(chat)]))
    servers.stop()


POLLED = """
from app import RoomChannel, UserSocket, create_app, phoenix
from flask_phoenix import on


class PolledSocket(UserSocket):
    def connect(self, params, info):
        super().connect(params, info)
        self.assigns["said"] = f"{info['auth_token']} {dict(info['x_headers']).get('x-mood')}"


@PolledSocket.channel("other:*")
class OtherChannel(RoomChannel):
    def join(self, payload):
        return {"said": self.assigns["said"], "payload": payload}

    @on("size")
    def size(self, payload):
        return bytes(reversed(payload)) if self.transport == "websocket" else {"size": len(payload)}

    @on("boom")
    def boom(self, payload):
        raise RuntimeError("boom")

    @on("silent")
    def silent(self, payload):
        pass

    @on("ids")
    def ids(self, payload):
        return {"ids": self.params["ids"]}


phoenix.socket("/polled", longpoll={"window": 0.5}, auth_token=True, connect_info=["x_headers"])(PolledSocket)
app = create_app()
app.secret_key = "a secret"
"""


def talk(
    served: Server, *arguments: str, given: str | None = None, path: str = "/socket"
) -> tuple[int, list[Any], str]:
    """Run the client; return its status, the messages that came, and what it complains of."""
    url = f"{HOST}:{served.port}{path}"
    result = command("client", url, "--params", "name=Ada", *arguments, given=given)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_a_new_app_is_served_and_spoken_to(served: Server) -> None:
    for path, part in (("/", "static/chat.mjs"), ("/static/phoenix.mjs", "serializer_default as Serializer")):
        with urlopen(served.url(path), timeout=DEADLINE) as response:
            assert part in response.read().decode()
    status, messages, complaint = talk(
        served, "--join", "room:lobby", "--call", 'room:lobby new_msg {"body": "Hello"}', "--for", "0.01"
    )
    assert (status, complaint) == (0, "")
    joined, *between, said, answered = messages
    assert joined == {
        "join_ref": "1",
        "ref": "1",
        "topic": "room:lobby",
        "event": "phx_reply",
        "payload": {"status": "ok", "response": {"name": "Ada"}},
    }
    assert {message["event"] for message in between} == {"presence_state", "presence_diff"}
    assert (said["event"], said["payload"]) == ("new_msg", {"from": "Ada", "body": "Hello"})
    assert (answered["ref"], answered["payload"]["status"]) == ("2", "ok")


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_typed_lines(served: Server, transport: str, vsn: str) -> None:
    lines = (
        'join other:1 {"a": 1}\nwait presence_diff\n\ncall other:1 new_msg {"body": "Hi"}\nleave other:1\nquit\nnever'
    )
    options = ("--transport", transport, "--vsn", vsn, "--auth-token", "t\u00f6ken=", "--header", "X-Mood: good")
    status, messages, complaint = talk(served, *options, given=lines, path="/polled")
    assert (status, complaint) == (0, "")
    assert messages[0]["payload"]["response"] == {"said": "t\u00f6ken= good", "payload": {"a": 1}}
    replies = [message["ref"] for message in messages if message["event"] == "phx_reply"]
    assert replies == ["1", "2", "3"]
    assert [message["payload"]["body"] for message in messages if message["event"] == "new_msg"] == ["Hi"]


def test_what_came_with_a_reply_was_waited_for(served: Server) -> None:
    """A broadcast comes before the reply to what caused it; a script that waits for it afterwards has it already."""
    lines = 'join room:lobby\nwait presence_state\ncall room:lobby new_msg {"body": "Hi"}\nwait new_msg\nwait new_msg'
    status, _, complaint = talk(served, "--within", "0.5", given=lines)
    assert (status, complaint) == (3, "no new_msg has come in 0.5 s\n")


def test_help_is_no_failure(served: Server) -> None:
    status, messages, said = talk(served, given="help\n")
    assert (status, messages) == (0, [])
    assert said.startswith("join TOPIC [PAYLOAD]")


def test_a_parameter_that_is_a_list(served: Server) -> None:
    ids = ("--params", "ids[]=1", "--params", "ids[]=2")
    status, messages, _ = talk(served, *ids, "--join", "other:1", "--call", "other:1 ids", path="/polled")
    assert (status, messages[-1]["payload"]["response"]) == (0, {"ids": ["1", "2"]})


@pytest.mark.parametrize("end", ["\x03", "\x04", "quit\r"])
def test_typed_at_a_terminal(served: Server, end: str) -> None:
    """With the keys that a shell has: up brings the line before; Ctrl-C and Ctrl-D end, and leave the terminal sane."""
    terminal = Terminal(
        sys.executable, "-m", "flask", "phoenix", "client", f"{HOST}:{served.port}/socket", "--params", "name=Ada"
    )
    try:
        usual = terminal.modes()
        terminal.type("join room:lobby\r", "presence_state")
        terminal.type('call room:lobby new_msg {"body": "one"}\r', '"body": "one"}}')
        terminal.type('\x1b[A\x7f\x7f\x7f\x7f\x7ftwo"}\r', '"body": "two"}}')
        terminal.type(end)
        assert terminal.ended() == (130 if end == "\x03" else 0)
        assert terminal.modes() == usual
    finally:
        terminal.close()


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_a_certificate_that_nobody_knows(transport: str, chat: Path, served: Server, servers: Servers) -> None:
    keys = certify(chat)
    words = (
        sys.executable,
        "-m",
        "flask",
        "--app",
        "polled",
        "run",
        "--port",
        "{port}",
        "--cert",
        keys[0],
        "--key",
        keys[1],
    )
    server = servers.start(*words, PYTHONPATH=os.pathsep.join([str(ROOT), str(chat)]))
    url = f"https://{HOST}:{server.port}/polled"
    options = ("--transport", transport, "--params", "name=Ada", "--join", "other:1", "--for", "0.01")
    refused = command("client", url, *options)
    assert (refused.exit_code, refused.stderr.endswith("; --insecure takes any certificate\n")) == (1, True)
    assert command("client", url, *options, "--insecure").exit_code == 0


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_bytes_of_a_file(served: Server, transport: str, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"\x00\x01\xff")
    options = ("--transport", transport, "--join", "other:1", "--call", f"other:1 size @{tmp_path / 'blob'}")
    status, messages, _ = talk(served, *options, path="/polled")
    response = {"base64": "/wEA"} if transport == "websocket" else {"size": 3}
    assert (status, messages[-1]["payload"]) == (0, {"status": "ok", "response": response})


def test_exit_statuses(served: Server) -> None:
    refused = talk(served, "--join", "room:attic", "--for", "0.01")
    assert (refused[0], refused[1][0]["payload"]["response"]) == (3, {"reason": "there is no such room"})
    unanswered = talk(served, "--join", "other:1", "--call", "other:1 boom", "--within", "0.3", path="/polled")
    assert (unanswered[0], unanswered[1][-1]["event"]) == (3, "phx_error")
    assert unanswered[2] == "other:1 has ended (phx_error): no reply comes to 2\n"
    silent = talk(served, "--join", "other:1", "--call", "other:1 silent", "--within", "0.3", path="/polled")
    assert (silent[0], silent[2]) == (3, "no reply has come to 2 in 0.3 s\n")
    for transport, way in (("websocket", "HTTP 403"), ("longpoll", "status 403")):
        forbidden = talk(served, "--params", "name=", "--transport", transport, path="/polled")
        assert (forbidden[0], forbidden[1]) == (1, [])
        assert forbidden[2].endswith(f" refuses: {way}; the log of the server says why\n")
    assert talk(served, "--transport", "longpoll")[2].endswith("; flask phoenix routes shows what is mounted\n")
    gone = command("client", f"{HOST}:1/socket")
    assert (gone.exit_code, gone.stderr.startswith(f"Error: cannot connect to ws://{HOST}:1/socket/websocket")) == (
        1,
        True,
    )


@pytest.mark.parametrize(
    "line", ["shout", "join", "push room:lobby", 'call room:lobby new_msg {"a"', "wait", "join a @/no"]
)
def test_lines_that_say_nothing(served: Server, line: str) -> None:
    status, messages, complaint = talk(served, given=f"{line}\njoin room:lobby\n")
    assert (status, messages[0]["payload"]["status"]) == (3, "ok")
    assert complaint
    assert talk(served, "--params", "nothing")[0] == 2
