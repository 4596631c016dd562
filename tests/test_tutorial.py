"""The tutorial: the app after each page, made of the files of all pages up to it, does what the page says."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_phoenix import Refused, Reply
from flask_phoenix.testing import Client, LiveClient
from tests.docs.pages import DOCS, Block, blocks, read
from tests.support.processes import HOST, START, Servers
from tests.support.redis_server import RedisServer

#: The pages in their order.
STEPS = sorted(str(path.relative_to(DOCS)) for path in (DOCS / "tutorial").glob("[0-9]-*.md"))


def files(number: int) -> dict[str, Block]:
    """Return the Python files that a reader has after a page."""
    return {block.filename: block for page in STEPS[:number] for block in blocks(page, "python")}


def write(number: int, folder: Path) -> None:
    """Write these files."""
    for name, block in files(number).items():
        (folder / name).write_text(block.code)


def app_after(number: int) -> Flask:
    """Run ``app.py`` as it is after a page."""
    namespace: dict[str, Any] = {"__name__": "app"}
    block = files(number)["app.py"]
    exec(compile(block.code, block.place, "exec"), namespace)
    app: Flask = namespace["app"]
    return app


def test_pages_are_in_order() -> None:
    assert re.findall(r"^- .*\((\d-[\w-]+\.md)\)", read("tutorial/index.md"), re.MULTILINE) == [
        page.removeprefix("tutorial/") for page in STEPS
    ]
    for page, following in itertools.pairwise(STEPS):
        assert f"({following.removeprefix('tutorial/')})" in read(page), page
    assert all("## What you have learnt" in read(page) for page in STEPS)


@pytest.mark.parametrize("number", [1, 2])
def test_a_conversation(number: int) -> None:
    app = app_after(number)
    with Client(app, params={"name": "Ada"}) as ada, Client(app, params={"name": "Alan"}) as alan:
        room = ada.join("room:lobby")
        assert room.response == {"welcome": "Ada"}
        others = alan.join("room:lobby")
        assert room.call("new_msg", {"body": "Hello"}) == Reply("ok", {"saved": True})
        assert others.assert_push("new_msg") == {"from": "Ada", "body": "Hello"}
        with pytest.raises(Refused, match="there is only the lobby"):
            ada.join("room:attic")
        if number == 2:
            room.assert_presence_join("Alan")


@pytest.mark.parametrize("number", [3, 4, 5])
def test_its_own_tests_pass(number: int, tmp_path: Path) -> None:
    write(number, tmp_path)
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=START, check=False)
    assert done.returncode == 0, done.stdout
    assert number != 3 or f"`{done.stdout.splitlines()[-1].partition(' in ')[0]}`" in read(STEPS[2])


def test_another_program_speaks(servers: Servers, redis: RedisServer, tmp_path: Path) -> None:
    """The last page: workers of gunicorn, Redis, and a script that is none of them."""
    write(len(STEPS), tmp_path)
    where = {"PHOENIX_PUBSUB_URL": redis.url}
    words = ("-m", "gunicorn", "-k", "gevent", "-w", "2", "-b", f"{HOST}:{{port}}", "--chdir", str(tmp_path), "app:app")
    server = servers.start(sys.executable, *words, **where)
    with LiveClient(server.url("/socket", "ws"), params={"name": "Ada"}) as ada:
        lobby = ada.join("room:lobby", {"since": None})
        position = lobby.response["phx_history"]
        announce = (sys.executable, tmp_path / "announce.py", "Lunch!")
        subprocess.run(announce, env=where, check=True, timeout=START)
        lobby.assert_push("new_msg", {"from": "the server", "body": "Lunch!"})
    with LiveClient(server.url("/socket", "ws"), params={"name": "Ada"}) as back:
        again = back.join("room:lobby", {"since": position})
        assert again.response["phx_history"]["recovered"] is True
        again.assert_push("new_msg", {"from": "the server", "body": "Lunch!"})
