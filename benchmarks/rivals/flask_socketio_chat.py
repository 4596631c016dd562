"""The chat on Flask-SocketIO and gevent: ``python -m benchmarks.rivals.flask_socketio_chat PORT [REDIS]``, patched."""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask
from flask_socketio import SocketIO, emit, join_room

app = Flask(__name__)
app.secret_key = "of this benchmark"
redis = sys.argv[2] if len(sys.argv) > 2 else None
socketio = SocketIO(app, async_mode="gevent", message_queue=redis, max_http_buffer_size=1 << 22)


@socketio.on("join")
def join(room: str) -> None:
    """Let everybody in."""
    join_room(room)
    emit("joined")


@socketio.on("new_msg")
def new_msg(room: str, payload: Any) -> None:
    """Tell everybody."""
    emit("new_msg", payload, to=room)


@socketio.on("echo")
def echo(payload: Any) -> None:
    """Answer."""
    emit("echo", payload)


if __name__ == "__main__":
    socketio.run(app, host="127.0.0.1", port=int(sys.argv[1]))
