"""What an app has of its dashboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask

from ..runtime.engine import Engine
from .collector import Collector
from .watch import Watch


class Dashboard:
    """What an app has of its dashboard: who may see it, and what watches.

    :param allow: tells whether whoever makes the current request may see it.
    :param mount: where its socket is.
    :param presences: returns how many entries each presence has.
    """

    def __init__(
        self,
        app: Flask,
        engine: Engine,
        allow: Callable[[], Any],
        mount: str,
        presences: Callable[[], dict[str, int]],
    ) -> None:
        self.allow = allow
        self.collector = Collector(app, engine, mount, presences)
        self.watch = Watch(engine, self.collector)
        engine.node.add(self.watch)
