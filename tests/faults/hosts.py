"""What tests of servers on a host that fails them ask of these servers."""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path

from tests.support.http import open_websocket
from tests.support.processes import DEADLINE, HOST, Server
from tests.support.wire import Wire

PYTHON = (sys.executable, "-m")
APP = "tests.faults.app:app"
COMMANDS = {
    "flask run": (*PYTHON, "flask", "--app", APP, "run", "--port", "{port}"),
    "gunicorn": (*PYTHON, "gunicorn", "-k", "gevent", "-b", f"{HOST}:{{port}}", APP),
}

#: Seconds of silence after which the app of :mod:`tests.faults.clocks` closes a client, and messages that one may send
#: in a second.
TIMEOUT, RATE = 2.0, 30


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
