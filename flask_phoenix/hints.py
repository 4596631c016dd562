"""What is said under debug: what breaks no rule, and is a mistake all the same."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import get_ident, main_thread

import gevent
from flask import has_app_context

from .places import place_of_caller
from .runtime.engine import Engine
from .socket import Socket, explain_unmatched

log = logging.getLogger("flask_phoenix.pubsub")


class Hints:
    """Looks at the broadcasts of an app under debug; each hint is given once.

    :param sockets: returns the sockets of the app that have channels.
    """

    def __init__(self, engine: Engine, sockets: Callable[[], list[type[Socket]]]) -> None:
        self._engine = engine
        self._sockets = sockets
        self._given: set[str] = set()

    def broadcast(self, topic: str, event: str) -> None:
        """Look at a broadcast of the app itself, by its topic and event."""
        if not self._engine.node.name and _in_a_loop_of_its_own():
            self._give(
                "loop",
                f"a loop broadcasts on {topic!r}, and no client has come to this process: where it is started at"
                " import, it runs in every process that imports the app, each worker and the reloader's own, and each"
                " of them broadcasts. Start it under @phoenix.background",
            )
        if isinstance(topic, str) and not self._engine.pubsub.heard(topic):
            self._look_for(topic, event)

    def _look_for(self, topic: str, event: str) -> None:
        """Look whether anybody could hear a topic."""
        sockets = self._sockets()
        routes = [route for socket in sockets if (route := socket.match(topic)) is not None]
        if not routes:
            patterns = "; ".join(explain_unmatched(socket, topic) for socket in sockets) or "no socket is mounted"
            if any(socket.match(event) is not None for socket in sockets if isinstance(event, str)):
                patterns = f"the topic comes first, broadcast({event!r}, {topic!r}, ...)"
            self._give(f"topic {topic}", f"a broadcast on {topic!r}, which no client can join: {patterns}")
        elif not any(route.pattern in self._engine.joined_patterns for route in routes):
            (pattern, channel, *_) = routes[0]
            self._give(
                f"pattern {pattern}",
                f"a broadcast on {topic!r}, and nobody has joined a topic of {pattern!r} ({channel.__name__}) in this"
                " process yet: do clients join that topic?",
            )

    def _give(self, key: str, hint: str) -> None:
        if key not in self._given and len(self._given) < HINTS:
            self._given.add(key)
            log.warning("%s: %s", place_of_caller(), hint)


#: How many hints a process gives.
HINTS = 100


def _in_a_loop_of_its_own() -> bool:
    """Tell whether this is a greenlet or a thread that belongs to no request, no command and no callback."""
    if has_app_context():
        return False
    return gevent.getcurrent().parent is not None or get_ident() != main_thread().ident
