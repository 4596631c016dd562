"""Our own server in this very process, the drain, and what is learned of the server that runs an app."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask, request
from gevent import monkey, socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.pywsgi import WSGIServer
from gevent.queue import Queue
from gevent.server import StreamServer
from geventwebsocket.handler import WebSocketHandler
from websockets.frames import Opcode
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_phoenix import Phoenix
from flask_phoenix.runtime.engine import Engine
from flask_phoenix.runtime.settings import Settings
from flask_phoenix.runtime.turns import MAX_ACCEPT
from flask_phoenix.server import drain as drains
from flask_phoenix.server.detection import detect_server
from flask_phoenix.server.drain import drain
from flask_phoenix.server.garbage import NEW_OBJECTS, PartialCollector
from flask_phoenix.server.gevent import ESCAPED, Server
from flask_phoenix.server.gunicorn import WorkerWatch
from flask_phoenix.testing import Client
from tests.support.http import JOIN, JOINED, POLL, URL, body, connect, get, head
from tests.support.network import Network
from tests.support.presence import LONG, Node, eventually
from tests.support.processes import DEADLINE, HOST, ROOT, START, wait_until
from tests.support.served import Clients, Room, Visitor
from tests.support.wire import ACCEPT, UPGRADE, Wire, tls_contexts


class Site:
    """An app with rooms, whose ends are queued."""

    def __init__(self) -> None:
        self.app = Flask(__name__)
        self.phoenix = Phoenix(self.app)
        self.ended: Queue[Any] = Queue()
        #: What the end of a slow room waits for.
        self.release = Event()
        self.engine: Engine = self.app.extensions["phoenix"].engine
        site = self

        @self.phoenix.socket("/socket", longpoll={"window": 10 * DEADLINE})
        class UserSocket(Visitor):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
                super().connect(params, info)
                if "crash" in params:
                    raise RuntimeError("crash")

        @UserSocket.channel("room:*")
        class RoomChannel(Room):
            def terminate(self, reason: Any) -> None:
                site.ended.put(reason)
                if self.subtopic == "slow":
                    site.release.wait(DEADLINE)

        @self.app.route("/ws", websocket=True)
        def ws() -> str:
            websocket = request.environ["wsgi.websocket"]
            websocket.send(websocket.receive().upper())
            return ""

        @self.app.route("/no-ws", websocket=True)
        def no_ws() -> str:
            assert "wsgi.websocket" in request.environ
            return "no WebSocket"

        @self.app.get("/")
        def home() -> str:
            return "home"

        @self.app.post("/fields")
        def fields() -> list[Any]:
            return [request.headers.get("X-A"), request.headers.get("Cookie"), request.get_data(as_text=True)]

    def serve(self, app: Any = None, **options: Any) -> Server:
        """Start a server of our own."""
        server = Server((HOST, 0), app or self.app, **{"log": None, **options})
        server.start()
        return server


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.engine.stop()


@pytest.fixture
def engine(site: Site) -> Engine:
    return site.engine


#: Sends a request on a connection of its own.
Dial = Callable[..., Wire]


@pytest.fixture
def dial(site: Site) -> Iterator[Dial]:
    with dialling(site.serve()) as dial:
        yield dial
    drain(site.engine)


@pytest.fixture
def dial_foreign(site: Site) -> Iterator[Dial]:
    """Reach the app through gevent-websocket, which says 101 before the app is asked."""
    server = WSGIServer((HOST, 0), site.app, handler_class=WebSocketHandler, log=None)
    server.start()
    with dialling(server) as dial:
        yield dial
    site.engine.draining = False
    drain(site.engine)


@contextmanager
def dialling(server: WSGIServer) -> Iterator[Dial]:
    with Clients(server) as clients:
        yield clients.dial
    server.stop(timeout=DEADLINE)


def join(client: Wire) -> Wire:
    """Read the answer to a handshake, and join a room."""
    assert head(client).startswith("HTTP/1.1 101")
    client.text(JOIN)
    assert client.data() == JOINED
    return client


# Our server


def test_it_serves_pages_and_sends_them_at_once(dial: Dial, site: Site) -> None:
    client = dial("/", {"Connection": "close"})
    assert head(client).startswith("HTTP/1.1 200")
    assert client.take(4) == b"home"
    server = site.serve()
    assert server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    server.stop()


def test_it_carries_frames(dial: Dial, engine: Engine) -> None:
    client = dial(URL, UPGRADE)
    answer = head(client)
    assert answer.startswith("HTTP/1.1 101 Switching Protocols\r\n")
    assert f"Sec-WebSocket-Accept: {ACCEPT}\r\n" in answer
    for header in ("Content-Length", "Content-Type", "Transfer-Encoding", "Connection: close"):
        assert header not in answer
    for said, heard in (
        (JOIN, JOINED),
        (
            '["1","2","room:1","echo",{"n":1}]',
            '["1","2","room:1","phx_reply",{"status":"ok","response":{"n":1}}]',
        ),
    ):
        client.text(said)
        assert client.data() == heard
    assert len(engine.connections) == 1
    client.close(1000)
    assert client.close_code() == 1000
    client.ended()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [(f"{URL}&banned", UPGRADE, 403), ("/socket/websocket?vsn=9.0.0", UPGRADE, 403), (URL, {}, 400), ("/no", {}, 404)],
)
def test_it_refuses_by_http(dial: Dial, path: str, headers: dict[str, str], status: int) -> None:
    assert head(dial(path, headers)).startswith(f"HTTP/1.1 {status}")


def test_a_connection_goes_on_after_a_refusal(dial: Dial) -> None:
    client = dial(f"{URL}&banned", UPGRADE | {"Connection": "keep-alive, Upgrade"})
    assert "Content-Length: 0" in head(client)
    client.sock.sendall(get("/", {}))
    assert head(client).startswith("HTTP/1.1 200")
    assert client.take(4) == b"home"


def test_other_websocket_routes_are_gevent_websockets(dial: Dial) -> None:
    client = dial("/ws", UPGRADE)
    assert head(client).startswith("HTTP/1.1 101")
    client.text("hello")
    assert client.data() == "HELLO"
    assert client.frame().opcode == Opcode.CLOSE
    client.ended()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/no-ws", UPGRADE, 200),  # a route that does not use it has said nothing
        ("/ws", {**UPGRADE, "Sec-WebSocket-Version": "7.5"}, 400),
        ("/ws", {**UPGRADE, "Sec-WebSocket-Key": "short"}, 400),
    ],
)
def test_gevent_websocket_upgrades_what_it_is_used_for(
    dial: Dial, path: str, headers: dict[str, str], status: int
) -> None:
    assert head(dial(path, headers)).startswith(f"HTTP/1.1 {status}")


def test_a_before_request_that_reads_the_body_of_a_handshake(dial: Dial, site: Site) -> None:
    bodies: list[bytes] = []
    site.app.before_request(lambda: bodies.append(request.get_data()))
    join(dial(URL, UPGRADE))
    assert bodies == [b""]


def test_apps_that_are_mounted_in_others(site: Site) -> None:
    outer = Flask("outer")
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": site.app})  # type: ignore[method-assign]
    server = site.serve(outer)
    with dialling(server) as dial:
        client = join(dial(f"/inner{URL}", UPGRADE))
        other = dial("/inner/ws", UPGRADE)
        assert head(other).startswith("HTTP/1.1 101")
        other.sock.close()
        assert server.engines == {site.engine}  # it is known from its first request on, and drained in the end
        draining = gevent.spawn(drain, site.engine)
        assert client.closed() == 1012
        draining.get(timeout=DEADLINE)


# What clients do wrong, and what is logged of it


class Kept:
    """Something of a request."""


@pytest.fixture
def freed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Return what is set when a request of the site is gone, which Python's garbage collector does not see to."""
    freed, serve = Event(), site.app.wsgi_app

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        kept = environ["test.kept"] = Kept()
        weakref.finalize(kept, freed.set)
        return serve(environ, start_response)

    monkeypatch.setattr(site.app, "wsgi_app", application)
    gc.disable()
    yield freed
    gc.enable()


def test_a_request_ends_where_its_websocket_begins(site: Site, freed: Event) -> None:
    access = StringIO()
    with dialling(site.serve(log=access)) as dial:
        client = join(dial(URL, UPGRADE))
        assert freed.wait(DEADLINE)
        assert '"GET /socket/websocket' in access.getvalue()
        draining = gevent.spawn(drain, site.engine)
        assert client.closed() == 1012
        draining.get(timeout=DEADLINE)


def test_a_request_goes_with_its_connection(dial: Dial, freed: Event) -> None:
    assert body(dial("/", {"Connection": "close"})) == b"home"
    assert freed.wait(DEADLINE)


@pytest.mark.parametrize("path", [URL, "/\x1b[31mred", "/socket/longpoll?a=\xff\x07"])
def test_a_line_of_the_access_log_controls_no_terminal(site: Site, path: str) -> None:
    access = StringIO()
    with dialling(site.serve(log=access)) as dial:
        dial(path, {"Connection": "close"}).take(9)
        gevent.idle()
    (line,) = access.getvalue().splitlines()
    assert f'"GET {path.translate(ESCAPED)} HTTP/1.1" 4' in line


def test_no_access_log(site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    with dialling(site.serve()) as dial:
        assert head(dial("/", {"Connection": "close"})).startswith("HTTP/1.1 200")
        gevent.idle()
    assert "".join(capfd.readouterr()) == caplog.text == ""


class FailingLog:
    """Is written to in vain."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def write(self, line: str) -> None:
        raise self._failure


@pytest.mark.parametrize(("failure", "lines"), [(OSError(errno.ENOSPC, "no space"), 0), (ValueError("closed"), 1)])
def test_an_access_log_that_fails_costs_its_line_alone(
    site: Site, failure: Exception, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with dialling(site.serve(log=FailingLog(failure))) as dial:
        join(dial(URL, UPGRADE))
        drain(site.engine)
    assert caplog.messages.count("the access log failed, and a line of it is lost") == lines


def test_of_a_crowd_that_connects_a_few_are_served_in_each_turn(site: Site) -> None:
    turns = [0]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        turns[-1] += 1
        start_response("200 OK", [])
        return []

    server = site.serve(app)
    turn = gevent.get_hub().loop.prepare()
    turn.start(turns.append, 0)
    with dialling(server), ExitStack() as crowd:
        for _ in range(5 * MAX_ACCEPT):
            sock = crowd.enter_context(monkey.get_original("socket", "socket")())
            sock.connect((HOST, server.server_port))
            sock.sendall(get("/", {"Connection": "close"}))
        assert wait_until(lambda: sum(turns) == 5 * MAX_ACCEPT, lambda: gevent.sleep(0.001))
    turn.close()
    assert max(turns) <= MAX_ACCEPT


FIELDS = ["Host: here", "Connection: close", "Content-Length: 2"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], [None, None, "ok"]),
        (["X-A:  a b\t", "x-a:c", "X_A: d", "Cookie: a=1", "Cookie: b=2"], ["a b,c", "a=1; b=2", "ok"]),
        (["X-A: é:é"], ["é:é", None, "ok"]),
        (["X-A:" + "a" * 65_000], ["a" * 65_000, None, "ok"]),
        (["content-length: 2"], [None, None, "ok"]),
        *[([line], None) for line in ("X-A", "X-A : a", ": a", " X-A: a", "X A: a", "X-A: \0", "X-A: a\rX-B: b")],
        *[([f"Content-Length: {number}"], None) for number in ("3", "-2", "+2", "2,2", "")],
        (["X-A: a", " b"], None),
        (["X-A:" + "a" * 65_536], None),
        (["X-A: a"] * 98, None),
    ],
)
def test_a_head_is_read_as_it_stands_or_refused(site: Site, lines: list[str], told: list[str | None] | None) -> None:
    server = site.serve()
    with dialling(server), connect(server.server_port) as sock:
        client = Wire(sock)
        sock.sendall("\r\n".join(["POST /fields HTTP/1.1", *FIELDS, *lines, "", "ok"]).encode("latin-1"))
        if told is None:
            assert head(client).startswith("HTTP/1.1 400")
        else:
            assert json.loads(body(client)) == told


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /socket/websocket HTTP/1.1\r\nHost: here\r\nUpgr",
        b"POST /socket/longpoll HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\nxxx",
        b"G" * 10_000,
        b"nonsense\r\n\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_breaks_off_leaves_no_traceback(
    site: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, sent: bytes, reset: bool
) -> None:
    server = site.serve()
    with dialling(server):
        sock = connect(server.server_port)
        sock.sendall(sent)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gevent.idle()
        sock.close()
        assert wait_until(lambda: not server.pool, lambda: gevent.sleep(0.001))
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err + caplog.text
    assert len(err.splitlines()) <= 1


def test_a_client_without_tls_leaves_no_traceback(site: Site, tmp_path: Path, capfd: Any) -> None:
    here, _ = tls_contexts(tmp_path)
    server = site.serve(ssl_context=here)
    with dialling(server) as dial, pytest.raises((EOFError, ConnectionError)):
        dial("/", {}).take(1)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_cannot_be_accepted_is_one_line(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files")] * 3
    accept = WSGIServer.do_read
    monkeypatch.setattr(WSGIServer, "do_read", lambda server: fail(failures) if failures else accept(server))
    with dialling(site.serve()) as dial:
        assert head(dial("/", {"Connection": "close"})).startswith("HTTP/1.1 200")
    assert not failures
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("flask_phoenix.server", "ERROR")
    assert "Too many open files; raise the limit (ulimit -n)" in record.message
    assert "Traceback" not in "".join(capfd.readouterr())


def fail(failures: list[OSError]) -> None:
    raise failures.pop()


# Clients that poll


def test_a_poll_whose_client_has_hung_up_takes_nothing(site: Site, dial: Dial) -> None:
    site.app.secret_key = "a secret for tests"
    waiting: Queue[bool] = Queue()
    site.app.teardown_request(lambda error: waiting.put(True))  # a poll waits after that
    token = json.loads(body(dial(f"{POLL}&user=ann", {"Connection": "close"})))["token"]
    url = f"{POLL}&token={token}"
    post = f"POST {url} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {len(JOIN)}\r\n\r\n{JOIN}"
    sender = dial("/", {})
    sender.sock.sendall(post.encode())
    assert json.loads(body(dial(url, {"Connection": "close"})))["messages"] == [JOINED]
    for number in range(20):
        waiting.queue.clear()
        hanging = dial(url, {})
        assert waiting.get(timeout=DEADLINE)
        hanging.sock.close()
        site.phoenix.broadcast("room:1", "news", {"n": number})
        gevent.sleep(0)
        frames = json.loads(body(dial(url, {"Connection": "close"})))["messages"]
        assert frames == [f'[null,null,"room:1","news",{{"n":{number}}}]']


def test_a_client_that_vanishes_is_forgotten(dial: Dial, site: Site) -> None:
    client = join(dial(URL, UPGRADE))
    assert site.phoenix.connection_count() == 1
    client.sock.close()
    assert site.ended.get(timeout=DEADLINE) == "closed"
    assert site.phoenix.connection_count() == 0


def test_it_carries_frames_over_tls(site: Site, tmp_path: Path) -> None:
    here, there = tls_contexts(tmp_path)
    server = site.serve(ssl_context=here)
    with connect(server.server_port) as sock:
        client = Wire(there.wrap_socket(sock))
        client.sock.sendall(get(URL, UPGRADE))
        join(client)
        client.sock.close()
        assert site.ended.get(timeout=DEADLINE) == "closed"
    drain(site.engine)
    server.stop(timeout=DEADLINE)


@pytest.fixture
def signals() -> Iterator[None]:
    """Put the handlers of signals back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_it_serves_until_it_is_told_to_stop(site: Site, signals: None) -> None:
    server = Server((HOST, 0), site.app, log=None)
    serving = gevent.spawn(server.serve_until_stopped)
    gevent.idle()
    with connect(server.server_port) as sock:
        sock.sendall(get(URL, UPGRADE))
        client = join(Wire(sock))
        os.kill(os.getpid(), signal.SIGTERM)
        assert client.closed() == 1012
    serving.get(timeout=DEADLINE)
    assert site.ended.get(timeout=DEADLINE) == "draining"


@pytest.fixture
def collector() -> Iterator[PartialCollector]:
    """Collect in parts."""
    collector = PartialCollector()
    collector.start()
    yield collector
    collector.stop()
    assert gc.get_freeze_count() == 0


class Circle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_garbage_is_looked_for_in_what_is_new_until_that_is_much(collector: PartialCollector) -> None:
    known, left_out = gc.get_freeze_count(), 0
    circle = Circle()
    gone, new = weakref.ref(circle), list[Any]()
    gc.collect()
    del circle
    while gone() is not None:
        assert len(new) < 3 * max(known, NEW_OBJECTS)
        new.extend([] for _ in range(10_000))
        left_out = max(left_out, gc.get_freeze_count())
    assert left_out > known + max(known, NEW_OBJECTS) / 2


@pytest.mark.parametrize(("modules", "fits"), [("", True), ("socket=False", False), ("time=False", False)])
def test_a_process_that_is_not_patched_is_told_the_remedy(modules: str, fits: bool) -> None:
    code = (
        f"from gevent import monkey; monkey.patch_all({modules})\n"
        "from flask_phoenix.server.gevent import require_patched; require_patched()"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=START, capture_output=True, check=False)
    assert (run.returncode == 0) is fits
    assert (b"monkey.patch_all()" in run.stderr) is not fits
    assert (b"flask run" in run.stderr) is not fits


# Where gevent-websocket has said 101 before anybody was asked


@pytest.mark.parametrize(
    ("query", "draining", "code"),
    [("&banned", False, 1008), ("", True, 1012), ("&crash", False, 1011), ("&crash", True, 1012)],
)
def test_a_refusal_after_a_foreign_101_is_a_close_frame(
    dial_foreign: Dial, engine: Engine, query: str, draining: bool, code: int
) -> None:
    engine.draining = draining
    client = dial_foreign(URL + query, UPGRADE)
    assert head(client).startswith("HTTP/1.1 101")
    assert client.close_code() == code
    client.ended()


def test_frames_after_a_foreign_101(dial_foreign: Dial) -> None:
    client = join(dial_foreign(URL, UPGRADE))
    client.close(1000)
    assert client.close_code() == 1000
    client.ended()


def test_a_server_without_a_socket_to_give(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    answer = site.app.test_client().get(URL, headers=UPGRADE)
    assert answer.status_code == 501
    for said in (answer.text, caplog.text):
        assert "'flask run', phoenix.run(app) or 'gunicorn -k gevent'" in said


# The drain


def test_drain(site: Site, engine: Engine) -> None:
    drain(engine)  # of nobody
    engine.draining = False
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(site.app)) for _ in range(3)]
        clients[0].join("room:1")
        drain(engine)
        assert [client.closed for client in clients] == [(1012, "draining")] * 3
    assert not engine.connections
    assert site.ended.get(timeout=DEADLINE) == "draining"


def test_clients_are_let_go_one_batch_after_another(
    site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drains, "CLOSE_RATE", 4 / LONG)
    engine.configure(Settings(drain_window=DEADLINE / 20))
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(site.app)) for _ in range(20)]
        draining = gevent.spawn(drain, engine)
        steps = []
        while not draining.ready():
            gevent.sleep(0.001)
            steps.append(sum(client.closed is not None for client in clients))
        assert 0 < steps[0] < 20
        assert steps == sorted(steps)
        assert len(set(steps)) > 3
        assert [client.closed for client in clients] == [(1012, "draining")] * 20


def test_it_is_done_within_what_the_server_gives(site: Site, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "CLOSE_RATE", 1 / LONG)
    engine.configure(Settings(drain_window=LONG))
    with Client(site.app) as client, Client(site.app), engine.transports:
        gevent.spawn(drain, engine, DEADLINE / 20).get(timeout=DEADLINE)
        assert client.closed == (1012, "draining")


def test_nobody_is_let_in_while_it_drains(dial: Dial, engine: Engine) -> None:
    client = join(dial(URL, UPGRADE))
    draining = gevent.spawn(drain, engine)
    assert client.closed() == 1012
    client.sock.close()
    draining.get(timeout=DEADLINE)
    assert head(dial(URL, UPGRADE)).startswith("HTTP/1.1 503")


def test_it_waits_for_connections_and_for_the_authors_code(site: Site, dial: Dial) -> None:
    client = join(dial(URL, UPGRADE))
    with Client(site.app) as slow:
        slow.join("room:slow")
        draining = gevent.spawn(drain, site.engine)
        for _ in range(2):
            assert site.ended.get(timeout=DEADLINE) == "draining"
        gevent.idle()
        site.release.set()
        gevent.sleep(0)
        assert not draining.ready()
        assert client.closed() == 1012
        draining.get(timeout=DEADLINE)


def test_it_does_not_wait_for_ever(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "GRACE", DEADLINE / 50)

    def hold_up() -> None:
        while True:
            time.sleep(DEADLINE / 100)
            gevent.sleep(0.001)

    busy: Any = gevent.spawn(hold_up)
    begin = time.monotonic()
    with engine.transports:
        drain(engine)
    assert time.monotonic() - begin < DEADLINE / 10  # by the clock, however long each turn of the loop takes
    busy.kill()


def test_it_tells_other_nodes_when_all_have_gone() -> None:
    network = Network()
    node, other = Node(network=network), Node(network=network)
    ada, bob = node.enter(me={"ada": {}}), other.enter()
    eventually(lambda: other.online.count("room:1") == 1)
    leaving = Event()

    def leave() -> None:
        with node.engine.transports:
            leaving.wait(DEADLINE)

    carrying = gevent.spawn(leave)
    gevent.idle()
    draining = gevent.spawn(drain, node.engine)
    eventually(lambda: ada.client.carrier.closed == (1012, "draining"))
    node.online.track("room:1", "robot")
    eventually(lambda: list(other.online.list("room:1")) == ["robot"])
    leaving.set()
    draining.get(timeout=DEADLINE)
    eventually(lambda: not other.online.list("room:1"))
    assert bob.people == {}
    carrying.get(timeout=DEADLINE)
    node.stop()
    other.stop()


# What is learned of the server


def inspect(engine: Engine, environ: dict[str, Any]) -> None:
    """Look at a server, in a greenlet as such a server has it."""
    gevent.spawn(detect_server, engine, environ).get(timeout=DEADLINE)


@pytest.mark.parametrize("several", [True, False])
def test_what_the_server_says_of_other_processes(engine: Engine, several: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for said in (several, not several):  # it is looked at once
        inspect(engine, {"wsgi.multiprocess": said, "SERVER_SOFTWARE": "gevent/26.9"})
    assert engine.one_of_many == several
    assert signal.getsignal(signal.SIGTERM) is before


class Worker:
    """A worker of gunicorn's, as far as it is looked at."""

    def __init__(self, alive: bool) -> None:
        self.alive = alive
        self.cfg = SimpleNamespace(workers=1)
        self.stopped = Event()

    def handle_exit(self, number: int, frame: Any) -> None:
        self.stopped.set()


@pytest.mark.parametrize("alive", [True, False])
def test_it_drains_when_gunicorn_stops_its_worker(engine: Engine, signals: None, alive: bool) -> None:
    worker = Worker(alive)
    signal.signal(signal.SIGTERM, worker.handle_exit)
    inspect(engine, {"SERVER_SOFTWARE": "gunicorn/27.0"})
    assert engine.draining is not alive  # told to stop before its first client came
    os.kill(os.getpid(), signal.SIGTERM)
    assert worker.stopped.wait(DEADLINE)
    gevent.idle()
    assert engine.draining


@pytest.mark.parametrize(("default", "taken"), [(100, MAX_ACCEPT), (1, 1)])
def test_a_worker_of_gunicorn_accepts_a_few_in_each_turn(collector: PartialCollector, default: int, taken: int) -> None:
    server = StreamServer((HOST, 0), lambda *client: None)
    server.max_accept = default
    worker = SimpleNamespace(sockets=[], alive=True)
    watch = WorkerWatch(worker, None)
    watch._check()  # before there is a server
    server.start()
    worker.sockets.append(server.socket)
    gc.collect()  # which leaves the server out of what Python tells of
    watch._check()
    assert server.max_accept == taken
    server.stop()
    eventually(lambda: server.closed)


@pytest.mark.parametrize("clients", [0, 1])
def test_gunicorn_waits_for_the_drain_where_it_notices_first(engine: Engine, clients: int) -> None:
    pool, leave = Pool(1), Event()
    server = StreamServer((HOST, 0), lambda *client: None, spawn=pool)
    server.start()
    worker = SimpleNamespace(sockets=[server.socket], alive=True)
    WorkerWatch(worker, None).add(engine)
    for _ in range(clients):  # as many as are served at a time
        pool.spawn(leave.wait)
    server.close()  # as gunicorn does, which ends with the last greenlet of the pool
    leave.set()
    assert engine.draining
    assert len(pool) == clients + 1
    assert pool.join(DEADLINE)
    assert server.closed


class InterruptedServer(StreamServer):
    """Is told that its worker is to end while it accepts; who is served asks for its listener, as gunicorn does."""

    def __init__(self, pool: Pool) -> None:
        super().__init__((HOST, 0), self.answer, spawn=pool)
        self.watch: WorkerWatch | None = None

    def do_read(self) -> Any:
        accepted = super().do_read()
        if self.watch is not None:
            self.watch.handle_signal(signal.SIGTERM, None)
        return accepted

    def answer(self, client: gevent.socket.socket, address: Any) -> None:
        client.sendall(b"%d" % self.socket.getsockname()[1])
        client.close()


def test_whom_a_worker_of_gunicorn_has_accepted_it_serves_and_nobody_more(
    engine: Engine, signals: None, capfd: Any
) -> None:
    pool = Pool(10)
    server = InterruptedServer(pool)
    server.start()
    port: int = server.socket.getsockname()[1]
    first, second = (monkey.get_original("socket", "socket")() for _ in range(2))
    for client in (first, second):
        client.connect((HOST, port))  # nothing else runs meanwhile
    server.watch = WorkerWatch(SimpleNamespace(sockets=[server.socket], alive=True), None)
    server.watch.add(engine)
    eventually(lambda: server.closed)
    assert pool.join(DEADLINE)
    assert first.recv(100) == b"%d" % port
    with pytest.raises(ConnectionResetError):  # another worker, where there is one, would have accepted it
        second.recv(100)
    assert capfd.readouterr().err == ""
    first.close()
    second.close()


def test_many_who_come_at_once_find_room_before_they_are_accepted(site: Site) -> None:
    server = site.serve()
    with ExitStack() as stack:
        for _ in range(1000):  # more than gevent's 256, whose connection would take seconds; nothing runs meanwhile
            sock = stack.enter_context(monkey.get_original("socket", "socket")())
            sock.settimeout(0.9)
            sock.connect((HOST, server.server_port))
    server.stop()
