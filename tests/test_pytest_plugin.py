"""The fixtures for authors' tests, in processes of pytest's own, alone and beside other plugins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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
        with Clients(make()) as connect:
            self.assertEqual(connect().join("room:1").response, {})
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


@pytest.mark.asyncio
async def test_pytest_asyncio(phoenix_clock, phoenix_client):
    lobby = phoenix_client().join("room:1")
    lobby.push("say", {})
    await asyncio.sleep(0.001)
    phoenix_clock.advance(60)
    lobby.assert_push("late")
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

WITHOUT = """
import sys

IMPORTED = {"gevent", "flask", "flask_phoenix.testing"} & sys.modules.keys()  # before other tests are


def test_nothing_is_imported():
    assert not IMPORTED


def test_no_app(phoenix_client):
    pass
"""


def play(folder: Path, *words: str, **files: str) -> str:
    """Run pytest on some files in a process of its own; return what it writes."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        (sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "-q", *words),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=6 * DEADLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


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


def test_beside_other_plugins(tmp_path: Path) -> None:
    options = ("-n", "1", "-o", "asyncio_default_fixture_loop_scope=function")
    files = {
        "conftest": FIXTURE,
        "test_room": TESTS,
        "test_flask": WITH_PYTEST_FLASK,
        "test_asyncio": WITH_PYTEST_ASYNCIO,
    }
    assert passed(play(tmp_path, *options, chat=APP, **files)) == 8


def test_patched(tmp_path: Path) -> None:
    files = {"conftest": PATCHED + FIXTURE, "test_room": TESTS, "test_naps": WHERE_PATCHED}
    assert passed(play(tmp_path, *without("anyio", "asyncio"), chat=APP, **files)) == 8
