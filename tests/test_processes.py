"""Every public call in every kind of process: it works, or says why not, as docs/howto/processes.md has it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask
from gevent import monkey

from flask_phoenix import Channel, Phoenix, Presence, Socket, on
from flask_phoenix.exceptions import PhoenixError
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.testing import Client
from tests.support.loop import in_greenlet, in_plain_thread, in_thread, turn
from tests.support.processes import DEADLINE, ROOT, wait_until

Call = Callable[[], Any]


class App:
    """An app, in a process of its own as far as its nodes are concerned; its code is not being tested."""

    def __init__(self, url: str | None) -> None:
        self.phoenix, self.flask = Phoenix(), Flask(__name__)
        self.flask.config.update(PHOENIX_PUBSUB_URL=url, PROPAGATE_EXCEPTIONS=True)
        self.presence: Presence = self.phoenix.presence()
        self.call: Call = lambda: None
        self.results: list[Any] = []
        app = self

        class Room(Channel):
            def join(self, payload: Any) -> None:
                pass

            @on("call")
            def call(self, payload: Any) -> None:
                app.results.append(app.call())

        @self.phoenix.socket("/socket")
        class User(Socket):
            def id(self) -> str:
                return "user:1"

        User.channel("room:*")(Room)
        self.phoenix.init_app(self.flask)
        self.flask.add_url_rule("/", view_func=self.view)
        self.engine = self.flask.extensions["phoenix"].engine

    def view(self) -> str:
        """Call what a test gives."""
        self.results.append(self.call())
        return ""


class Server:
    """The app in another process, with a client, somebody present, and a word on the topic now and then."""

    def __init__(self, url: str) -> None:
        self.app = App(url)
        self.heard: list[Broadcast] = []
        self.client = Client(self.app.flask)
        self.client.join("room:1")
        self.app.phoenix.subscribe("room:1", self.heard.append)
        with self.app.flask.app_context():
            self.app.presence.track("room:1", "ada")
        self._ticker = gevent.spawn(self._tick)

    def stop(self) -> None:
        """End what was started."""
        self._ticker.kill()
        self.client.close()
        self.app.engine.stop()

    def _tick(self) -> None:
        while True:
            self.app.phoenix.broadcast("room:1", "tick", {})
            gevent.sleep(0.02)


@pytest.fixture
def server(short_path: Path) -> Iterator[Server]:
    server = Server(f"workers://{short_path}/workers")
    yield server
    server.stop()


# The kinds of processes: each calls a function as such a process would.


def in_view(app: App, call: Call) -> Any:
    app.call = call
    in_greenlet(app.flask.test_client().get, "/")
    return app.results.pop()


def in_handler(app: App, call: Call) -> Any:
    app.call = call
    with Client(app.flask) as client:
        client.join("room:elsewhere").push("call")
        assert wait_until(lambda: bool(app.results), turn)
    return app.results.pop()


def in_command(app: App, call: Call) -> Any:
    with app.flask.app_context():
        return call()


def in_thread_without_gevent(app: App, call: Call) -> Any:
    return in_thread(in_plain_thread, in_command, app, call)


def in_pool(app: App, call: Call) -> Any:
    return in_thread(in_command, app, call)


def with_client(kind: Callable[[App, Call], Any], app: App, call: Call) -> Any:
    with Client(app.flask) as client:
        client.join("room:elsewhere")
        return kind(app, call)


def after_drain(app: App, call: Call) -> Any:
    app.engine.serve()
    app.engine.draining = True
    app.engine.stop()
    return in_command(app, call)


def in_fork(app: App, call: Call) -> Any:
    """Call in a child, whose parent does nothing any more."""
    app.engine.serve()
    if child := os.fork():
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    return in_greenlet(in_command, app, call)


KINDS: dict[str, Callable[[App, Call], Any]] = {
    "a view, before the first client": in_view,
    "a view, once there are clients": partial(with_client, in_view),
    "a handler of a channel": in_handler,
    "a command, a shell, a script": in_command,
    "a thread without gevent, of a task queue for example": in_thread_without_gevent,
    "a thread of gevent's pool, before the first client": in_pool,
    "a thread of gevent's pool, once there are clients": partial(with_client, in_pool),
    "a process forked from a node": in_fork,
    "after the drain": after_drain,
}
#: These need a process of their own: they publish without letting the event loop run, or fork.
REAL = {"a command, a shell, a script", "a process forked from a node", "after the drain"}


# The calls: each returns a function that tells, sooner or later, whether it has worked.


def broadcast(app: App) -> Call:
    app.phoenix.broadcast("room:1", "said", {"n": 1})
    return bool


def disconnect(app: App) -> Call:
    app.phoenix.disconnect("user:1")
    return bool


def local_broadcast(app: App) -> Call:
    app.phoenix.local_broadcast("room:1", "said", {"n": 1})
    return lambda: app.phoenix.connection_count() in (0, 1)


def subscribe(app: App) -> Call:
    heard: list[Broadcast] = []
    end = app.phoenix.subscribe("room:1", heard.append)
    if app.flask.config["PHOENIX_PUBSUB_URL"] is None:
        app.phoenix.broadcast("room:1", "tick", {})
    return lambda: bool(heard) and end() is None


def tap(app: App) -> Call:
    heard: list[Broadcast] = []
    end = app.phoenix.tap(heard.append)
    app.phoenix.local_broadcast("room:1", "said", {"n": 1})
    return lambda: bool(heard) and end() is None


def look(app: App) -> Call:
    present, count = app.presence.list("room:1"), app.presence.count("room:1")
    found = app.presence.get_by_key("room:1", "ada")
    expected = 0 if app.flask.config["PHOENIX_PUBSUB_URL"] is None else 1
    return lambda: len(present) == count == (found is not None) == expected


def track(app: App) -> Call:
    app.presence.track("room:1", "bob")
    app.presence.update("room:1", "bob", {"n": 1})
    app.presence.untrack("room:1", "bob")
    return lambda: True


CALLS: list[Callable[[App], Call]] = [broadcast, disconnect, local_broadcast, subscribe, tap, look, track]
#: The columns of the tables.
COLUMNS = [(broadcast, disconnect), (local_broadcast,), (subscribe,), (tap,), (look,), (track,)]


def outcome(kind: str, call: Callable[[App], Call], url: str | None) -> str:
    """Return what a call comes to in a kind of process, in the page's words."""
    app = App(url)
    try:
        worked = KINDS[kind](app, partial(call, app))
        silent = call in (broadcast, disconnect)
        return "works" if silent or wait_until(worked, partial(gevent.sleep, 0.005)) else "nothing came"
    except PhoenixError as error:
        return type(error).__name__
    finally:
        app.engine.stop()


class Nursery:
    """Makes processes by forking one that has imported everything, and has done nothing else."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.test_processes"),
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def outcome(self, kind: str, call: Callable[[App], Call], url: str | None) -> str:
        """Return what a call comes to in a process of its own."""
        return str(in_thread(self._outcome, kind, call, url))

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=DEADLINE)

    def _outcome(self, kind: str, call: Callable[[App], Call], url: str | None) -> str:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([kind, CALLS.index(call), url]) + "\n")
        self._process.stdin.flush()
        *said, status = takewhile(str.strip, self._process.stdout)
        assert status == "0\n", "".join([*said, status])
        if url is None and call in (subscribe, tap):
            assert "PHOENIX_PUBSUB_URL" in "".join(said)
        return said[-1].strip()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def table(number: int) -> list[tuple[str, int, str]]:
    """Return the cells of a table of the page: the kind of process, the column, what is promised."""
    page = (ROOT / "docs/howto/processes.md").read_text().split("\n## ")[number]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", page, re.M)]
    return [(row[0], column, cell.strip("`")) for row in rows[2:] for column, cell in enumerate(row[1:])]


@pytest.mark.parametrize(("kind", "column", "promise"), table(1))
def test_where_processes_are_joined(server: Server, nursery: Nursery, kind: str, column: int, promise: str) -> None:
    url = server.app.flask.config["PHOENIX_PUBSUB_URL"]
    for call in COLUMNS[column]:
        assert (nursery.outcome if kind in REAL else outcome)(kind, call, url) == promise, call.__name__
    if column == 0:
        assert wait_until(lambda: "said" in [each.event for each in server.heard], turn)
        assert wait_until(lambda: server.client.closed is not None, turn)


@pytest.mark.parametrize(("kind", "column", "promise"), table(2))
def test_where_nothing_joins_them(nursery: Nursery, kind: str, column: int, promise: str) -> None:
    for call in COLUMNS[column]:
        assert (nursery.outcome if kind in REAL else outcome)(kind, call, None) == promise, call.__name__


def breed() -> None:
    """Carry out each call that a line asks for in a child, and tell its exit status; an empty line ends the answer."""
    # Those of gevent would make an event loop here, which the children would inherit.
    fork, wait = monkey.get_original("os", "fork"), monkey.get_original("os", "waitpid")
    for line in sys.stdin:
        kind, call, url = json.loads(line)
        child = fork()
        if not child:
            print(outcome(kind, CALLS[call], url), flush=True)  # noqa: T201
            sys.exit()
        print(f"{os.waitstatus_to_exitcode(wait(child, 0)[1])}\n", flush=True)  # noqa: T201


if __name__ == "__main__":
    monkey.patch_all()
    breed()
