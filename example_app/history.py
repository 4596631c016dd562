"""What was said: the messages of each room, in a database.

A worker's memory is its own: a message that one worker remembers is unknown to a client of another. So what all have to
know is kept where all can look, and broadcasts carry only what has just happened.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from flask import current_app

#: How many messages greet somebody who comes into a room.
KEPT = 100

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY, room TEXT NOT NULL, id TEXT NOT NULL, nickname TEXT NOT NULL, body TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of_rooms ON messages (room, number);
"""


class History:
    """The messages of one chat.

    :param path: of the SQLite file that all its workers use. SQLite does not wait in gevent's way, so a worker serves
        nobody else meanwhile: here that is half a millisecond. Where queries take long, use a driver that yields.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._database() as database:
            database.executescript(SCHEMA)

    def add(self, room: str, nickname: str, body: str) -> dict[str, Any]:
        """Keep a message, and return it as clients are told it."""
        message = {"id": uuid.uuid4().hex, "nickname": nickname, "body": body, "at": now()}
        with self._database() as database:
            database.execute(
                "INSERT INTO messages (room, id, nickname, body, at) VALUES (:room, :id, :nickname, :body, :at)",
                {"room": room, **message},
            )
        return message

    def latest(self, room: str) -> list[dict[str, Any]]:
        """The last messages of a room, oldest first."""
        query = "SELECT id, nickname, body, at FROM messages WHERE room = ? ORDER BY number DESC LIMIT ?"
        with self._database() as database:
            return [dict(row) for row in database.execute(query, (room, KEPT))][::-1]

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A transaction, in a connection of its own: none is ever carried through a fork, or to another thread."""
        with closing(sqlite3.connect(self._path)) as database, database:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA synchronous = OFF")  # not to wait for the disk: a power cut may cost some talk
            yield database


def history() -> History:
    """The history of the application at work."""
    found: History = current_app.extensions["example_history"]
    return found


def now() -> int:
    """The time in milliseconds, as JavaScript counts it."""
    return int(time.time() * 1000)
