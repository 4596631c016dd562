"""The gevent server in this very process, its drain, and the pieces that other servers meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask, request
from gevent import socket
from gevent.event import Event
from gevent.queue import Queue
from werkzeug.exceptions import Forbidden

from flask_phoenix import Channel, Phoenix, Refused, Socket, Unsupported, on
from flask_phoenix.protocol.json import Json
from flask_phoenix.runtime.engine import Engine, Service
from flask_phoenix.server import gevent as server
from flask_phoenix.server.gevent import (
    SOCKET,
    Server,
    UpgradeResponse,
    carry_frames,
    close_refused,
    drain,
    inspect_server,
    late_body,
    one_of_many,
    require_patched,
    take_socket,
)
from flask_phoenix.testing import Client
from tests.processes import DEADLINE, HOST, ROOT
from tests.support.network import Network
from tests.support.presence import Node, eventually
from tests.wire import ACCEPT, UPGRADE, Wire, open_foreign, tls_contexts


@pytest.fixture
def foreign() -> Iterator[tuple[Any, Wire]]:
    """Return gevent-websocket's WebSocket, and the client at its other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield open_foreign(ours), Wire(theirs)


# The socket below


@pytest.mark.parametrize("key", [SOCKET, "gunicorn.socket"])
def test_take_socket(key: str) -> None:
    sock = object()
    assert take_socket({key: sock}) == (sock, False)


def test_take_socket_behind_a_foreign_101(foreign: tuple[Any, Wire]) -> None:
    websocket, _ = foreign
    assert take_socket({"wsgi.websocket": websocket}) == (websocket.handler.socket, True)


@pytest.mark.parametrize("environ", [{}, {"wsgi.websocket": None}])
def test_no_socket(environ: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=r"phoenix\.run\(app\)"):
        take_socket(environ)


# The answer that becomes a WebSocket


def test_upgrade_response_writes_its_head_at_once_and_carries_later() -> None:
    done: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]]) -> Callable[[bytes], None]:
        done.append(status)
        assert dict(headers) == {"Upgrade": "websocket"}
        return lambda data: done.append(f"wrote {data!r}")

    response = UpgradeResponse([("Upgrade", "websocket")], lambda: done.append("carried"), upgraded=False)
    body = response({}, start_response)
    assert done == ["101 Switching Protocols", "wrote b''"]
    assert list(body) == []
    assert done[2:] == ["carried"]


def test_upgrade_response_behind_a_foreign_101() -> None:
    carried: list[bool] = []
    response = UpgradeResponse([], lambda: carried.append(True), upgraded=True)
    body = response({}, lambda *_: pytest.fail("there is a head already"))
    assert not carried
    assert list(body) == []
    assert carried == [True]


def test_upgrade_response_can_be_looked_at() -> None:
    response = UpgradeResponse([("Upgrade", "websocket")], lambda: None, upgraded=False)
    assert response.status_code == 101
    assert response.headers["Upgrade"] == "websocket"
    assert "Content-Type" not in response.headers


def test_frames_are_carried_while_the_server_iterates() -> None:
    carried: list[bool] = []
    body = carry_frames(lambda: carried.append(True))
    assert not carried
    assert list(body) == []
    assert carried == [True]


# The answer whose body comes later


def test_a_late_body_is_made_when_it_is_asked_for() -> None:
    body = late_body(lambda: b"{}")
    assert next(body) == b"{}"
    assert list(body) == []


# A refusal behind a foreign 101


@pytest.mark.parametrize(
    ("error", "draining", "code"),
    [
        (Forbidden(), False, 1008),
        (Forbidden(), True, 1012),
        (RuntimeError(), False, 1011),
        (RuntimeError(), True, 1011),
    ],
)
def test_close_refused(foreign: tuple[Any, Wire], error: Exception, draining: bool, code: int) -> None:
    engine, (websocket, client) = Engine(nullcontext, Json()), foreign
    engine.draining = draining
    with pytest.raises(type(error)), close_refused(engine, {"wsgi.websocket": websocket}):
        raise error
    assert client.close_code() == code
    assert websocket.closed


def test_nothing_to_close(foreign: tuple[Any, Wire]) -> None:
    engine, (websocket, client) = Engine(nullcontext, Json()), foreign
    with close_refused(engine, {"wsgi.websocket": websocket}):
        pass
    with pytest.raises(Forbidden), close_refused(engine, {}):
        raise Forbidden
    websocket.send("still open")
    assert client.data() == "still open"


# Going down


@pytest.fixture
def app() -> Iterator[Flask]:
    app = Flask(__name__)
    phoenix = Phoenix(app)

    @phoenix.socket("/socket")
    class UserSocket(Socket):
        def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
            if "banned" in params:
                raise Refused("banned")

    @UserSocket.channel("room:*")
    class RoomChannel(Channel):
        def join(self, payload: Any) -> None:
            return None

        @on("echo")
        def echo(self, payload: Any) -> Any:
            return payload

        def terminate(self, reason: Any) -> None:
            ended.put(reason)
            if self.subtopic == "slow":
                app.config["RELEASED"].wait(DEADLINE)

    @app.route("/ws", websocket=True)
    def ws() -> str:
        websocket = request.environ["wsgi.websocket"]
        websocket.send(websocket.receive().upper())
        return ""

    @app.get("/")
    def home() -> str:
        return "home"

    ended: Queue[Any] = app.config.setdefault("ENDED", Queue())
    app.config["RELEASED"] = Event()
    yield app
    app.extensions["phoenix"].engine.stop()


@pytest.fixture
def engine(app: Flask) -> Engine:
    engine: Engine = app.extensions["phoenix"].engine
    return engine


def test_drain(app: Flask, engine: Engine) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(app)) for _ in range(3)]
        clients[0].join("room:1")
        drain(engine)
        assert [client.closed for client in clients] == [(1012, "draining")] * 3
    assert engine.draining
    assert not engine.connections
    assert app.config["ENDED"].get(timeout=DEADLINE) == "draining"


def test_drain_of_nobody(engine: Engine) -> None:
    drain(engine)
    assert engine.draining


def test_drain_waits_until_the_roads_have_ended(engine: Engine) -> None:
    leaving = Event()
    order: list[str] = []

    def road() -> None:
        with engine.carrying():
            leaving.wait(DEADLINE)
            order.append("road")

    roads = [gevent.spawn(road) for _ in range(2)]
    gevent.idle()
    draining: gevent.Greenlet[..., None] = gevent.spawn(drain, engine)
    draining.link(lambda _: order.append("drained"))
    gevent.idle()
    assert order == []
    leaving.set()
    for greenlet in (*roads, draining):
        greenlet.get(timeout=DEADLINE)
    assert order == ["road", "road", "drained"]


def test_drain_waits_for_the_authors_code(app: Flask, engine: Engine) -> None:
    with Client(app) as client:
        client.join("room:slow")
        draining = gevent.spawn(drain, engine)
        assert app.config["ENDED"].get(timeout=DEADLINE) == "draining"
        gevent.idle()
        assert not draining.ready()
        app.config["RELEASED"].set()
        draining.get(timeout=DEADLINE)


def test_drain_tells_other_nodes_when_all_have_gone() -> None:
    network = Network()
    node, other = Node(network=network), Node(network=network)
    ada, bob = node.enter(me={"ada": {}}), other.enter()
    node.online.track("room:1", "robot")
    eventually(lambda: other.online.count("room:1") == 2)
    order: list[str] = []

    class Last(Service):
        def start(self) -> None:
            pass

        def greet(self) -> None:
            pass

        def farewell(self) -> None:
            order.append("farewell")
            assert not node.engine.connections

        def stop(self) -> None:
            pass

    node.engine.add(Last())

    def leave() -> None:
        with node.engine.carrying():
            leaving.wait(DEADLINE)
            order.append("road")

    leaving = Event()
    roads = [gevent.spawn(leave)]
    gevent.idle()
    draining = gevent.spawn(drain, node.engine)
    eventually(lambda: ada.tab.road.closed == (1012, "draining"))
    assert order == []
    leaving.set()
    draining.get(timeout=DEADLINE)
    assert order == ["road", "farewell"]
    eventually(lambda: not other.online.list("room:1"))
    assert bob.people == {}
    gevent.joinall(roads, DEADLINE)
    node.stop()
    other.stop()


def test_drain_does_not_wait_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE", 0.05)
    with engine.carrying():
        drain(engine)


# What the server below makes necessary


@pytest.mark.parametrize("many", [True, False])
def test_what_the_server_says_of_other_processes(engine: Engine, many: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for several in (many, not many):  # it is looked at once
        inspect_server(engine, {"wsgi.multiprocess": several, "SERVER_SOFTWARE": "gevent/26.9"})
    assert engine.one_of_many == many
    assert signal.getsignal(signal.SIGTERM) is before


class Manned:
    """A worker of gunicorn's, as far as it is looked at."""

    def __init__(self, workers: int) -> None:
        self.cfg = SimpleNamespace(workers=workers)

    def handle_exit(self, number: int, frame: Any) -> None:
        pass


@pytest.mark.parametrize(("workers", "many"), [(1, False), (4, True)])
def test_gunicorns_workers_are_counted(workers: int, many: bool) -> None:
    assert not one_of_many()
    before = signal.signal(signal.SIGTERM, Manned(workers).handle_exit)
    try:
        assert one_of_many() == many
    finally:
        signal.signal(signal.SIGTERM, before)


class StoppedWorker:
    """A worker of gunicorn's that has been told to stop before its first client came."""

    alive = False

    def handle_exit(self, number: int, frame: Any) -> None:
        pytest.fail("nobody sends a signal here")


def test_a_worker_that_stops_already_lets_nobody_in(engine: Engine) -> None:
    before = signal.signal(signal.SIGTERM, StoppedWorker().handle_exit)
    try:
        inspect_server(engine, {"SERVER_SOFTWARE": "gunicorn/27.0"})
        assert engine.draining
    finally:
        signal.signal(signal.SIGTERM, before)


def test_drains_when_gunicorn_stops_its_worker(engine: Engine) -> None:
    stopped = Event()
    before = signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    try:
        inspect_server(engine, {"SERVER_SOFTWARE": "gunicorn/27.0"})
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped.wait(DEADLINE)  # gunicorn's own handler is called
        gevent.idle()
        assert engine.draining
    finally:
        signal.signal(signal.SIGTERM, before)


def test_unpatched_process_is_told_the_remedy() -> None:
    with pytest.raises(Unsupported) as unsupported:
        require_patched()
    assert "monkey.patch_all()" in str(unsupported.value)
    assert "flask run" in str(unsupported.value)


@pytest.mark.parametrize(("modules", "fits"), [("", True), ("socket=False", False), ("time=False", False)])
def test_patched_process(modules: str, fits: bool) -> None:
    code = (
        f"from gevent import monkey; monkey.patch_all({modules})\n"
        "from flask_phoenix.server.gevent import require_patched; require_patched()"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=DEADLINE, capture_output=True, check=False)
    assert (run.returncode == 0) is fits
    assert (b"monkey.patch_all()" in run.stderr) is not fits


# The server itself


def get(path: str, headers: dict[str, str]) -> bytes:
    """Write a GET request."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def port_of(served: Server) -> int:
    """Return where a server listens."""
    port = served.server_port
    assert port is not None
    return port


@pytest.fixture
def port(app: Flask, engine: Engine) -> Iterator[int]:
    served = Server((HOST, 0), app, engine, app.extensions["phoenix"].upgrades, log=None)
    served.start()
    yield port_of(served)
    drain(engine)
    served.stop(timeout=DEADLINE)


@pytest.fixture
def dial(port: int) -> Iterator[Callable[..., Wire]]:
    """Return a function that sends a request on a connection of its own."""
    with ExitStack() as stack:

        def dial(path: str, headers: dict[str, str] | None = None) -> Wire:
            sock = stack.enter_context(socket.create_connection((HOST, port), DEADLINE))
            sock.sendall(get(path, headers or {}))
            return Wire(sock)

        yield dial


def head(client: Wire) -> str:
    """Read the head of an HTTP answer."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += client.take(1)
    return data.decode()


def test_server_serves_pages(dial: Callable[..., Wire]) -> None:
    client = dial("/", {"Connection": "close"})
    assert head(client).startswith("HTTP/1.1 200")
    assert client.take(4) == b"home"


def test_server_carries_frames(dial: Callable[..., Wire], engine: Engine) -> None:
    client = dial("/socket/websocket?vsn=2.0.0", UPGRADE)
    answer = head(client)
    assert answer.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n" in answer
    for header in ("Content-Length", "Content-Type", "Transfer-Encoding", "Connection: close"):
        assert header not in answer
    client.text('["1","1","room:1","phx_join",{}]')
    assert client.data() == '["1","1","room:1","phx_reply",{"status":"ok","response":{}}]'
    client.text('["1","2","room:1","echo",{"n":1}]')
    assert client.data() == '["1","2","room:1","phx_reply",{"status":"ok","response":{"n":1}}]'
    assert len(engine.connections) == 1
    client.close(1000)
    assert client.close_code() == 1000
    client.ended()


def test_server_refuses_by_http(dial: Callable[..., Wire]) -> None:
    assert head(dial("/socket/websocket?vsn=2.0.0&banned", UPGRADE)).startswith("HTTP/1.1 403")
    assert head(dial("/socket/websocket?vsn=9.0.0", UPGRADE)).startswith("HTTP/1.1 403")
    assert head(dial("/socket/websocket?vsn=2.0.0")).startswith("HTTP/1.1 400")
    assert head(dial("/nowhere", UPGRADE)).startswith("HTTP/1.1 404")


def test_connection_goes_on_behind_a_refusal(dial: Callable[..., Wire]) -> None:
    client = dial("/socket/websocket?vsn=2.0.0&banned", UPGRADE | {"Connection": "keep-alive, Upgrade"})
    answer = head(client)
    assert "Content-Length: 0" in answer
    client.sock.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    assert head(client).startswith("HTTP/1.1 200")
    assert client.take(4) == b"home"


def test_other_websocket_routes_are_gevent_websockets(dial: Callable[..., Wire]) -> None:
    client = dial("/ws", UPGRADE)
    assert head(client).startswith("HTTP/1.1 101")
    client.text("hello")
    assert client.data() == "HELLO"


def test_answers_are_sent_at_once(app: Flask, engine: Engine) -> None:
    served = Server((HOST, 0), app, engine, app.extensions["phoenix"].upgrades, log=None)
    served.start()
    assert served.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    served.stop()


def test_server_drains(dial: Callable[..., Wire], engine: Engine, app: Flask) -> None:
    client = dial("/socket/websocket?vsn=2.0.0", UPGRADE)
    head(client)
    client.text('["1","1","room:1","phx_join",{}]')
    client.data()
    draining = gevent.spawn(drain, engine)
    assert client.closed() == 1012
    client.sock.close()
    draining.get(timeout=DEADLINE)
    assert head(dial("/socket/websocket?vsn=2.0.0", UPGRADE)).startswith("HTTP/1.1 503")
    assert app.config["ENDED"].get(timeout=DEADLINE) == "draining"


def test_client_that_vanishes_is_forgotten(dial: Callable[..., Wire], engine: Engine, app: Flask) -> None:
    client = dial("/socket/websocket?vsn=2.0.0", UPGRADE)
    head(client)
    client.text('["1","1","room:1","phx_join",{}]')
    client.data()
    assert len(engine.connections) == 1
    client.sock.close()
    assert app.config["ENDED"].get(timeout=DEADLINE) == "closed"
    assert not engine.connections
    engine.wait_until_quiet(DEADLINE)


def test_server_carries_frames_over_tls(app: Flask, engine: Engine, tmp_path: Path) -> None:
    here, there = tls_contexts(tmp_path)
    served = Server((HOST, 0), app, engine, app.extensions["phoenix"].upgrades, log=None, ssl_context=here)
    served.start()
    try:
        with socket.create_connection((HOST, port_of(served)), DEADLINE) as sock:
            client = Wire(there.wrap_socket(sock))
            client.sock.sendall(get("/socket/websocket?vsn=2.0.0", UPGRADE))
            assert head(client).startswith("HTTP/1.1 101")
            client.text('["1","1","room:1","phx_join",{}]')
            assert client.data() == '["1","1","room:1","phx_reply",{"status":"ok","response":{}}]'
            client.sock.close()
            assert app.config["ENDED"].get(timeout=DEADLINE) == "closed"
    finally:
        drain(engine)
        served.stop(timeout=DEADLINE)


def test_serves_until_stopped(app: Flask, engine: Engine) -> None:
    served = Server((HOST, 0), app, engine, app.extensions["phoenix"].upgrades, log=None)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        serving = gevent.spawn(served.serve_until_stopped)
        gevent.idle()
        with socket.create_connection((HOST, port_of(served)), DEADLINE) as sock:
            client = Wire(sock)
            sock.sendall(get("/socket/websocket?vsn=2.0.0", UPGRADE))
            assert head(client).startswith("HTTP/1.1 101")
            os.kill(os.getpid(), signal.SIGTERM)
            assert client.closed() == 1012
        serving.get(timeout=DEADLINE)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
