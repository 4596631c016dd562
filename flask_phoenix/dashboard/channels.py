"""The dashboard's own socket, and the channels of its pages."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

import gevent
from flask import current_app

from .. import clock
from ..channel import Channel
from ..exceptions import NotPublished, Refused
from ..handlers import on
from ..operations.cluster import Cluster
from ..protocol.messages import INTERNAL, shown
from ..socket import Socket
from .names import TOPIC
from .pages import is_allowed
from .traffic import Traffic

log = logging.getLogger("flask_phoenix.connection")

#: Seconds after which the app is asked anew whether somebody may look on: the page comes back for it by itself.
ALLOWED_FOR = 600.0

#: What the mount needs, whatever the app has chosen for its own sockets.
MOUNT_OPTIONS: dict[str, Any] = {
    "websocket": True,
    "longpoll": False,
    "path": "/websocket",
    "auth_token": False,
    "subprotocols": None,
    "connect_info": (),
    "serializer": None,
    "vsn": None,
    "timeout": 60.0,
    "error_handler": None,
    "log": "debug",
}


class DashboardSocket(Socket):
    """One page."""

    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> None:
        """Ask the app.

        :raises Refused: it says no.
        """
        if not is_allowed(dashboard().allow):
            raise Refused("not allowed")
        self.expires_at = clock.time() + ALLOWED_FOR


@DashboardSocket.channel(TOPIC)
class Overview(Channel):
    """What all nodes do, second by second."""

    log_join = None

    def join(self, payload: Any) -> dict[str, Any]:
        """Begin to look on."""
        watch = dashboard().watch
        watch.enter(self)
        return {"node": watch.node, **watch.overview.summary()}

    def terminate(self, reason: Any) -> None:
        """Look on no more."""
        dashboard().watch.leave(self)

    @on("crash")
    def crash(self, payload: Any) -> Any:
        """Tell all about a crash."""
        found = dashboard().watch.overview.crash(text_of(payload, "key"))
        if found is None:
            raise Refused("forgotten")
        return found

    @on("find")
    def find(self, payload: Any) -> Any:
        """Look for clients."""
        return dashboard().search(text_of(payload, "text"))


@DashboardSocket.channel(f"{TOPIC}:topic")
class OpenedTopic(Channel):
    """A topic that is opened: who has joined it, and what is broadcast on it."""

    log_join = None
    name: str

    def join(self, payload: Any) -> None:
        """Open it.

        :raises Refused: it is none of the app's.
        """
        self.name = text_of(payload, "topic")
        if self.name.startswith((INTERNAL, TOPIC)):
            raise Refused("this is no topic of the app")

    def after_join(self) -> None:
        """Look at it."""
        self.spawn(self.look)

    def look(self) -> None:
        """Tell what is broadcast, twice a second, and who is there, once."""
        board = dashboard()
        board.collector.heard[self.name] += 1
        traffic = Traffic(board.engine, self.name)
        try:
            with board.operators() as operators:
                self.follow(traffic, operators)
        except Refused as refused:
            self.push("failed", refused.response)
        finally:
            traffic.end()
            board.collector.heard[self.name] -= 1

    def follow(self, traffic: Traffic, operators: Cluster) -> None:
        """Tell it, until the page has closed it."""
        while True:
            self.push("rate", traffic.rate())
            with suppress(NotPublished):
                self.push("facts", dashboard().on_topic(operators, self.name))
            for _ in range(2):
                gevent.sleep(0.5)
                self.push("traffic", traffic.take())


@DashboardSocket.channel(f"{TOPIC}:client")
class OpenedClient(Channel):
    """A client that is opened: what it has joined, and what waits for it."""

    log_join = None
    name: str

    def join(self, payload: Any) -> None:
        """Open it.

        :raises Refused: it is not named.
        """
        self.name = text_of(payload, "connection")

    def after_join(self) -> None:
        """Look at it."""
        self.spawn(self.look)

    def look(self) -> None:
        """Tell what there is of it, once a second, until it has gone."""
        try:
            with dashboard().operators() as operators:
                while self.tell(operators):
                    gevent.sleep(1.0)
        except Refused as refused:
            self.push("failed", refused.response)

    def tell(self, operators: Cluster) -> bool:
        """Tell it; return False once it has gone."""
        with suppress(NotPublished):
            _, found = operators.connections(1, connection=self.name)
            self.push(*(("facts", found[0]) if found else ("ended", {})))
            return bool(found)
        return True

    @on("close")
    def close(self, payload: Any) -> dict[str, Any]:
        """Close its connection.

        :raises Refused: nobody can be asked.
        """
        with dashboard().operators() as operators:
            closed = operators.disconnect(connection=self.name)
        log.warning("%d connections were closed from the dashboard: %s", closed, shown(self.name))
        return {"closed": closed}


def text_of(payload: Any, name: str) -> str:
    """Return what a page names.

    :raises Refused: it does not.
    """
    text = payload.get(name) if isinstance(payload, dict) else None
    if not isinstance(text, str) or not text:
        raise Refused(f"{name} is missing")
    return text


def dashboard() -> Any:
    """Return the dashboard of the current app."""
    return current_app.extensions["phoenix"].dashboard
