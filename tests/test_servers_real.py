"""Each way of serving, as a process of its own, met by the official client."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.clients import driver
from tests.support.http import POLL, URL, connect, head, join, open_websocket
from tests.support.processes import DEADLINE, HOST, ROOT, START, Server, Servers
from tests.support.wire import UPGRADE, Wire, certify

PYTHON = (sys.executable, "-m")
APP = "tests.clients.server_app"
GUNICORN = (*PYTHON, "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", f"{APP}:app")


class Way(NamedTuple):
    """One way of serving, and what it can do."""

    command: tuple[str, ...]
    #: gevent-websocket's ``wsgi.websocket`` for other routes.
    plain_websocket: bool = True
    #: The handshake is ours, so that refusals are HTTP.
    handshake: bool = True
    #: flask-sock's own WebSockets for other routes.
    flask_sock: bool = True


WAYS = {
    "phoenix.run": Way((*PYTHON, APP, "{port}")),
    "flask run": Way((*PYTHON, "flask", "--app", APP, "run", "--port", "{port}")),
    "gunicorn -k gevent": Way((*GUNICORN, "-k", "gevent", "-w", "1"), plain_websocket=False),
    "gunicorn -k gevent_pywsgi": Way(
        (*GUNICORN, "-k", "gevent_pywsgi", "-w", "1"), plain_websocket=False, flask_sock=False
    ),
    "gunicorn with gevent-websocket": Way(
        (*GUNICORN, "-k", "geventwebsocket.gunicorn.workers.GeventWebSocketWorker", "-w", "1"),
        handshake=False,
        flask_sock=False,
    ),
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

#: An application for those tests that need one in a file of their own.
SMALL_APP = """
import sys
import time
import uuid

from flask import Flask

from flask_phoenix import Channel, Phoenix, Socket, on

app = Flask(__name__)
app.secret_key = "a secret for tests"
app.config.from_prefixed_env()
phoenix = Phoenix(app)
boot = uuid.uuid4().hex


@phoenix.socket("/socket", longpoll=True)
class UserSocket(Socket):
    pass


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    def join(self, payload):
        return {"boot": boot}

    @on("shout")
    def shout(self, payload):
        self.broadcast("shout", payload)
        return {}

    @on("slow")
    def slow(self, payload):
        time.sleep(1)
        print("slow is done", flush=True)

    def terminate(self, reason):
        print("terminated:", reason, flush=True)


@app.get("/boom")
def boom():
    raise RuntimeError("boom")
"""


class Served(NamedTuple):
    """A server, and the way in which it serves."""

    server: Server
    way: Way


@pytest.fixture(scope="module", params=WAYS.values(), ids=list(WAYS))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a server of each kind, for many tests."""
    way: Way = request.param
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield Served(servers.start(*way.command, **driver.STRICT), way)
    servers.stop()


@pytest.fixture(scope="module")
def node() -> Iterator[driver.Script]:
    """Return a Node process that plays stories."""
    script = driver.Script("stories.mjs")
    yield script
    script.close()


def get(server: Server, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Return the status and the body with which a request is answered."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    try:
        connection.request("GET", path, headers=headers or {})
        with connection.getresponse() as response:
            return response.status, response.read().decode()
    finally:
        connection.close()


def small_app(folder: Path, last_lines: str = "") -> Path:
    """Write the small application to a file."""
    path = folder / "small_app.py"
    path.write_text(SMALL_APP + last_lines)
    return path


#: What depends on the server: bytes, subprotocols, compression, the end of a connection, a view beside it.
STORIES = ["announcement_from_a_view", "auth_token", "broadcast", "forced_disconnect", "push_and_reply"]


@pytest.mark.parametrize("story", [*STORIES, "binary_push_and_reply", "packed_mount"])
def test_stories(node: driver.Script, served: Served, story: str) -> None:
    driver.play(node, driver.base(served.server), story)


@pytest.mark.parametrize(
    "story", [*STORIES, "batches_keep_their_order", "large_message", "leaves_before_it_goes", "refused_connect"]
)
def test_stories_over_polls(node: driver.Script, served: Served, story: str) -> None:
    driver.play(node, driver.base(served.server), story, transport="longpoll")


def test_fallback(node: driver.Script, served: Served) -> None:
    driver.play(node, driver.base(served.server), "stays_with_a_healthy_websocket")
    # Where a 101 is sent before anybody is asked, a client is content with it, and does not fall back.
    if served.way.handshake:
        driver.play(node, driver.base(served.server), "falls_back_where_websockets_are_refused")


def test_ordinary_view(served: Served) -> None:
    status, body = get(served.server, "/")
    assert status == 200
    assert body.startswith("an ordinary page")


def test_plain_websocket(node: driver.Script, served: Served) -> None:
    if served.way.plain_websocket:
        driver.play(node, driver.base(served.server), "plain_websocket")
    else:
        assert get(served.server, "/plain-ws", UPGRADE)[0] == 501


def test_routes_of_flask_sock(served: Served) -> None:
    if not served.way.flask_sock:
        return
    client = open_websocket(served.server.port, "/sock")
    with client.sock:
        for text in ("hello", "again"):
            client.text(text)
            assert client.data() == text
        client.close(1000)
        assert client.close_code() == 1000
        client.ended()


def test_refused_connect(node: driver.Script, served: Served) -> None:
    if served.way.handshake:
        assert get(served.server, "/socket/websocket?user=banned&vsn=2.0.0", UPGRADE)[0] == 403
        driver.play(node, driver.base(served.server), "refused_connect")
    else:
        assert get(served.server, "/socket/websocket?user=banned&vsn=2.0.0", UPGRADE)[0] == 101


@EVERY_WAY
def test_drains(node: driver.Script, servers: Servers, way: Way) -> None:
    check_drain(node, servers, way, "websocket")


def test_gunicorn_drains_clients_that_poll(node: driver.Script, servers: Servers) -> None:
    check_drain(node, servers, WAYS["gunicorn -k gevent"], "longpoll")


def check_drain(node: driver.Script, servers: Servers, way: Way, transport: str) -> None:
    """Fail unless a server that is stopped lets its clients go and ends well."""
    keeper = driver.Keeper(servers.start(*way.command, **driver.STRICT))
    driver.play(node, driver.base(keeper.server), "server_stops", helpers=keeper.helpers, transport=transport)
    assert keeper.statuses == [0]
    assert "Traceback" not in keeper.server.logs()


def test_clients_that_poll_come_back_to_gunicorn(node: driver.Script, servers: Servers) -> None:
    keeper = driver.Keeper(servers.start(*WAYS["gunicorn -k gevent"].command, **driver.STRICT))
    try:
        driver.play(node, driver.base(keeper.server), "server_restart", helpers=keeper.helpers, transport="longpoll")
    finally:
        keeper.server.stop()


def test_reloader(node: driver.Script, servers: Servers, tmp_path: Path) -> None:
    small_app(tmp_path)
    command = (*PYTHON, "flask", "--app", "small_app", "run", "--debug", "--port", "{port}")
    server = servers.start(*command, PYTHONPATH=str(tmp_path))
    driver.play(node, driver.base(server), "server_restart", helpers={"restart": lambda: small_app(tmp_path, "# new")})


def test_debugger(servers: Servers, tmp_path: Path) -> None:
    small_app(tmp_path)
    command = (*PYTHON, "flask", "--app", "small_app", "run", "--debug", "--no-reload", "--port", "{port}")
    status, body = get(servers.start(*command, PYTHONPATH=str(tmp_path)), "/boom")
    assert status == 500
    assert "Werkzeug Debugger" in body


@pytest.mark.parametrize("name", ["phoenix.run", "flask run", "gunicorn -k gevent"])
def test_tls(node: driver.Script, servers: Servers, tmp_path: Path, name: str) -> None:
    certificate, key = certify(tmp_path)
    options = (
        ("--cert", certificate, "--key", key) if name == "flask run" else ("--certfile", certificate, "--keyfile", key)
    )
    server = servers.start(*WAYS[name].command, *options, **driver.STRICT)
    for story in ("push_and_reply", "broadcast", "large_message"):
        driver.play(node, driver.base(server, "https"), story)


def test_unix_socket_of_gunicorn(node: driver.Script, servers: Servers, tmp_path: Path) -> None:
    path = tmp_path / "listener"
    servers.start(*WAYS["gunicorn -k gevent"].command, "-b", f"unix:{path}", **driver.STRICT)
    driver.play(node, f"ws+unix:{path}:", "broadcast")


def test_reload_of_gunicorn(node: driver.Script, servers: Servers) -> None:
    server = servers.start(*WAYS["gunicorn -k gevent"].command, **driver.STRICT)
    driver.play(
        node, driver.base(server), "server_restart", helpers={"restart": lambda: os.kill(server.pid, signal.SIGHUP)}
    )


@pytest.mark.parametrize("name", ["phoenix.run", "flask run"])
def test_interrupt(node: driver.Script, servers: Servers, name: str) -> None:
    server = servers.start(*WAYS[name].command, **driver.STRICT)
    driver.play(node, driver.base(server), "join")
    assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.logs()


def test_several_workers_that_nothing_joins_are_warned_of(node: driver.Script, servers: Servers) -> None:
    server = servers.start(*GUNICORN, "-k", "gevent", "-w", "2", PHOENIX_PUBSUB_URL="none")
    driver.play(node, driver.base(server), "join")
    server.wait_for_log("several processes serve this app")


SMALL_GUNICORN = (*PYTHON, "gunicorn", "--no-control-socket", "-b", "127.0.0.1:{port}", "small_app:app")
#: Servers that have no event loop.
WITHOUT_LOOP = {
    "app.run": (*PYTHON, "small_app", "{port}"),
    "gunicorn": SMALL_GUNICORN,
    "gunicorn -k gthread": (*SMALL_GUNICORN, "-k", "gthread", "--threads", "4"),
    "waitress": (*PYTHON, "waitress", "--port", "{port}", "--threads", "4", "small_app:app"),
}


@pytest.mark.parametrize("name", WITHOUT_LOOP)
def test_a_server_without_an_event_loop_is_told_the_remedy(servers: Servers, tmp_path: Path, name: str) -> None:
    small_app(tmp_path, "if __name__ == '__main__':\n    app.run(port=int(sys.argv[1]))\n")
    server = servers.start(*WITHOUT_LOOP[name], PYTHONPATH=f"{tmp_path}:{ROOT}")
    for _ in range(2):
        for path, headers in ((URL, UPGRADE), (POLL, {})):
            status, text = get(server, path, headers)
            assert (status, "gunicorn -k gevent" in text) == (501, True)
    server.wait_for_log("phoenix.run(app) or 'gunicorn -k gevent'")
    assert "Traceback" not in server.logs()
    assert server.logs().count("'gunicorn -k gevent'") == 2  # once for each transport


# What a worker of gunicorn's does before it ends


def started(servers: Servers, folder: Path, *options: str) -> Server:
    """Start gunicorn with the small application."""
    small_app(folder)
    return servers.start(*SMALL_GUNICORN, "-k", "gevent", *options, PYTHONPATH=f"{folder}:{ROOT}")


def started_in(way: str, servers: Servers, folder: Path, **environment: str) -> Server:
    """Start the small application in one of the two ways of production."""
    if way == "gunicorn":
        small_app(folder)
        command = (*SMALL_GUNICORN, "-k", "gevent")
        return servers.start(*command, PYTHONPATH=f"{folder}:{ROOT}", **environment)
    path = small_app(folder, "phoenix.run(app, port=int(sys.argv[1]))\n")
    path.write_text("from gevent import monkey; monkey.patch_all()\n" + path.read_text())
    return servers.start(sys.executable, str(path), "{port}", PYTHONPATH=str(ROOT), **environment)


def check_coming_back(server: Server, client: Wire) -> None:
    """See that a client is told to come back, and that nobody refuses it then."""
    with client.sock:
        assert client.closed() == 1012
    join(open_websocket(server.port, within=START)).sock.close()  # at a worker that starts


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ("gunicorn", signal.SIGTERM),
        ("gunicorn", signal.SIGINT),
        ("gunicorn", signal.SIGQUIT),
        ("phoenix.run", signal.SIGTERM),
        ("phoenix.run", signal.SIGINT),
    ],
)
def test_handlers_in_flight_finish(servers: Servers, tmp_path: Path, way: str, number: int) -> None:
    server = started_in(way, servers, tmp_path)
    client = join(open_websocket(server.port))
    client.text('["1","2","room:1","slow",{}]')
    client.text('[null,"3","phoenix","heartbeat",{}]')
    client.data()
    server.process.send_signal(number)
    assert client.closed() == 1012
    client.sock.close()
    assert server.process.wait(DEADLINE) == 0
    assert server.logs().index("slow is done") < server.logs().index("terminated: draining")


def test_reload_of_flask_run_with_an_open_socket(servers: Servers, tmp_path: Path) -> None:
    small_app(tmp_path)
    command = (*PYTHON, "flask", "--app", "small_app", "run", "--debug", "--port", "{port}")
    server = servers.start(*command, PYTHONPATH=f"{tmp_path}:{ROOT}")
    client = join(open_websocket(server.port))
    small_app(tmp_path, "# new")
    assert client.closed() == 1012
    client.sock.close()
    server.wait_for_log("terminated: draining")


@pytest.mark.parametrize("way", ["gunicorn", "phoenix.run"])
def test_a_body_that_stalls_is_given_up(servers: Servers, tmp_path: Path, way: str) -> None:
    server = started_in(way, servers, tmp_path, FLASK_PHOENIX_BODY_TIMEOUT="0.2")
    token = json.loads(get(server, POLL)[1])["token"]
    for its, status in (("", "200"), (token, "408")):
        client = Wire(connect(server.port))
        begun = f"POST {POLL}&token={its} HTTP/1.1\r\nHost: here\r\nContent-Length: 7000000\r\n\r\n[null"
        client.sock.sendall(begun.encode())
        assert head(client).startswith(f"HTTP/1.1 {status}")
        client.sock.close()
    with Wire(connect(server.port)).sock as sock:
        sock.sendall(f"POST {POLL}&token={token} HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n".encode())
        assert head(Wire(sock)).startswith("HTTP/1.1 200")  # what was begun has cost the session nothing
    assert "Traceback" not in server.logs()


def test_hup_of_gunicorn(servers: Servers, tmp_path: Path) -> None:
    server = started(servers, tmp_path, "-w", "2")
    client = join(open_websocket(server.port))
    server.process.send_signal(signal.SIGHUP)
    check_coming_back(server, client)


def test_reload_of_gunicorn_with_an_open_socket(servers: Servers, tmp_path: Path) -> None:
    server = started(servers, tmp_path, "--reload", "--reload-engine", "poll")
    client = join(open_websocket(server.port))
    small_app(tmp_path, "# changed")
    check_coming_back(server, client)


def test_max_requests_of_gunicorn(servers: Servers, tmp_path: Path) -> None:
    server = started(servers, tmp_path, "--max-requests", "3")
    client = join(open_websocket(server.port))
    for _ in range(2):  # the third request was the WebSocket's: one more would wait for the next worker
        get(server, "/nowhere")
    check_coming_back(server, client)
    assert "terminated: draining" in server.logs()


def test_run_without_monkey_patching_is_told_the_remedy(tmp_path: Path) -> None:
    path = small_app(tmp_path, "phoenix.run(app, port=int(sys.argv[1]))\n")
    run = subprocess.run(
        [sys.executable, str(path), "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=DEADLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "monkey.patch_all()" in run.stderr
