"""Clients of one process, looked for and looked at; and one of them closed."""

from __future__ import annotations

import logging
from typing import Any

from ..runtime.connection import GOING_AWAY, Connection
from ..runtime.engine import Engine
from .shown import parameters, shortened

log = logging.getLogger("flask_phoenix.connection")

#: Clients, and topics of a client, that one answer names.
NAMED = 30
#: What a client is told that is closed here.
REASON = "closed by an operator"


class Clients:
    """The clients of one process but those of the dashboard. Each look passes all of them once.

    :param mount: of the dashboard.
    """

    def __init__(self, engine: Engine, mount: str) -> None:
        self._engine = engine
        self._mount = mount

    def all(self) -> list[Connection]:
        """Return them."""
        return [each for each in self._engine.connections if each.bounds.mount != self._mount]

    def on_topic(self, topic: str) -> dict[str, Any]:
        """Return who has joined a topic."""
        return self._named([each for each in self.all() if topic in each.topics])

    def search(self, text: str) -> dict[str, Any]:
        """Return those with this number, with an id that begins so, or on the topic of this name."""
        found = [
            each
            for each in self.all()
            if str(each.number) == text or (each.id or "").startswith(text) or text in each.topics
        ]
        return self._named(found)

    def one(self, number: int) -> dict[str, Any] | None:
        """Return all about a client; None: it has gone."""
        found = self._find(number)
        if found is None:
            return None
        topics = sorted(map(str, found.topics))
        return {
            **brief(found),
            "socket": type(found.socket).__name__,
            "mount": found.bounds.mount,
            "params": parameters(found.socket.params, self._engine.filter_parameters),
            "inbox": found.account.size,
            "missed": found.missed_count,
            "channels": [shortened(topic) for topic in topics[:NAMED]],
            "more": max(0, len(topics) - NAMED),
        }

    def close(self, number: int) -> bool:
        """Close a client's connection; return False if it has gone."""
        found = self._find(number)
        if found is None:
            return False
        log.warning("connection %d is closed from the dashboard", number)
        found.close(GOING_AWAY, REASON)
        return True

    def _find(self, number: int) -> Connection | None:
        return next((each for each in self.all() if each.number == number), None)

    def _named(self, found: list[Connection]) -> dict[str, Any]:
        found.sort(key=lambda each: each.number)
        return {"count": len(found), "clients": [brief(each) for each in found[:NAMED]]}


def brief(connection: Connection) -> dict[str, Any]:
    """Return what a line tells of a client."""
    return {
        "connection": connection.number,
        "id": shortened(connection.id),
        "transport": connection.carrier.transport,
        "seconds": round(connection.seconds),
        "waiting": connection.carrier.waiting,
    }
