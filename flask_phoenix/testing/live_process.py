"""The process of a live server: it serves an app until the test that started it lets go."""

from __future__ import annotations

import os
import sys

import gevent
from flask.cli import ScriptInfo
from gevent.os import make_nonblocking, nb_read

from ..server.gevent import Server


def main() -> None:
    """Serve the app that the first argument names, tell the port on the descriptor that the second is, and go on.

    It ends with its standard input, which ends with the test's process, too.
    """
    name, port = sys.argv[1], int(sys.argv[2])
    app = ScriptInfo(app_import_path=name).load_app()
    server = Server(("127.0.0.1", 0), app, [app.extensions["phoenix"].engine], log=None)
    server.start()
    gevent.spawn(_end_with_input, server)
    os.write(port, f"{server.server_port}\n".encode())
    os.close(port)
    server.serve_until_stopped()


def _end_with_input(server: Server) -> None:
    make_nonblocking(0)
    while nb_read(0, 1):
        pass
    server.end()
