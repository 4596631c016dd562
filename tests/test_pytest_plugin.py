"""The fixtures for authors' tests, in processes of pytest's own, alone and beside other plugins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import DEADLINE, ROOT

APP = """
from time import sleep
from flask import Flask
from flask_phoenix import Channel, Phoenix, Socket, on

phoenix = Phoenix()


@phoenix.socket("/socket")
class UserSocket(Socket):
    pass


@UserSocket.channel("room:*")
class Room(Channel):
    def join(self, payload):
        return None

    @on("say")
    def say(self, payload):
        self.broadcast("said", payload)
        self.send_after(60, payload)

    @on("nap")
    def nap(self, payload):
        sleep(payload["seconds"])
        return {"slept": payload["seconds"]}

    def handle_info(self, message):
        self.push("late", message)


def make():
    app = Flask(__name__)
    phoenix.init_app(app)
    return app
"""

#: The first of the files of tests.
FIXTURE = """
import pytest
from chat import make


@pytest.fixture
def app():
    return make()
"""

#: What holds wherever the fixtures work.
TESTS = """
from threading import Thread
from unittest import TestCase

import pytest
from chat import make, phoenix
from flask_phoenix.testing import Clients, Clock


@pytest.mark.parametrize("number", range(3))
def test_a_conversation(phoenix_clock, phoenix_client, number):
    ada, alan = phoenix_client(), phoenix_client()
    lobby, others = ada.join("room:1"), alan.join("room:1")
    lobby.push("say", {"n": number})
    others.assert_push("said", {"n": number})
    phoenix_clock.advance(60)
    lobby.assert_push("late", {"n": number})
    others.refute_push("late")


def test_a_broadcast_of_a_thread(app, phoenix_client):
    def speak():
        with app.app_context():
            phoenix.broadcast("room:1", "news", {})

    lobby = phoenix_client().join("room:1")
    thread = Thread(target=speak)
    thread.start()
    lobby.assert_push("news")
    thread.join()


def test_in_a_thread(app):
    done = []

    def play():
        with Clock() as clock, Clients(app) as connect:
            lobby = connect().join("room:1")
            lobby.push("say", {"n": 1})
            clock.advance(60)
            done.append(lobby.assert_push("late"))

    thread = Thread(target=play)
    thread.start()
    thread.join()
    assert done == [{"n": 1}]


class RoomTest(TestCase):
    def test_a_conversation(self):
        with Clock() as clock, Clients(make()) as connect:
            lobby = connect().join("room:1")
            lobby.push("say", {})
            clock.advance(60)
            self.assertEqual(lobby.assert_push("late"), {})
"""

WITH_PYTEST_FLASK = """
from flask import request


def test_pytest_flask(client, phoenix_client):
    assert request.path == "/"
    assert client.get("/nowhere").status_code == 404
    phoenix_client(http=client).join("room:1").push("say")
"""

WITH_PYTEST_ASYNCIO = """
import asyncio

import pytest


{mark}
async def test_pytest_asyncio(phoenix_clock, phoenix_client):
    lobby = phoenix_client().join("room:1")
    lobby.push("say")
    await asyncio.sleep(0.001)
    phoenix_clock.advance(60)
    lobby.assert_push("late")


def test_beside_it(phoenix_client):
    phoenix_client().join("room:1").push("say")
"""

PATCHED = """
from gevent import monkey

monkey.patch_all()
"""

WHERE_PATCHED = """
import time


def test_naps(phoenix_clock, phoenix_client):
    lobby = phoenix_client().join("room:1")
    ref = lobby.push("nap", {"seconds": 3600})
    lobby.refute_reply(ref)
    phoenix_clock.advance(3600)
    lobby.assert_reply(ref, "ok", {"slept": 3600})


def test_the_test_s_own_naps_are_real(phoenix_clock, phoenix_client):
    phoenix_client()
    began = time.perf_counter()
    time.sleep(0.02)
    assert time.perf_counter() - began >= 0.02
    assert phoenix_clock.elapsed == 0
"""

WITHOUT_PYTEST = """
from unittest import TestCase

from chat import make
from flask_phoenix.testing import Clients


class RoomTest(TestCase):
    def test_no_reply(self):
        with Clients(make()) as connect:
            lobby = connect().join("room:1")
            lobby.assert_reply(lobby.push("say", {}), within=0)
"""

#: What newcomers get wrong.
FAILING = """
def test_another_payload(phoenix_client):
    lobby = phoenix_client().join("room:1")
    lobby.push("say", {"body": "Hello", "to": "all"})
    lobby.assert_push("said", {"body": "Bye"}, within=0)


def test_a_handler_that_fails(phoenix_client):
    assert phoenix_client().join("room:1").call("nap", {}).status == "ok"


def test_a_failure_that_nobody_looks_at(phoenix_client):
    phoenix_client().join("room:1").push("nap", {})


def test_no_reply(phoenix_client):
    lobby = phoenix_client().join("room:1")
    lobby.assert_reply(lobby.push("say", {}), within=0)


def test_time_stands_still(phoenix_clock, phoenix_client):
    lobby = phoenix_client(heartbeat=None).join("room:1")
    lobby.push("say", {})
    lobby.assert_push("late", within=0)


def test_no_such_topic(phoenix_client):
    phoenix_client().join("rom:1")


def test_no_such_mount(phoenix_client):
    phoenix_client("/sockets")


def test_another_client(phoenix_client):
    ada, alan = phoenix_client(name="Ada"), phoenix_client(name="Alan")
    lobby, others = ada.join("room:1"), alan.join("room:2")
    lobby.push("say", {})
    others.assert_push("said", within=0)


def test_a_broadcast_that_was(phoenix_client):
    lobby = phoenix_client().join("room:1")
    lobby.push("say", {})
    lobby.refute_broadcast("said")


def test_an_open_connection(phoenix_client):
    phoenix_client().assert_closed(1001, within=0)
"""

#: What they are told.
TOLD = (
    "client 1: expected 'said' on 'room:1' with {'body': 'Bye'}",
    "one came in which payload['body'] is 'Hello', not 'Bye'",
    '>       sleep(payload["seconds"])',
    "KeyError: 'seconds'",
    "expected a reply to 'nap' on 'room:1' (ref 2), and the channel has crashed",
    "the channel of 'room:1' has crashed; if it is to, assert_push('phx_error') says so",
    "expected a reply to 'say' on 'room:1' (ref 2), and it has not come",
    "the next timer is due in 60 s: phoenix_clock.advance(",
    "Refused: {'reason': 'unmatched topic'}",
    "no socket is mounted at '/sockets'; there are ['/socket/websocket']",
    "Alan: expected 'said' on 'room:2' with any payload",
    "Ada <- said on room:1: {}",
    "expected 'said' not to be broadcast on 'room:1', and it was",
    "expected the connection to be closed 1001; it is open",
)

WITHOUT = """
import sys

IMPORTED = {"gevent", "flask", "flask_phoenix.testing"} & sys.modules.keys()  # before other tests are


def test_nothing_is_imported():
    assert not IMPORTED


def test_no_app(phoenix_client):
    pass
"""


def run(folder: Path, *words: str) -> str:
    """Run a module of Python in a process of its own; return what it writes."""
    done = subprocess.run(
        (sys.executable, "-W", "error", "-m", *words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=6 * DEADLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def play(folder: Path, *words: str, **files: str) -> str:
    """Write files, and run pytest on them."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return run(folder, "pytest", "-p", "no:cacheprovider", "-q", *words)


def without(*plugins: str) -> list[str]:
    """Return the words that leave plugins out."""
    return [word for plugin in plugins for word in ("-p", f"no:{plugin}")]


def passed(output: str) -> int:
    """Return how many have passed; nothing else may have happened."""
    summary = re.search(r"^(\d+) passed in", output, re.MULTILINE)
    assert summary is not None, output
    return int(summary[1])


def test_plain_and_without_a_use(tmp_path: Path) -> None:
    """What does not use it imports nothing for it, and who has no app is told so."""
    files = {"chat": APP, "test_a": WITHOUT, "test_b": FIXTURE + TESTS}
    output = play(tmp_path, *without("xdist", "flask", "asyncio", "timeout"), **files)
    assert re.search(r"^7 passed, 1 error in", output, re.MULTILINE), output
    assert "phoenix_client needs a fixture named app" in output


@pytest.mark.parametrize(("mode", "mark"), [("strict", "@pytest.mark.asyncio"), ("auto", "")])
def test_beside_other_plugins(tmp_path: Path, mode: str, mark: str) -> None:
    options = ("-n", "2", "-o", "asyncio_default_fixture_loop_scope=function", "-o", f"asyncio_mode={mode}")
    files = {
        "conftest": FIXTURE,
        "test_room": TESTS,
        "test_flask": WITH_PYTEST_FLASK,
        "test_asyncio": WITH_PYTEST_ASYNCIO.format(mark=mark),
    }
    assert passed(play(tmp_path, *options, chat=APP, **files)) == 9


def test_patched(tmp_path: Path) -> None:
    files = {"conftest": PATCHED + FIXTURE, "test_room": TESTS, "test_naps": WHERE_PATCHED}
    assert passed(play(tmp_path, *without("anyio", "asyncio"), chat=APP, **files)) == 8


def test_without_pytest(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(APP)
    (tmp_path / "test_room.py").write_text(TESTS)
    (tmp_path / "test_newcomer.py").write_text(WITHOUT_PYTEST)
    said = run(tmp_path, "unittest", "test_room", "test_newcomer")
    assert re.search(r"^Ran 2 tests in .*\n\nFAILED \(failures=1\)$", said, re.MULTILINE), said
    assert "expected a reply to 'say' on 'room:1' (ref 2), and it has not come" in said
    assert "flask_phoenix/testing" not in said


def test_failures_read_well(tmp_path: Path) -> None:
    """They show the test's own line, what came instead, and what the handler raised; and nothing of ours."""
    files = {"chat": APP, "conftest": FIXTURE, "test_newcomer": FAILING}
    said = play(tmp_path, *without("xdist", "flask", "asyncio"), **files)
    assert re.search(r"^9 failed, 1 passed, 1 error in", said, re.MULTILINE), said
    assert [told for told in TOLD if told not in said] == [], said
    assert not re.search(r"flask_phoenix/testing/\w+\.py:\d+", said), said
