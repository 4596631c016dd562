"""``flask run``: which server it starts, and with what. The whole command, on a real port, is in test_servers_real."""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest
from flask import Flask
from flask.cli import FlaskGroup, run_command

from flask_phoenix import Phoenix, Socket
from flask_phoenix.cli import failing, make_server, run, tls_options
from flask_phoenix.server import Server
from tests.processes import DEADLINE, HOST, ROOT, Servers
from tests.wire import certify

PLAIN_APP = """
from flask import Flask

app = Flask(__name__)


@app.get("/")
def home():
    return "plain"
"""


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    Phoenix(app).socket("/socket")(Socket)
    yield app
    app.extensions["phoenix"].engine.stop()


def test_it_stands_in_for_flasks_own() -> None:
    (entry,) = entry_points(group="flask.commands", name="run")
    assert entry.load() is run
    assert FlaskGroup().get_command(None, "run") is run  # type: ignore[arg-type]


def test_it_has_the_options_of_flasks_own() -> None:
    assert run.params == run_command.params
    assert run.help == run_command.help
    assert run.name == "run"


def test_help() -> None:
    command = [sys.executable, "-m", "flask", "run", "--help"]
    shown = subprocess.run(command, timeout=DEADLINE, capture_output=True, text=True, check=True).stdout
    assert "--cert" in shown
    assert "--reload" in shown


def answer(port: int, path: str = "/") -> tuple[int, str]:
    """Return what a server answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=DEADLINE)
    try:
        connection.request("GET", path)
        with connection.getresponse() as response:
            return response.status, response.headers["Server"]
    finally:
        connection.close()


def test_an_app_without_sockets_is_left_to_flask(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "plain_app.py").write_text(PLAIN_APP)
    server = servers.start(
        sys.executable, "-m", "flask", "--app", "plain_app", "run", "--port", "{port}", PYTHONPATH=str(tmp_path)
    )
    status, software = answer(server.port)
    assert status == 200
    assert software.startswith("Werkzeug")


def test_an_app_that_fails_to_load(tmp_path: Path) -> None:
    (tmp_path / "broken_app.py").write_text("raise RuntimeError('broken')\n")
    command = [sys.executable, "-m", "flask", "--app", str(tmp_path / "broken_app.py"), "run", "--port", "0"]
    ended = subprocess.run(command, cwd=ROOT, timeout=DEADLINE, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "RuntimeError: broken" in ended.stderr


def test_reloader_waits_until_the_app_is_mended(servers: Servers, tmp_path: Path) -> None:
    """As with Flask's own: an edit that breaks the app shows its error, the next one that mends it is served."""
    path = tmp_path / "mended_app.py"
    path.write_text(PLAIN_APP + "from flask_phoenix import Phoenix\nPhoenix(app)\n")
    command = (sys.executable, "-m", "flask", "--app", "mended_app", "run", "--debug", "--port", "{port}")
    server = servers.start(*command, PYTHONPATH=str(tmp_path))
    path.write_text(PLAIN_APP + "raise RuntimeError('broken in the meantime')\n")
    server.wait_for_log("broken in the meantime")
    server.wait_ready()
    assert answer(server.port)[0] == 500
    path.write_text(PLAIN_APP + "from flask_phoenix import Phoenix\nPhoenix(app)\nprint('loaded again')\n")
    server.wait_for_log("loaded again")
    server.wait_ready()
    assert answer(server.port)[0] == 200


def test_server_of_an_app(app: Flask) -> None:
    server = make_server(app, app, HOST, 0)
    state = app.extensions["phoenix"]
    assert isinstance(server, Server)
    assert server.address == (HOST, 0)
    assert server.application is app
    assert server.engine is state.engine
    assert server.upgrades == state.upgrades


def test_server_of_an_app_that_failed_to_load() -> None:
    broken = failing(RuntimeError("broken"))
    server = make_server(broken, broken, HOST, 0)
    assert not server.upgrades({"HTTP_UPGRADE": "websocket"})
    with pytest.raises(RuntimeError, match="broken"):
        server.application({}, lambda *_: bytes)


def test_failing_app_raises_anew_each_time() -> None:
    error = RuntimeError("broken")
    broken = failing(error)
    for _ in range(2):
        with pytest.raises(RuntimeError) as raised:
            broken({}, None)
        assert raised.value is error
        assert raised.value.__cause__ is None


# TLS


def test_no_tls() -> None:
    assert tls_options(None) == {}


def test_tls_with_files(app: Flask, tmp_path: Path) -> None:
    options: dict[str, Any] = tls_options(certify(tmp_path))
    server = make_server(app, app, HOST, 0, **options)
    assert server.ssl_enabled


def test_tls_with_a_context(app: Flask, tmp_path: Path) -> None:
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certify(tmp_path))
    assert tls_options(context) == {"ssl_context": context}
    assert make_server(app, app, HOST, 0, **tls_options(context)).ssl_enabled
