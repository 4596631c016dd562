"""What an app has of its dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from ..exceptions import Refused
from ..runtime.engine import Engine
from .clients import NAMED
from .collector import Collector
from .shown import shortened
from .watch import Watch


class Dashboard:
    """What an app has of its dashboard: who may see it, and what watches.

    :param allow: tells whether whoever makes the current request may see it.
    :param mount: where its socket is.
    :param presences: returns how many entries each presence has.
    :param list_present: returns the keys that are present on a topic.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        allow: Callable[[], Any],
        mount: str,
        presences: Callable[[], dict[str, int]],
        list_present: Callable[[str], list[str]],
    ) -> None:
        self.allow = allow
        self.engine = engine
        self._list = list_present
        self.collector = Collector(app, engine, mount, presences)
        self.watch = Watch(engine, self.collector)
        engine.node.add(self.watch)

    def topic(self, topic: str) -> dict[str, Any]:
        """Return who has joined a topic, on all nodes, and who is present there."""
        answers = self.watch.ask("topic", topic)
        present = self._list(topic)
        return {
            **in_all(answers),
            "present": [shortened(key) for key in present[:NAMED]],
            "more_present": max(0, len(present) - NAMED),
        }

    def search(self, text: str) -> dict[str, Any]:
        """Return the clients that a text finds, on all nodes."""
        return in_all(self.watch.ask("find", text))

    def client(self, node: str, number: int) -> dict[str, Any] | None:
        """Return all about a client; None: it has gone.

        :raises Refused: its node has not answered.
        """
        found: dict[str, Any] | None = self._ask(node, "client", number)
        return found

    def close(self, node: str, number: int) -> bool:
        """Close a client's connection; return False if it has gone.

        :raises Refused: its node has not answered.
        """
        return bool(self._ask(node, "close", number))

    def _ask(self, node: str, what: str, number: int) -> Any:
        answers = self.watch.ask(what, number, node)
        if node not in answers:
            raise Refused("its worker has not answered")
        return answers[node]


def in_all(answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put together what nodes have found."""
    clients = [{**each, "node": node} for node, answer in answers.items() for each in answer["clients"]]
    total = sum(answer["count"] for answer in answers.values())
    return {"count": total, "clients": clients[:NAMED], "more": total - len(clients[:NAMED])}
