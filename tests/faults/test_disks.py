"""Servers in processes of their own whose disk is full, or that of their Redis: nobody is cut off, nothing is lost."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flask_phoenix.pubsub.unix.directory import REMEDY
from tests.faults.hosts import APP, COMMANDS, lives, missed, say, serves, workers
from tests.support.fleet import Tab, start
from tests.support.http import URL, connect, get, head, open_websocket
from tests.support.processes import Server, Servers, wait_until
from tests.support.redis_server import RedisServer
from tests.support.wire import UPGRADE, Wire

PROGRAM = """
from gevent import monkey

monkey.patch_all()
from tests.faults.app import app, phoenix

phoenix.run(app, port={port})
"""
WRITE_LOGS = {**COMMANDS, "phoenix.run": (sys.executable, "-c", PROGRAM)}
#: What is imported while files are limited is not to leave half a file behind, for whatever imports it next.
WHOLE_FILES = {"PYTHONDONTWRITEBYTECODE": "1"}
#: Seconds of silence after which these servers ask Redis for a sign of life.
CHECK = 0.2


def limit_files(server: Server, size: int) -> None:
    """Let a server write no file beyond a size."""
    for pid in (server.pid, *workers(server)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def hears(tab: Tab, numbers: list[int]) -> bool:
    """Tell whether a client has heard these numbers, and no others."""
    return tab.wait_for(lambda: len(tab.heard) >= len(numbers)) and [said["n"] for _, said in tab.heard] == numbers


def test_what_is_to_be_kept_is_refused_and_nothing_is_lost(servers: Servers, short_path: Path) -> None:
    server = servers.start(*COMMANDS["gunicorn"], **WHOLE_FILES, FLASK_PHOENIX_PUBSUB_URL=f"workers://{short_path}")
    wire = open_websocket(server.port)
    wire.text('["1","1","room:1","phx_join",{"name":"a","since":null}]')
    since = json.loads(wire.data())[4]["response"]["phx_history"]["ref"]
    assert say(server, "room:1", 1) == 200
    largest = max(each.stat().st_size for each in short_path.rglob("*"))
    limit_files(server, largest)
    assert say(server, "room:1", 2) == 503
    assert say(server, "plain:1", 2) == 200
    assert missed(server, since) == [1]
    limit_files(server, resource.RLIM_INFINITY)
    assert say(server, "room:1", 3) == 200
    assert missed(server, since) == [1, 3]
    heard: list[int] = []
    while len(heard) < 2:
        message = json.loads(wire.data())
        if message[3] == "said":
            heard.append(message[4]["n"])
    assert heard == [1, 3]
    wire.sock.close()


@pytest.mark.parametrize("name", WRITE_LOGS)
def test_a_log_that_cannot_be_written_ends_nobody(servers: Servers, name: str) -> None:
    server = servers.start(*WRITE_LOGS[name], **WHOLE_FILES)
    wire = open_websocket(server.port)
    limit_files(server, 0)
    written = server.log.stat().st_size
    assert crashes(wire)
    newcomer = open_websocket(server.port)
    assert crashes(newcomer)
    assert lives(wire)
    assert serves(server)
    assert server.log.stat().st_size == written
    limit_files(server, resource.RLIM_INFINITY)
    assert crashes(newcomer)
    server.wait_for_log("KeyError")
    for each in (wire, newcomer):
        each.sock.close()


def crashes(wire: Wire) -> bool:
    """Have a join fail, of which a server logs an error; tell whether that is answered."""
    wire.text('["1","1","room:1","phx_join",{}]')
    return "join crashed" in str(wire.data())


@pytest.mark.parametrize(
    ("directory", "said"),
    [("/proc/self/fd", "no socket can be made at"), ("/dev/full/of", "cannot make the directory")],
)
def test_a_directory_that_cannot_be_written_to_is_told_with_its_remedy(
    servers: Servers, directory: str, said: str
) -> None:
    server = servers.start(*COMMANDS["gunicorn"], FLASK_PHOENIX_PUBSUB_URL=f"workers://{directory}")
    client = Wire(connect(server.port))
    client.sock.sendall(get(URL, UPGRADE))
    assert head(client).startswith("HTTP/1.1 503")
    client.sock.close()
    server.wait_for_log(f"{said} {directory}")
    server.wait_for_log(REMEDY)


def fill_memory(redis: RedisServer, folder: Path) -> None:
    """Leave a Redis no memory."""
    redis.execute("CONFIG", "SET", "maxmemory", "1")


def fill_disk(redis: RedisServer, folder: Path) -> None:
    """Have a Redis see that it cannot write to its disk."""
    redis.execute("CONFIG", "SET", "save", "3600 1")
    shutil.rmtree(folder)
    redis.execute("BGSAVE")
    assert wait_until(
        lambda: redis.execute("INFO", "persistence")["rdb_last_bgsave_status"] == "err", lambda: time.sleep(0.01)
    )


def mend(redis: RedisServer) -> None:
    """Let a Redis take what comes."""
    redis.execute("CONFIG", "SET", "maxmemory", "0", "stop-writes-on-bgsave-error", "no")


@pytest.mark.parametrize("fill", [fill_memory, fill_disk])
def test_a_full_redis_is_read_and_published_to(
    servers: Servers, short_path: Path, tmp_path: Path, fill: Callable[[RedisServer, Path], None]
) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    redis = RedisServer(short_path, "--dir", str(folder))
    try:
        fleet = start(servers, {"FLASK_PHOENIX_PUBSUB_URL": f"{redis.url}?check_interval={CHECK}"}, app=APP, workers=2)
        keep, forget = fleet.tabs(), fleet.tabs()
        refs = [tab.join("room:1", {"name": "a", "since": None})["phx_history"]["ref"] for tab in keep]
        for tab in forget:
            tab.join("plain:1")
        assert say(fleet.server, "room:1", 1) == 200
        fill(redis, folder)
        assert say(fleet.server, "room:1", 2) == 503
        assert not forget[0].pump(5 * CHECK)
        assert say(fleet.server, "plain:1", 2) == 200
        assert all(hears(tab, [2]) for tab in forget)
        assert missed(fleet.server, refs[0]) == [1]
        mend(redis)
        assert say(fleet.server, "room:1", 3) == 200
        assert all(hears(tab, [1, 3]) for tab in keep)
        assert missed(fleet.server, refs[0]) == [1, 3]
        assert "Redis is lost" not in fleet.server.logs()
        fleet.close()
    finally:
        redis.kill()
