"""Caps of a process: how many clients it has, how fast they come, join, speak, and send their requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask, request
from gevent.event import Event
from gevent.queue import Queue
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_phoenix import InvalidOption, Phoenix
from flask_phoenix.runtime.caps import Rate, network_of
from flask_phoenix.runtime.settings import Settings
from flask_phoenix.server.drain import drain
from flask_phoenix.server.gevent import Server
from flask_phoenix.signals import limit_reached
from flask_phoenix.testing import Clock
from tests.support.http import POLL, URL, head, join
from tests.support.presence import LONG, eventually
from tests.support.processes import DEADLINE, HOST
from tests.support.served import Clients, Room, Visitor
from tests.support.wire import UPGRADE, Wire, tls_contexts

ECHO = '["1","2","room:1","echo",{}]'


class Site:
    """An app under our own server.

    :param settings: of the process.
    :param options: of the mount.
    """

    def __init__(self, settings: dict[str, Any], options: dict[str, Any], server: dict[str, Any]) -> None:
        self.app = Flask(__name__)
        self.app.secret_key = "a secret"
        self.app.config.update({f"PHOENIX_{name.upper()}": value for name, value in settings.items()})
        self.app.wsgi_app = ProxyFix(self.app.wsgi_app)  # type: ignore[method-assign]
        phoenix = Phoenix(self.app)
        #: Set when a client asks to be let in; what its connect waits for.
        self.asked, self.gate = Event(), Event()
        self.gate.set()
        site = self

        @phoenix.socket("/socket", longpoll=True, **options)
        class UserSocket(Visitor):
            def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
                site.asked.set()
                site.gate.wait(DEADLINE)
                super().connect(params, info)

        UserSocket.channel("room:*")(Room)

        @self.app.post("/upload")
        def upload() -> str:
            return str(len(request.get_data()))

        self.engine = self.app.extensions["phoenix"].engine
        self.server = Server((HOST, 0), self.app, [self.engine], log=None, **server)
        self.server.start()
        self.clients = Clients(self.server)
        #: The limits that were signalled.
        self.reached: list[str] = []
        limit_reached.connect(self._note, self.app)

    def _note(self, app: Flask, limit: str, **about: Any) -> None:
        self.reached.append(limit)

    def status(self, path: str = URL, headers: Mapping[str, str] = UPGRADE) -> str:
        """Send a request, and hang up after the head of its answer; return that."""
        client = self.clients.dial(path, headers)
        with client.sock:
            return head(client)

    def stop(self) -> None:
        """End."""
        self.clients.close()
        drain(self.engine)
        self.server.stop(timeout=1)
        self.engine.stop()


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site() -> Iterator[MakeSite]:
    """Make apps that are served."""
    sites: list[Site] = []

    def make_site(options: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **settings: Any) -> Site:
        sites.append(Site(settings, options or {}, server or {}))
        return sites[-1]

    yield make_site
    for site in sites:
        site.stop()


# How many are connected


def test_who_comes_after_the_last_place_was_taken_is_told_when_to_try_again(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(max_connections=2)
    clients = [site.clients.enter()]
    polled = site.clients.dial(POLL, {"Connection": "close"})
    assert head(polled).startswith("HTTP/1.1 200")
    for path, headers in ((URL, UPGRADE), (POLL, {})) * 2:
        refusal = site.status(path, headers)
        assert refusal.startswith("HTTP/1.1 503")
        assert "Retry-After: 10\r\n" in refusal
    assert site.reached == ["max_connections"] * 4
    assert caplog.messages == ["clients are refused: PHOENIX_MAX_CONNECTIONS is reached"]
    clients[0].sock.close()
    eventually(lambda: site.status().startswith("HTTP/1.1 101"))
    for connection in list(site.engine.connections):
        connection.close(1000, "gone")
    eventually(lambda: site.status(POLL, {}).startswith("HTTP/1.1 200"))


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"{URL}&banned=1", UPGRADE),
        (f"{POLL}&banned=1", {}),
        (f"{URL[:-5]}9.9.9", UPGRADE),
        (URL, {**UPGRADE, "Sec-WebSocket-Version": "12"}),
    ],
)
def test_who_is_not_let_in_takes_no_place(make_site: MakeSite, path: str, headers: dict[str, str]) -> None:
    site = make_site(max_connections=1)
    for _ in range(3):
        assert " 503 " not in site.status(path, headers)
    assert site.status().startswith("HTTP/1.1 101")


def test_a_place_is_taken_before_the_author_is_asked(make_site: MakeSite) -> None:
    site = make_site(max_connections=1)
    site.gate.clear()
    first = site.clients.dial()
    assert site.asked.wait(DEADLINE)
    assert site.status().startswith("HTTP/1.1 503")
    site.gate.set()
    assert head(first).startswith("HTTP/1.1 101")


def test_places_of_an_address(make_site: MakeSite) -> None:
    site = make_site(max_connections_per_address=1)

    def ask(address: str) -> Wire:
        return site.clients.dial(headers={**UPGRADE, "X-Forwarded-For": address})

    first = ask("2001:db8::1")
    answers = [head(client)[9:12] for client in (first, ask("2001:db8::2"), ask("2001:db8:0:1::1"))]
    assert answers == ["101", "503", "101"]
    assert site.reached == ["max_connections_per_address"]
    first.sock.close()
    eventually(lambda: head(ask("2001:db8::3"))[9:12] == "101")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("2001:db8:1:2:3::", "20010db800010002"),
        ("a name", "a name"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


# How fast they come


def test_a_rate_gives_turns_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("flask_phoenix.clock.monotonic", lambda: now)
    rate = Rate(2, burst=1, max_delay=2)
    assert [rate.delay() for _ in range(8)] == [0, 0, 0.5, 1, 1.5, 2, None, None]
    now = 101.0
    assert [rate.delay() for _ in range(3)] == [1.5, 2, None]
    now = 200.0
    assert [rate.delay() for _ in range(3)] == [0, 0, 0.5]
    slow = Rate(0.1, burst=1, max_delay=11)
    assert [slow.delay() for _ in range(3)] == [0, 10, None]


class Turns(Rate):
    """Gives so many turns, each when the test does."""

    def __init__(self, most: int) -> None:
        self._left = most
        self.waiting: Queue[Event] = Queue()

    def wait(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        turn = Event()
        self.waiting.put(turn)
        return turn.wait(DEADLINE)

    def take(self, count: int) -> list[Event]:
        """Return the turns of so many that wait, the first first."""
        return [self.waiting.get(timeout=DEADLINE) for _ in range(count)]


def test_handshakes_that_come_together_wait_and_too_many_are_refused(make_site: MakeSite) -> None:
    site = make_site()
    rate = site.engine.caps.handshakes = Turns(3)
    clients = [site.clients.dial() for _ in range(3)]
    turns = rate.take(3)
    assert site.status().startswith("HTTP/1.1 503")
    assert site.reached == ["handshakes_per_second"]
    assert not site.asked.is_set()
    for turn in turns:
        turn.set()
    assert [head(client)[9:12] for client in clients] == ["101"] * 3


def test_one_who_goes_while_waiting_is_not_let_in(make_site: MakeSite) -> None:
    site = make_site()
    rate = site.engine.caps.handshakes = Turns(3)
    first, second, third = (site.clients.dial() for _ in range(3))
    turns = rate.take(3)
    second.sock.close()
    for turn in turns:
        turn.set()
    assert [head(client)[9:12] for client in (first, third)] == ["101", "101"]
    assert len(site.engine.connections) == 2


def test_joins_wait_for_their_turn_and_too_many_are_answered(make_site: MakeSite) -> None:
    site = make_site()
    rate = site.engine.caps.joins = Turns(2)
    client = site.clients.enter()
    for number in "123":
        client.text(f'["{number}","{number}","room:{number}","phx_join",{{}}]')
    turns, answers = rate.take(2), [json.loads(client.data())]
    for turn in turns:
        turn.set()
        answers.append(json.loads(client.data()))
    said = [(topic, payload["status"]) for _, _, topic, _, payload in answers]
    assert said == [("room:3", "error"), ("room:1", "ok"), ("room:2", "ok")]
    assert site.reached == ["joins_per_second"]


def test_a_client_that_says_much_is_read_more_slowly(
    make_site: MakeSite, phoenix_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site({"messages_per_second": 2})  # and as many as in two seconds at once
    client, heard = join(site.clients.enter()), list[Any]()
    phoenix_clock.advance(1)
    for _ in range(8):
        client.text(ECHO)
    gevent.spawn(lambda: heard.extend(client.data() for _ in range(8)))
    counted = []
    for seconds in (0, 0.4, 0.2, 1.3, 0.2):
        phoenix_clock.advance(seconds)
        counted.append(len(heard))
    assert counted == [4, 4, 5, 7, 8]
    assert heard == [client_echo()] * 8
    assert set(site.reached) == {"messages_per_second"}
    assert len(caplog.records) == 1


def client_echo() -> str:
    """Return the answer to an echo."""
    return '["1","2","room:1","phx_reply",{"status":"ok","response":{}}]'


# How fast a request comes


def test_who_sends_a_head_too_slowly_is_cut_off(
    make_site: MakeSite, phoenix_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(head_timeout=10, keepalive_timeout=LONG, upload_timeout=LONG)
    slow = [site.clients.send(data) for data in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: here\r\n")]
    client = join(site.clients.enter())
    phoenix_clock.advance(9.9)
    assert site.reached == []
    phoenix_clock.advance(0.2)
    for each in slow:
        each.ended()
    assert site.reached == ["head_timeout"] * 3
    assert caplog.messages == ["clients that send a request too slowly are cut off (PHOENIX_HEAD_TIMEOUT)"]
    client.text(ECHO)
    assert client.data() == client_echo()


def test_who_sends_no_next_request_is_let_go(
    make_site: MakeSite, phoenix_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site(keepalive_timeout=10)
    client = site.clients.dial("/nowhere", {})
    assert head(client).startswith("HTTP/1.1 404")
    phoenix_clock.advance(10)
    while client.sock.recv(4096):
        pass
    assert caplog.messages == site.reached == []


@pytest.mark.parametrize("length", ["Content-Length: 200000", "Transfer-Encoding: chunked"])
def test_who_sends_a_body_too_slowly_is_cut_off(make_site: MakeSite, phoenix_clock: Clock, length: str) -> None:
    site = make_site(upload_timeout=10, head_timeout=LONG)
    client = site.clients.send(f"POST /upload HTTP/1.1\r\nHost: here\r\n{length}\r\n\r\n5\r\nhello".encode())
    phoenix_clock.advance(9.9)
    assert site.reached == []
    phoenix_clock.advance(0.2)
    while client.sock.recv(4096):
        pass
    assert site.reached == ["upload_timeout"]


def test_a_large_body_takes_the_time_that_it_takes(make_site: MakeSite, phoenix_clock: Clock) -> None:
    site = make_site(upload_timeout=10)
    client = site.clients.send(
        b"POST /upload HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: 196608\r\n\r\n"
    )
    for _ in range(3):
        phoenix_clock.advance(9)
        client.sock.sendall(b"x" * 65536)
    assert head(client).startswith("HTTP/1.1 200")
    assert client.take(6) == b"196608"


def test_a_handshake_of_tls_has_a_time_limit(
    make_site: MakeSite, phoenix_clock: Clock, tmp_path: Path, caplog: Any
) -> None:
    here, _ = tls_contexts(tmp_path)
    client = make_site(server={"ssl_context": here}, head_timeout=10).clients.send(b"\x16\x03\x01")
    phoenix_clock.advance(10)
    client.ended()
    assert caplog.messages == []


@pytest.mark.parametrize("name", [name for name in vars(Settings()) if name != "max_connections"])
@pytest.mark.parametrize("value", [0, -1, "5", True, float("inf")])
def test_settings_are_positive_numbers(name: str, value: Any) -> None:
    with pytest.raises(InvalidOption, match=f"PHOENIX_{name.upper()} is a positive number"):
        Settings.read({f"PHOENIX_{name.upper()}": value})
    assert Settings.read({"PHOENIX_MAX_CONNECTIONS": None}) == Settings()
