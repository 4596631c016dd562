"""Publishing from outside: scripts, children, threads, and what they are told when nobody is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import gevent
import pytest
from flask import Flask

from flask_phoenix import (
    Broadcaster,
    Channel,
    History,
    InvalidOption,
    InvalidPayload,
    Json,
    NotPublished,
    Phoenix,
    Socket,
)
from flask_phoenix.pubsub.unix import adapter as workers
from flask_phoenix.pubsub.unix.peer import listen
from flask_phoenix.testing import Client, Joined
from tests.support.loop import in_thread, turn
from tests.support.processes import DEADLINE, HOST, ROOT, START, free_port, wait_until
from tests.support.redis_server import RedisServer

SETTING = "PHOENIX_PUBSUB_URL"


class UserSocket(Socket):
    def id(self) -> str | None:
        return self.params.get("user")


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    def join(self, payload: Any) -> None:
        return None


class Stage:
    """An app that serves in this process, as one node of a network, and its clients."""

    def __init__(self, url: str) -> None:
        self.app = Flask("app")
        self.app.config[SETTING] = url
        phoenix = Phoenix(self.app)
        phoenix.presence()
        phoenix.socket("/socket")(UserSocket)
        self._stack = ExitStack()

    def enter(self, topic: str = "room:1", **params: Any) -> Joined:
        """Let a client join a topic; its parameter ``user`` is the id of its socket."""
        client = self._stack.enter_context(Client(self.app, params=params, within=DEADLINE))
        return client.join(topic)

    def close(self) -> None:
        """Let the clients go, and stop serving."""
        self._stack.close()
        self.app.extensions["phoenix"].engine.stop()


@pytest.fixture(params=["workers", "redis"])
def url(request: pytest.FixtureRequest, short_path: Path) -> str:
    """How the processes are joined."""
    if request.param == "workers":
        return f"workers://{short_path / 'workers'}"
    url: str = request.getfixturevalue("redis_url")
    return url


MakeStage = Callable[[], Stage]


@pytest.fixture
def make_stage(url: str) -> Iterator[MakeStage]:
    """Make apps that serve, and stop them in the end."""
    with ExitStack() as stack:

        def make() -> Stage:
            stage = Stage(url)
            stack.callback(stage.close)
            return stage

        yield make


@pytest.fixture
def joined(make_stage: MakeStage) -> Joined:
    """Return a client that has joined ``room:1`` of an app."""
    return make_stage().enter()


@pytest.fixture
def broadcaster(url: str) -> Iterator[Broadcaster]:
    with Broadcaster(url) as broadcaster:
        yield broadcaster


def news(joined: Joined, number: int = 1) -> list[int]:
    """Return the numbers of the next so many broadcasts; no other may come."""
    numbers = [joined.assert_push("news", within=DEADLINE)["n"] for _ in range(number)]
    turn()
    joined.refute_push("news")
    return numbers


def expect_sent_away(joined: Joined) -> None:
    """Wait until a client's connection is closed, as by a disconnect."""
    assert wait_until(lambda: joined.client.closed is not None, lambda: gevent.sleep(0.001))
    assert joined.client.closed == (1001, "disconnected")


# Processes of many kinds

SCRIPT = """
import sys
before = set(sys.modules)
if "patched" in sys.argv:
    from gevent import monkey
    monkey.patch_all()
from flask_phoenix import Broadcaster

with Broadcaster(sys.argv[1]) as broadcaster:
    for number in range(90):
        broadcaster.broadcast("room:1", "news", {"n": number})
    for number in range(90, 100):
        tell = lambda: broadcaster.broadcast("room:1", "news", {"n": number})
        if "patched" in sys.argv:
            # In other threads than that of the event loop to which patched sockets belong.
            import gevent
            gevent.get_hub().threadpool.apply(tell)
        else:
            tell()
    broadcaster.broadcast("room:1", "blob", b"\\xde\\xad")
    broadcaster.disconnect("user:ada")
if "patched" not in sys.argv:
    loaded = {"flask", "werkzeug", "gevent", "greenlet"} & (set(sys.modules) - before)
    assert not loaded, loaded
"""

PREFORK = """
import multiprocessing
import os
import sys
from flask_phoenix import Broadcaster

broadcaster = Broadcaster(sys.argv[1])

def task(number):
    broadcaster.broadcast("room:1", "news", {"n": number})
    return os.getpid()

if __name__ == "__main__":
    first = task(0)
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=5) as pool:
        children = pool.map(task, range(1, 31), chunksize=1)
    assert first not in children and len(set(children)) >= 2
    assert task(31) == first
"""


def run(script: str, *arguments: str) -> None:
    """Run a script in a process of its own, while the event loop of this one goes on."""
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    call = lambda: subprocess.run(command, cwd=ROOT, timeout=START, capture_output=True, text=True)  # noqa: E731
    done: subprocess.CompletedProcess[str] = in_thread(call)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("options", [(), ("patched",)], ids=["plain", "patched"])
def test_a_script(url: str, make_stage: MakeStage, options: tuple[str, ...]) -> None:
    stages = [make_stage(), make_stage()]
    listeners = [stage.enter() for stage in stages]
    ada, grace = stages[1].enter(user="user:ada"), stages[1].enter(user="user:grace")
    run(SCRIPT, url, *options)
    expect_sent_away(ada)
    for listener in (*listeners, grace):
        assert news(listener, 100) == list(range(100))
        assert listener.assert_push("blob") == b"\xde\xad"
        assert listener.client.closed is None


def test_children_of_one_that_has_broadcast_before(url: str, joined: Joined) -> None:
    run(PREFORK, url)
    numbers = news(joined, 32)
    assert (numbers[0], numbers[31]) == (0, 31)
    assert sorted(numbers) == list(range(32))


# What is said


@pytest.mark.parametrize("payload", [{}, {"text": "caf\u00e9 \U0001f600 \n"}, {"deep": [{"n": None}]}, b"", b"\0\xff"])
def test_clients_get_what_was_said(broadcaster: Broadcaster, joined: Joined, payload: Any) -> None:
    in_thread(broadcaster.broadcast, "room:two words\n\u00e9", "news", {"other": "topic"})
    in_thread(broadcaster.broadcast, "room:1", "news", payload)
    assert joined.assert_push("news") == payload


@pytest.mark.parametrize(
    ("topic", "event", "payload"),
    [
        ("room:1", "news", object()),
        ("room:1", "news", {"n": float("nan")}),
        ("room:1", "news", {1: "one", "1": "another"}),
        ("room:1", "news", [1]),
        ("room:1", "news", "{}"),
        ("room:1", "news", None),
        ("room:1", "x" * 70_000, {}),
        (7, "news", {}),
        ("room:1", b"news", {}),
        (b"room:1", "news", {}),
    ],
)
@pytest.mark.parametrize("url", ["workers"], indirect=True)
def test_what_cannot_be_said(broadcaster: Broadcaster, joined: Joined, topic: Any, event: Any, payload: Any) -> None:
    with pytest.raises(InvalidPayload):
        broadcaster.broadcast(topic, event, payload)
    with pytest.raises(InvalidPayload, match="strings"):
        broadcaster.disconnect(7)  # type: ignore[arg-type]
    in_thread(broadcaster.broadcast, "room:1", "news", {"n": 1})
    assert news(joined) == [1]


def test_payloads_are_written_by_the_json_that_is_given(url: str, joined: Joined) -> None:
    with Broadcaster(url, Json(default=lambda value: sorted(value))) as broadcaster:
        in_thread(broadcaster.broadcast, "room:1", "news", {"n": {3, 1, 2}})
    assert joined.assert_push("news") == {"n": [1, 2, 3]}


def test_payloads_are_written_as_by_an_app(broadcaster: Broadcaster, joined: Joined) -> None:
    in_thread(broadcaster.broadcast, "room:1", "news", {"at": datetime(2026, 1, 2), "tags": {"a"}})
    assert joined.assert_push("news") == {"at": "2026-01-02T00:00:00", "tags": ["a"]}


# Its life


def test_one_that_was_closed_can_be_used_again(url: str, joined: Joined) -> None:
    broadcaster = Broadcaster(url)
    broadcaster.close()
    for number in range(3):
        in_thread(broadcaster.broadcast, "room:1", "news", {"n": number})
        broadcaster.close()
        broadcaster.close()
    with broadcaster as same:  # that nothing is left open is looked for after every test
        in_thread(same.broadcast, "room:1", "news", {"n": 3})
    assert news(joined, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("url", ["workers"], indirect=True)
def test_nobody_is_told_that_it_was_said_when_no_worker_is_there(
    broadcaster: Broadcaster, make_stage: MakeStage
) -> None:
    for _ in range(2):
        with pytest.raises(NotPublished, match="no worker listens"):
            broadcaster.broadcast("room:1", "news", {"n": 0})
        with pytest.raises(NotPublished, match="no worker listens"):
            broadcaster.disconnect("user:ada")
        stage = make_stage()
        joined = stage.enter()
        in_thread(broadcaster.broadcast, "room:1", "news", {"n": 1})
        assert news(joined) == [1]
        stage.close()


def test_nobody_is_told_that_it_was_said_without_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    stage = Stage(server.url)
    joined = stage.enter()

    with Broadcaster(server.url) as broadcaster:

        def heard() -> bool:
            broadcaster.broadcast("room:1", "are you there", {})
            with suppress(AssertionError):
                joined.assert_push("are you there", within=0.01)
                return True
            return False

        server.kill()
        with pytest.raises(NotPublished, match="Redis has not taken it"):
            broadcaster.broadcast("room:1", "news", {"n": "lost"})
        server.start()
        assert wait_until(heard, lambda: None)
    stage.close()
    server.kill()


@pytest.mark.parametrize("scheme", ["workers", "redis"])
def test_the_first_client_of_a_process_waits_for_one_time_out(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    timeout = DEADLINE / 5
    monkeypatch.setattr(workers, "CONFIRM_TIMEOUT", timeout)
    silent, nobody = listen(short_path, "silent"), f"redis://{HOST}:{free_port()}?subscribe_timeout={timeout}"
    url = f"workers://{short_path}" if scheme == "workers" else nobody
    stage, began = Stage(url), time.monotonic()
    stage.enter(user="user:ada")  # its process, a presence, its user and its room all have a topic
    assert time.monotonic() - began < 2 * timeout
    stage.close()
    silent.close()


# The URL


def test_the_environment_names_the_url(url: str, joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, url)
    for made in (Broadcaster(), Broadcaster(None), Broadcaster("")):
        with made as broadcaster:
            in_thread(broadcaster.broadcast, "room:1", "news", {"n": 1})
    assert news(joined, 3) == [1, 1, 1]
    monkeypatch.setenv(SETTING, "kafka://localhost")
    with Broadcaster(url) as broadcaster:
        in_thread(broadcaster.broadcast, "room:1", "news", {"n": 2})
    assert news(joined) == [2]


@pytest.mark.parametrize("given", [None, "", "none"])
@pytest.mark.parametrize("setting", [None, "", "none"])
def test_without_a_url_the_remedy_is_named(
    given: str | None, setting: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    if setting is not None:
        monkeypatch.setenv(SETTING, setting)
    with pytest.raises(InvalidOption) as mistake:
        Broadcaster(given)
    for word in (SETTING, "redis://localhost", "workers:///run/myapp", "the app the same"):
        assert word in str(mistake.value)


# Several topics


class Counting(Json):
    """Counts what it writes."""

    written = 0

    def dumps(self, value: Any) -> str:
        self.written += 1
        return super().dumps(value)


def test_several_topics_with_a_payload_that_is_written_once(make_stage: MakeStage, url: str) -> None:
    one, other = make_stage(), make_stage()
    joined = [one.enter("room:1"), one.enter("room:2"), other.enter("room:2")]
    json = Counting()
    histories = {"room:2": History(size=5)}
    with Broadcaster(url, json, histories) as broadcaster:
        positions = in_thread(lambda: broadcaster.broadcast(["room:1", "room:2"], "news", {"n": 1}))
        assert [position and position.offset for position in positions] == [None, 1]
        assert json.written == 1
        assert [news(each) for each in joined] == [[1]] * 3
        with pytest.raises(InvalidPayload):
            broadcaster.broadcast(("room:1", 7), "news", {"n": 2})  # type: ignore[arg-type]
        assert broadcaster.broadcast([], "news", {}) == []
    state = one.app.extensions["phoenix"]
    state.engine._json = json
    assert state.broadcast(("room:1", "room:2"), "news", {"n": 3}) == [None, None]
    assert json.written == 2
    assert [news(each) for each in joined] == [[3]] * 3
    state.broadcast(["room:1", "room:2"], "blob", b"\x01")
    assert [each.assert_push("blob", within=DEADLINE) for each in joined] == [b"\x01"] * 3
    with pytest.raises(InvalidPayload):
        state.broadcast(["room:1", 7], "news", {"n": 4})
    with pytest.raises(InvalidOption, match="has no history"):
        state.broadcast(["room:1"], "news", {"n": 4}, idempotency_key="k")
    assert [news(each, 0) for each in joined] == [[]] * 3
