"""What an app has of its dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask

from ..exceptions import InvalidOption, NotPublished, Refused
from ..operations.cluster import Cluster
from ..runtime.engine import Engine
from .collector import Collector
from .shown import shortened
from .watch import Watch

#: Clients, and keys that are present, that a page is told of.
NAMED = 30


class Dashboard:
    """What an app has of its dashboard: who may see it, and what watches.

    :param allow: tells whether whoever makes the current request may see it.
    :param mount: where its socket is.
    :param presences: returns how many entries each presence has.
    :param list_present: returns the keys that are present on a topic.
    :param make_operators: makes what asks all nodes.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        allow: Callable[[], Any],
        mount: str,
        presences: Callable[[], dict[str, int]],
        list_present: Callable[[str], list[str]],
        make_operators: Callable[[], Cluster],
    ) -> None:
        self.allow = allow
        self.engine = engine
        self._list = list_present
        self._make_operators = make_operators
        self.collector = Collector(app, engine, mount, presences)
        self.watch = Watch(engine, self.collector)
        engine.node.add(self.watch)

    @contextmanager
    def operators(self) -> Iterator[Cluster]:
        """Give what asks all nodes, as an operator does.

        :raises Refused: it cannot be asked, and why.
        """
        try:
            with self._make_operators() as operators:
                operators.nodes |= set(self.watch.alive())
                yield operators
        except (InvalidOption, NotPublished) as error:
            raise Refused(str(error)) from error

    def on_topic(self, operators: Cluster, topic: str) -> dict[str, Any]:
        """Return who has joined a topic, on all nodes, and who is present there.

        :raises NotPublished: no node can be asked.
        """
        count, clients = operators.connections(NAMED, topic=topic)
        present = self._list(topic)
        return {
            "count": count,
            "clients": clients,
            "present": [shortened(key) for key in present[:NAMED]],
            "present_count": len(present),
        }

    def search(self, text: str) -> dict[str, Any]:
        """Return clients with an id, or on a topic: on one whose name begins so, where an asterisk follows.

        :raises Refused: nobody can be asked.
        """
        with self.operators() as operators:
            count, clients = operators.connections(NAMED, id=text)
            if not count:
                count, clients = operators.connections(NAMED, topic=text)
        return {"count": count, "clients": clients}
