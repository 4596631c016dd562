"""The chat on Flask-Sock and simple-websocket: ``gunicorn -k gevent benchmarks.rivals.flask_sock_chat:app``."""

from __future__ import annotations

import json
from collections import defaultdict

from flask import Flask
from flask_sock import Server, Sock

app = Flask(__name__)
sock = Sock(app)
rooms: defaultdict[str, set[Server]] = defaultdict(set)


@sock.route("/chat")
def chat(ws: Server) -> None:
    """Read what one client says, until it goes."""
    joined = set[str]()
    try:
        while True:
            message = json.loads(ws.receive())
            room = message["room"]
            match message["event"]:
                case "join":
                    rooms[room].add(ws)
                    joined.add(room)
                    ws.send(json.dumps({"event": "joined"}))
                case "new_msg":
                    text = json.dumps({"event": "new_msg", "payload": message["payload"]})
                    for member in list(rooms[room]):
                        member.send(text)
                case "echo":
                    ws.send(json.dumps({"event": "echo", "payload": message["payload"]}))
    finally:
        for room in joined:
            rooms[room].discard(ws)
