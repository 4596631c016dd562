"""Two apps in this process that are nodes of one network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import Flask

from flask_phoenix.app_state import state_of
from flask_phoenix.testing import MemoryAdapter


@contextmanager
def two_nodes(serve: Callable[[MemoryAdapter], Flask]) -> Iterator[list[Flask]]:
    """Make two apps with adapters that reach each other; at the end, close their clients and stop them.

    :param serve: makes an app with an adapter.
    """
    network: list[MemoryAdapter] = []
    apps = [serve(MemoryAdapter(network)) for _ in range(2)]
    yield apps
    for app in apps:
        engine = state_of(app).engine
        for connection in list(engine.connections):
            connection.close(1000, "over")
        engine.stop()
