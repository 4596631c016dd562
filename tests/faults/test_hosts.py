"""Servers in processes of their own, on a host that fails them: what clients see, and that the servers go on."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from flask_phoenix.transports.websocket import CUT
from tests.support.http import connect, get, open_websocket
from tests.support.processes import DEADLINE, HOST, Server, Servers, wait_until
from tests.support.wire import Wire, write

PYTHON = (sys.executable, "-m")
APP = "tests.faults.app:app"
COMMANDS = {
    "flask run": (*PYTHON, "flask", "--app", APP, "run", "--port", "{port}"),
    "gunicorn": (*PYTHON, "gunicorn", "-k", "gevent", "-b", f"{HOST}:{{port}}", APP),
}
#: Descriptors of a server that has few: those of its loop and its files, and some clients.
FEW = 60


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers.start(*COMMANDS[request.param])


def lives(wire: Wire) -> bool:
    """Tell whether a client is answered."""
    wire.text('[null,"1","phoenix","heartbeat",{}]')
    return '"status":"ok"' in str(wire.data())


def serves(server: Server) -> bool:
    """Tell whether a newcomer is served."""
    try:
        wire = open_websocket(server.port)
    except (OSError, EOFError):
        return False
    try:
        return lives(wire)
    finally:
        wire.sock.close()


def workers(server: Server) -> list[int]:
    """Return the children of a server."""
    return [int(each) for each in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def test_a_server_that_is_stopped_for_a_while_answers_what_came_meanwhile(server: Server) -> None:
    wire = open_websocket(server.port)
    os.killpg(server.pid, signal.SIGSTOP)
    wire.text('[null,"1","phoenix","heartbeat",{}]')
    assert wire.silent(0.1)
    os.killpg(server.pid, signal.SIGCONT)
    assert '"status":"ok"' in str(wire.data())
    wire.sock.close()
    assert serves(server)


def test_resets_inside_of_frames_and_clients_that_say_nothing_more(server: Server) -> None:
    wire = open_websocket(server.port)
    frame = write(1, b'["1","1","room:1","phx_join",{}]')
    half_open: list[Any] = []
    for at in range(1, len(frame), 3):
        other = open_websocket(server.port)
        other.sock.sendall(frame[:at])
        if at % 2:
            other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CUT)
            other.sock.close()
        else:
            half_open.append(other)
    assert lives(wire)
    assert serves(server)
    for each in (wire, *half_open):
        each.sock.close()
    assert "Traceback" not in server.logs()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_without_descriptors_serves_its_clients_and_later_others(name: str, servers: Servers) -> None:
    command = " ".join(COMMANDS[name])
    server = servers.start("sh", "-c", f"ulimit -n {FEW}; exec {command}")
    wire = open_websocket(server.port)
    others = [connect(server.port) for _ in range(FEW)]
    assert lives(wire)
    others[-1].sendall(get("/", {"Connection": "close"}))
    assert lives(wire)
    for other in others:
        other.close()
    assert wait_until(lambda: serves(server), lambda: lives(wire))
    wire.sock.close()


def test_a_worker_that_is_killed_is_followed_by_another(servers: Servers) -> None:
    server = servers.start(*COMMANDS["gunicorn"])
    wire = open_websocket(server.port)
    (worker,) = workers(server)
    os.kill(worker, signal.SIGKILL)
    wire.ended()
    wire.sock.close()
    assert wait_until(lambda: serves(server), lambda: gevent.sleep(0.05))
    assert workers(server) != [worker]


def test_a_full_disk_refuses_what_is_to_be_kept_and_loses_nothing(servers: Servers, short_path: Path) -> None:
    server = servers.start(*COMMANDS["gunicorn"], FLASK_PHOENIX_PUBSUB_URL=f"workers://{short_path}")
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


def limit_files(server: Server, size: int) -> None:
    """Let the workers of a server write no file beyond a size."""
    for pid in workers(server):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def say(server: Server, topic: str, number: int) -> int:
    """Have a server broadcast a number; return the status of its answer."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    connection.request("POST", f"/say?topic={topic}&n={number}")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def missed(server: Server, since: str) -> list[int]:
    """Come back to a server; return what was missed since a position, all of which it has to have."""
    wire = open_websocket(server.port)
    wire.text(json.dumps(["1", "1", "room:1", "phx_join", {"name": "b", "since": since}]))
    told = json.loads(wire.data())[4]["response"]["phx_history"]
    assert told["recovered"]
    messages = [json.loads(wire.data()) for _ in range(told["missed"])]
    wire.sock.close()
    return [message[4]["n"] for message in messages]
