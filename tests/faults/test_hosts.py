"""Servers in processes of their own, on a host that fails them: what clients see, and that the servers go on."""

from __future__ import annotations

import os
import signal
from typing import Any

import gevent
import pytest
from gevent import socket

from flask_phoenix.transports.websocket import CUT
from tests.faults.hosts import COMMANDS, lives, serves, workers
from tests.support.http import connect, get, open_websocket
from tests.support.processes import Server, Servers, wait_until
from tests.support.wire import write

#: Descriptors of a server that has few: those of its loop and its files, and some clients.
FEW = 60


@pytest.fixture(params=COMMANDS)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return servers.start(*COMMANDS[request.param])


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
