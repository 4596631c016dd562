"""The dashboard's own socket, and the channels of its pages."""

from __future__ import annotations

from typing import Any

from flask import current_app

from .. import clock
from ..channel import Channel, on
from ..exceptions import Refused
from ..socket import Socket
from .names import TOPIC
from .pages import is_allowed

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
        return {"node": watch.node, **watch.cluster.summary()}

    def terminate(self, reason: Any) -> None:
        """Look on no more."""
        dashboard().watch.leave(self)

    @on("crash")
    def crash(self, payload: Any) -> Any:
        """Tell all about a crash."""
        found = dashboard().watch.cluster.crash(payload.get("key"))
        if found is None:
            raise Refused("forgotten")
        return found


def dashboard() -> Any:
    """Return the dashboard of the current app."""
    return current_app.extensions["phoenix"].dashboard
