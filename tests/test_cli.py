"""``flask run``: which server it starts; ``flask phoenix``: who hears it, and what it says when it fails.

The whole of ``flask run``, on a real port, is in test_servers_real.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.cli import FlaskGroup, run_command

from flask_phoenix import Broadcaster, Channel, Phoenix, Socket
from flask_phoenix.cli.commands import phoenix
from flask_phoenix.cli.run import run, tls_options
from flask_phoenix.testing import Client
from tests.support.http import URL, connect, get, open_websocket
from tests.support.loop import in_thread
from tests.support.processes import DEADLINE, HOST, ROOT, START, Server, Servers, wait_until

PLAIN_APP = """
from flask import Flask

app = Flask(__name__)


@app.get("/")
def home():
    return "plain"


@app.get("/patched")
def patched():
    from gevent.monkey import is_module_patched

    return {"socket": is_module_patched("socket")}
"""

PHOENIX_LINES = """
from flask_phoenix import Phoenix, Socket

Phoenix(app).socket("/socket", longpoll=True)(Socket)
app.secret_key = "a secret for tests"
"""
MOUNTED_LINES = """
from werkzeug.middleware.dispatcher import DispatcherMiddleware

inner, app = app, Flask("outer")
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/inner": inner})
"""


def test_it_stands_in_for_flasks_own() -> None:
    (entry,) = entry_points(group="flask.commands", name="run")
    assert entry.load() is run
    assert FlaskGroup().get_command(None, "run") is run  # type: ignore[arg-type]
    assert (run.name, run.params, run.help) == ("run", run_command.params, run_command.help)


def answer(port: int, path: str = "/") -> tuple[int, str | None, str]:
    """Return the status, the server's name and the text of an answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.headers["Server"], response.read().decode()
    finally:
        connection.close()


def start(servers: Servers, folder: Path, text: str, *options: str) -> Server:
    """Start ``flask run`` for an app that is written to a file."""
    (folder / "some_app.py").write_text(text)
    command = (sys.executable, "-m", "flask", "--app", "some_app", "run", *options, "--port", "{port}")
    return servers.start(*command, PYTHONPATH=str(folder))


@pytest.mark.parametrize("options", [(), ("--debug",)])
def test_an_app_without_sockets_is_left_to_flask_unpatched(
    servers: Servers, tmp_path: Path, options: tuple[str, ...]
) -> None:
    server = start(servers, tmp_path, PLAIN_APP, *options)
    status, software, text = answer(server.port, "/patched")
    assert (status, json.loads(text)) == (200, {"socket": False})
    assert str(software).startswith("Werkzeug")


@pytest.mark.parametrize("options", [(), ("--debug",)])
@pytest.mark.parametrize("lines", [PHOENIX_LINES, PHOENIX_LINES + MOUNTED_LINES], ids=["alone", "mounted"])
def test_an_app_with_sockets_is_served_on_gevent(
    servers: Servers, tmp_path: Path, lines: str, options: tuple[str, ...]
) -> None:
    server = start(servers, tmp_path, PLAIN_APP + lines, *options)
    path = "/inner" if lines != PHOENIX_LINES else ""
    status, software, text = answer(server.port, f"{path}/patched")
    assert (status, json.loads(text), software) == (200, {"socket": True}, None)
    with open_websocket(server.port, f"{path}{URL}").sock:
        pass
    # Its lines are those of Flask's own command.
    server.wait_for_log(f'] "GET {path}/patched HTTP/1.1" 200 -')
    assert re.search(r'^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} [\d:]{8}\] "GET ', server.logs(), re.MULTILINE)
    with connect(server.port) as raw:
        raw.sendall(get("/\x1b[31m", {}))
        server.wait_for_log("GET /\\x1b[31m HTTP/1.1")


ASYNC_LINES = """
import asyncio

gate = []


@app.get("/wait")
async def wait():
    print("somebody waits", flush=True)
    while not gate:
        await asyncio.sleep(0.01)
    return "waited"


@app.get("/open")
def open_gate():
    gate.append(True)
    return "open"
"""


def test_async_views_run_beside_sockets_one_at_a_time(servers: Servers, tmp_path: Path) -> None:
    server = start(servers, tmp_path, PLAIN_APP + PHOENIX_LINES + ASYNC_LINES)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(answer, server.port, "/wait")
        server.wait_for_log("somebody waits")
        assert answer(server.port, "/wait")[0] == 500
        server.wait_for_log("RuntimeError")
        with open_websocket(server.port).sock:  # meanwhile
            assert answer(server.port, "/open")[2] == "open"
        assert waiting.result()[::2] == (200, "waited")


LISTENING_LINES = """
import os

app.extensions["phoenix"].subscribe("room:1", lambda broadcast: print("heard in", os.getpid(), flush=True))
app.get("/pid")(lambda: str(os.getpid()))
print("imported in", os.getpid(), flush=True)
"""


def test_what_is_subscribed_to_at_import_is_heard_by_the_process_that_serves(
    servers: Servers, tmp_path: Path, short_path: Path
) -> None:
    """The reloader's process imports the app as well, and is no node; nor is anybody connected."""
    configured = PLAIN_APP.replace("Flask(__name__)", "Flask(__name__)\napp.config.from_prefixed_env()")
    patched = "from gevent import monkey\n\nmonkey.patch_all()\n"
    (tmp_path / "some_app.py").write_text(patched + configured + PHOENIX_LINES + LISTENING_LINES)
    command = (sys.executable, "-m", "flask", "--app", "some_app", "run", "--debug", "--port", "{port}")
    url = f"workers://{short_path}"
    server = servers.start(*command, PYTHONPATH=str(tmp_path), FLASK_PHOENIX_PUBSUB_URL=url)
    assert wait_until(lambda: len(list(short_path.glob("*"))) > 0, lambda: answer(server.port))
    with Broadcaster(url) as broadcaster:
        broadcaster.broadcast("room:1", "said", {})
    server.wait_for_log("heard in")
    serving = answer(server.port, "/pid")[2]
    assert re.findall(r"heard in (\d+)", server.logs()) == [serving]
    assert {serving} < set(re.findall(r"imported in (\d+)", server.logs()))
    assert len(list(short_path.glob("*"))) == 1


def test_the_banner_shows_an_address_that_a_browser_takes(servers: Servers, tmp_path: Path) -> None:
    server = start(servers, tmp_path, PLAIN_APP + PHOENIX_LINES, "--host", "::")
    server.wait_for_log(f" * Running on http://[::]:{server.port} ")


@pytest.mark.parametrize("options", [(), ("--debug",)])
@pytest.mark.parametrize(
    ("host", "said"),
    [
        (HOST, f"of {HOST}: Address already in use; stop the program that uses it, or choose another --port"),
        ("192.0.2.1", "of 192.0.2.1: Cannot assign requested address"),
    ],
)
def test_a_port_that_cannot_be_had_is_one_line(tmp_path: Path, host: str, said: str, options: tuple[str, ...]) -> None:
    (tmp_path / "some_app.py").write_text(PLAIN_APP + PHOENIX_LINES)
    with socket.create_server((HOST, 0)) as busy:
        port = busy.getsockname()[1]
        command = [sys.executable, "-m", "flask", "--app", "some_app", "run", "--host", host, "--port", str(port)]
        ended = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            timeout=START,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    *_, last = ended.stderr.splitlines()
    assert last == f"Error: cannot listen on port {port} {said}"
    assert "Traceback" not in ended.stderr


def test_an_app_that_fails_to_load(tmp_path: Path) -> None:
    (tmp_path / "broken_app.py").write_text("raise RuntimeError('broken')\n")
    command = [sys.executable, "-m", "flask", "--app", str(tmp_path / "broken_app.py"), "run", "--port", "0"]
    ended = subprocess.run(command, cwd=ROOT, timeout=START, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "RuntimeError: broken" in ended.stderr


def test_reloader_waits_until_the_app_is_mended(servers: Servers, tmp_path: Path) -> None:
    """As with Flask's own: an edit that breaks the app shows its error, the next one that mends it is served."""
    path = tmp_path / "mended_app.py"
    path.write_text(PLAIN_APP + PHOENIX_LINES)
    command = (sys.executable, "-m", "flask", "--app", "mended_app", "run", "--debug", "--port", "{port}")
    server = servers.start(*command, PYTHONPATH=str(tmp_path))
    path.write_text(PLAIN_APP + "raise RuntimeError('broken in the meantime')\n")
    server.wait_for_log("broken in the meantime")
    server.wait_ready()
    assert answer(server.port)[0] == 500
    path.write_text(PLAIN_APP + PHOENIX_LINES + "print('loaded again')\n")
    server.wait_for_log("loaded again")
    server.wait_ready()
    assert answer(server.port)[0] == 200


def test_values_of_cert(tmp_path: Path) -> None:
    context = SSLContext(PROTOCOL_TLS_SERVER)
    assert tls_options(None) == {}
    assert tls_options(context) == {"ssl_context": context}
    assert tls_options(("certificate", "key")) == {"certfile": "certificate", "keyfile": "key"}


# Speaking to the clients of the app's processes

SERVED_APP = """
from flask import Flask
from flask_phoenix import Phoenix

app = Flask(__name__)
app.config.from_prefixed_env()
Phoenix(app)
"""


class RoomChannel(Channel):
    def join(self, payload: Any) -> None:
        return None


class Stage:
    """An app that serves in this process, over a directory, and a client named ``user:ada``."""

    def __init__(self, url: str) -> None:
        class UserSocket(Socket):
            def id(self) -> str:
                return "user:ada"

        self.url = url
        self.app = Flask(__name__)
        self.app.config["PHOENIX_PUBSUB_URL"] = url
        Phoenix(self.app).socket("/socket")(UserSocket)
        UserSocket.channel("room:*")(RoomChannel)
        self.client = Client(self.app)
        self.joined = self.client.join("room:1")

    def expect_sent_away(self) -> None:
        """See that the client was sent away, without a word."""
        self.client.refute(lambda message: True)
        assert self.client.closed == (1001, "disconnected")

    def stop(self) -> None:
        self.client.close()
        self.app.extensions["phoenix"].engine.stop()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.delenv("PHOENIX_PUBSUB_URL", raising=False)
    stage = Stage(f"workers://{tmp_path / 'workers'}")
    yield stage
    stage.stop()


def command(app: Flask, *arguments: str, **environment: str | None) -> Result:
    """Run ``flask phoenix`` for an app, while the event loop goes on."""
    result: Result = in_thread(lambda: app.test_cli_runner(env=environment).invoke(phoenix, arguments))
    return result


def complaint(result: Result) -> str:
    """Return the one line that a command says when it fails."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ").rstrip()


def test_it_is_a_command_of_flask() -> None:
    (entry,) = entry_points(group="flask.commands", name="phoenix")
    assert entry.load() is phoenix
    assert FlaskGroup().get_command(None, "phoenix") is phoenix  # type: ignore[arg-type]
    assert command(Flask(__name__), "nothing").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [((), {}), (('{"n": 1.5, "text": "caf\u00e9"}',), {"n": 1.5, "text": "caf\u00e9"})],
)
def test_broadcasting(stage: Stage, arguments: tuple[str, ...], payload: Any) -> None:
    result = command(stage.app, "broadcast", "room:1", "news", *arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert stage.joined.assert_push("news") == payload
    stage.joined.refute_push("news")


def test_disconnecting(stage: Stage) -> None:
    assert command(stage.app, "disconnect", "user:bob").exit_code == 0
    assert command(stage.app, "broadcast", "room:1", "news").exit_code == 0
    assert stage.joined.assert_push("news") == {}
    assert command(stage.app, "disconnect", "user:ada", "--topic", "room:1").exit_code == 0
    stage.joined.assert_push("phx_close")
    result = command(stage.app, "disconnect", "user:ada")
    assert (result.exit_code, result.output) == (0, "")
    stage.expect_sent_away()


@pytest.mark.parametrize("told", [("broadcast", "room:1", "news"), ("disconnect", "user:ada")])
@pytest.mark.parametrize("way", ["option", "app", "environment", "option first", "app first"])
def test_where_the_way_is_found(stage: Stage, tmp_path: Path, told: tuple[str, ...], way: str) -> None:
    elsewhere = f"workers://{tmp_path / 'elsewhere'}"
    urls: dict[str, tuple[str | None, str | None, str | None]] = {
        "option": (stage.url, None, None),
        "app": (None, stage.url, None),
        "environment": (None, None, stage.url),
        "option first": (stage.url, elsewhere, elsewhere),
        "app first": (None, stage.url, elsewhere),
    }
    option, setting, variable = urls[way]
    app = Flask("another")
    app.config["PHOENIX_PUBSUB_URL"] = setting
    arguments = (*told, "--url", option) if option else told
    assert command(app, *arguments, PHOENIX_PUBSUB_URL=variable).output == ""
    if told[0] == "broadcast":
        assert stage.joined.assert_push("news") == {}
    else:
        stage.expect_sent_away()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("PHOENIX_PUBSUB_URL", "redis://localhost", "workers:///run/myapp")),
        (("--url", "none"), ("PHOENIX_PUBSUB_URL",)),
        (("--url", "kafka://localhost"), ("'redis'", "'workers'", "'kafka'")),
        (("--url", "workers://relative"), ("workers:///run/myapp",)),
        (("--url", "workers:///nowhere/at/all"), ("no worker listens in /nowhere/at/all",)),
    ],
)
@pytest.mark.parametrize("told", [("broadcast", "room:1", "news"), ("disconnect", "user:ada")])
def test_what_goes_wrong_is_said_in_one_line(
    told: tuple[str, ...], arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    said = complaint(command(Flask("another"), *told, *arguments, PHOENIX_PUBSUB_URL=None))
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("payload", "said"),
    [("{", "expected JSON"), ("", "expected JSON"), ('{"n": NaN}', "expected JSON"), ("[1]", "dict"), ("null", "dict")],
)
def test_a_payload_that_is_no_json_object(stage: Stage, payload: str, said: str) -> None:
    assert said in complaint(command(stage.app, "broadcast", "room:1", "news", payload))
    stage.joined.refute_push("news")


def test_nobody_is_there(stage: Stage) -> None:
    stage.stop()
    assert "no worker listens" in complaint(command(stage.app, "broadcast", "room:1", "news"))


def flask(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``flask phoenix`` in a process of its own, for an app in a folder."""
    (folder / "served_app.py").write_text(SERVED_APP)
    line = [sys.executable, "-m", "flask", "--app", "served_app", "phoenix", *words]
    settings = {**os.environ, "PYTHONPATH": str(folder), **environment}

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(line, cwd=ROOT, env=settings, timeout=START, capture_output=True, text=True)

    done: subprocess.CompletedProcess[str] = in_thread(call)
    return done


def test_the_whole_command(stage: Stage, tmp_path: Path) -> None:
    told = flask(tmp_path, "broadcast", "room:1", "news", '{"n": 1}', "--url", stage.url)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    assert stage.joined.assert_push("news") == {"n": 1}
    told = flask(tmp_path, "disconnect", "user:ada", FLASK_PHOENIX_PUBSUB_URL=stage.url)
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    stage.expect_sent_away()
    missed = flask(tmp_path, "broadcast", "room:1", "news", PHOENIX_PUBSUB_URL=f"workers://{tmp_path / 'nowhere'}")
    assert (missed.returncode, missed.stdout) == (1, "")
    assert missed.stderr.startswith("Error: no worker listens in ")
    assert missed.stderr.count("\n") == 1


def test_it_says_how_it_is_used(tmp_path: Path) -> None:
    shown = flask(tmp_path, "--help")
    assert "broadcast" in shown.stdout
    assert "disconnect" in shown.stdout
    shown = flask(tmp_path, "broadcast", "--help")
    assert "TOPIC EVENT [PAYLOAD]" in shown.stdout
    assert "PHOENIX_PUBSUB_URL" in shown.stdout
    wrong = flask(tmp_path, "broadcast", "room:1")
    assert wrong.returncode == 2
    assert "Missing argument 'EVENT'" in wrong.stderr


# A process that serves nobody

WORKING_APP = """
import gevent
from flask import Flask, current_app
from gevent.monkey import is_module_patched
from gevent.queue import Queue

from flask_phoenix import Phoenix

PATCHED = is_module_patched("socket")
app = Flask(__name__)
app.config.from_prefixed_env()
phoenix = Phoenix(app)


@phoenix.background
def beside():
    phoenix.broadcast("room:1", "beside", {})


def work():
    orders = Queue()
    phoenix.subscribe("room:1", orders.put)
    phoenix.broadcast("room:1", "works", {"patched": PATCHED, "app": current_app.name})
    try:
        while (order := orders.get()).event != app.config["END"]:
            pass
        if order.event == "fail":
            raise LookupError("this is how it fails")
    finally:
        phoenix.broadcast("room:1", "ends", {})


async def awaits():
    pass
"""


def start_worker(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    (folder / "working_app.py").write_text(WORKING_APP)
    line = [sys.executable, "-m", "flask", "--app", "working_app", "phoenix", "worker", *words]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **environment}
    return subprocess.Popen(line, cwd=folder, env=settings, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end of a process, while the event loop goes on; return its status and what it has said."""
    _, said = in_thread(lambda: process.communicate(timeout=START))
    return process.returncode, said


def test_a_process_that_serves_nobody_hears_and_speaks_and_ends_in_good_order(stage: Stage, tmp_path: Path) -> None:
    def start(end: str, *function: str) -> subprocess.Popen[str]:
        return start_worker(tmp_path, *function, FLASK_PHOENIX_PUBSUB_URL=stage.url, FLASK_END=end)

    alone = start_worker(tmp_path, "working_app:work")
    wrong = {name: start("", f"working_app:{name}") for name in ("rest", "awaits")}
    workers = {end: start(end, "working_app:work") for end in ("return", "fail", "SIGTERM")}
    bare = start("")
    try:
        for _ in workers:
            works = stage.joined.assert_push("works", within=START)
            assert works == {"patched": True, "app": "working_app"}
        for _ in (*workers, bare):
            stage.joined.assert_push("beside", within=START)
        for end in ("return", "fail"):
            stage.app.extensions["phoenix"].broadcast("room:1", end, {})
            stage.joined.assert_push("ends", within=DEADLINE)
        workers["SIGTERM"].terminate()
        stage.joined.assert_push("ends", within=DEADLINE)
        bare.terminate()
        assert [ended(workers[end]) for end in ("return", "SIGTERM")] == [(0, ""), (0, "")]
        assert ended(bare) == (0, "")
        status, said = ended(workers["fail"])
        assert (status, said.splitlines()[-1]) == (1, "LookupError: this is how it fails")
        assert said.startswith("Traceback")
        status, said = ended(alone)
        assert (status, said.partition(":")[0]) == (1, "Error")
        assert "PHOENIX_PUBSUB_URL" in said
        for name, mistake in {"rest": "has no function 'rest'", "awaits": "is async"}.items():
            status, said = ended(wrong[name])
            assert (status, mistake in said) == (2, True)
    finally:
        for process in (alone, bare, *wrong.values(), *workers.values()):
            process.kill()
            process.communicate()
