"""Broadcasts from a process that serves nobody to the clients of an app."""

from __future__ import annotations

import os
from typing import Any

from .exceptions import InvalidOption
from .protocol.json import Json
from .protocol.messages import DISCONNECT, Broadcast
from .pubsub.adapter import make_publisher
from .pubsub.envelope import check_payload, pack, seal

#: The setting, and the environment variable, that names what joins the nodes.
SETTING = "PHOENIX_PUBSUB_URL"
#: The URL that says: each process by itself.
NONE = "none"


class Broadcaster:
    """Broadcasts to the clients of an app from a task queue, a cron job, a script: no Flask, no gevent, no event loop.

    It may be made anywhere and used from any thread and after any fork. It is a context manager that closes itself.

    :param url: what the app has as ``PHOENIX_PUBSUB_URL``; unless given, the environment variable of that name.
    :param json: how payloads are written.
    :raises InvalidOption: there is no URL, or it names no adapter.
    """

    def __init__(self, url: str | None = None, json: Json | None = None) -> None:
        url = url or os.environ.get(SETTING)
        if not url or url == NONE:
            raise InvalidOption(
                f"a Broadcaster needs the URL over which the app's processes are joined: give it {SETTING}, such as"
                " redis://localhost or workers:///run/myapp, and the app the same"
            )
        self._json = json or Json()
        self._publisher = make_publisher(url)

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to everybody on a topic, in whichever process; blocks until it is on its way.

        :raises NotPublished: nothing carries it.
        :param payload: a dict of JSON, or bytes.
        :raises InvalidPayload: it is neither.
        """
        broadcast = Broadcast(topic, event, payload)
        check_payload(broadcast)
        self._publisher.publish(topic, pack(seal(broadcast, self._json), self._json))

    def disconnect(self, id: str) -> None:
        """Close every connection whose socket has this id, with 1001; its clients come back if they may.

        :raises NotPublished: nothing carries it.
        """
        self.broadcast(id, DISCONNECT, {})

    def close(self) -> None:
        """Free what is held; a later broadcast takes it up again."""
        self._publisher.close()

    def __enter__(self) -> Broadcaster:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
