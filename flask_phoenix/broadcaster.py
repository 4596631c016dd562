"""Broadcasts from a process that serves nobody to the clients of an app."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, overload

from .exceptions import InvalidOption
from .patterns import Pattern
from .payloads.writing import plain_value
from .protocol.json import Json
from .protocol.messages import Broadcast, disconnect_message
from .pubsub.adapter import make_publisher
from .pubsub.envelope import check_key, check_payload, pack, pack_entry, seal, seal_all
from .pubsub.history import History, Position

#: The setting, and the environment variable, that names what joins the nodes.
SETTING = "PHOENIX_PUBSUB_URL"
#: The URL that says: each process by itself.
NONE = "none"


class Broadcaster:
    """Broadcasts to the clients of an app from a task queue, a cron job, a script: no Flask, no gevent, no event loop.

    It may be made anywhere and used from any thread and after any fork. It is a context manager that closes itself.

    :param url: what the app has as ``PHOENIX_PUBSUB_URL``; unless given, the environment variable of that name.
    :param json: how payloads are written.
    :param histories: what the app's channels declare, by their patterns: ``{"room:*": History(size=500)}``. What goes
        to other topics is not kept.
    :raises InvalidOption: there is no URL, or it names no adapter.
    """

    def __init__(
        self, url: str | None = None, json: Json | None = None, histories: Mapping[str, History] | None = None
    ) -> None:
        url = url or os.environ.get(SETTING)
        if not url or url == NONE:
            raise InvalidOption(
                f"a Broadcaster needs the URL over which the app's processes are joined: give it {SETTING}, such as"
                " redis://localhost or workers:///run/myapp, and the app the same"
            )
        self._json = json or Json(default=plain_value)
        self._publisher = make_publisher(url)
        self._histories = [(Pattern(pattern), history) for pattern, history in (histories or {}).items()]
        if self._histories and not self._publisher.keeps:
            raise InvalidOption(f"{type(self._publisher).__name__} keeps no histories: use redis:// or workers://")

    @overload
    def broadcast(self, topic: str, event: str, payload: Any, *, idempotency_key: str = ...) -> Position | None: ...

    @overload
    def broadcast(
        self, topic: list[str] | tuple[str, ...], event: str, payload: Any, *, idempotency_key: str = ...
    ) -> list[Position | None]: ...

    def broadcast(self, topic: Any, event: str, payload: Any, *, idempotency_key: str = "") -> Any:
        """Send an event to everybody on a topic, in whichever process; blocks until it is on its way.

        :param topic: or a list of topics: the payload is written once, and the answer is a list. What fails is raised,
            and the topics before it have been served.
        :param payload: a dict of JSON, or bytes.
        :param idempotency_key: of a topic with a history: as long as that keeps a message with it, publishing another
            does nothing, and returns the first one's position.
        :return: where the topic has a history, the message's position.
        :raises NotPublished: nothing carries it, or keeps it.
        :raises InvalidPayload: the payload is neither, or too large for the history.
        :raises InvalidOption: there is a key, and the topic has no history; or it is none.
        """
        check_key(idempotency_key)
        several = isinstance(topic, list | tuple)
        broadcasts = [Broadcast(each, event, payload) for each in (topic if several else [topic])]
        for broadcast in broadcasts:
            check_payload(broadcast)
        positions = [self._send(sealed, idempotency_key) for sealed in seal_all(broadcasts, self._json)]
        return positions if several else positions[0]

    def _send(self, sealed: Broadcast, key: str) -> Position | None:
        topic = sealed.topic
        history = next((each for pattern, each in self._histories if pattern.find(topic)), None)
        if history is not None and history.size:
            return self._publisher.keep(topic, history, pack_entry("", sealed, self._json), key)[0]
        if key:
            raise InvalidOption(f"{topic!r} has no history: an idempotency_key needs one; see histories=")
        self._publisher.publish(topic, pack(sealed, self._json))
        return None

    def disconnect(self, id: str, topic: str | None = None) -> None:
        """Close every connection whose socket has this id, with 1001; its clients come back if they may.

        :param topic: end the channel of this topic alone, in each of them; its client does not join again by itself.
        :raises NotPublished: nothing carries it.
        """
        self._publish(disconnect_message(id, topic))

    def _publish(self, broadcast: Broadcast) -> None:
        check_payload(broadcast)
        self._publisher.publish(broadcast.topic, pack(seal(broadcast, self._json), self._json))

    def close(self) -> None:
        """Free what is held; a later broadcast takes it up again."""
        self._publisher.close()

    def __enter__(self) -> Broadcaster:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
