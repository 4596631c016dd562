"""Broadcasts of which a client that reads too slowly is to get the newest alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from ..protocol.messages import Broadcast, shown
from .failures import log_failure

log = logging.getLogger("flask_phoenix.pubsub")

#: Returns the key of a frame, of which only the newest is kept where frames wait; None: it has none.
FindKey = Callable[[], Any]


class Conflation:
    """How the broadcasts of a channel are told apart where they wait for a slow client.

    :param name: of the channel, for log lines.
    :param keys: by event, a function of the payload; of those with equal results the newest alone is kept.
    """

    __slots__ = ("_failed", "_keys", "_name")

    def __init__(self, name: str, keys: Mapping[str, Callable[[Any], Any]]) -> None:
        self._name = name
        self._keys = keys
        self._failed = set[str]()

    def finder(self, broadcast: Broadcast, read: Callable[[Broadcast], Broadcast]) -> FindKey | None:
        """Return what finds the key of a broadcast, once and only when it is asked; None: its event has no keys."""
        function = self._keys.get(broadcast.event)
        return None if function is None else cache(lambda: self._find(function, read(broadcast)))

    def _find(self, function: Callable[[Any], Any], broadcast: Broadcast) -> Any:
        """Call the author's function; a broadcast for which it fails waits like any other, and the first is logged."""
        try:
            key = broadcast.topic, broadcast.event, function(broadcast.payload)
            hash(key)
        except Exception:
            if broadcast.event not in self._failed:
                self._failed.add(broadcast.event)
                log_failure(log, "%s.conflate has no key for a payload of %s", self._name, shown(broadcast.event))
            return None
        return key


class Conflated(bytes):
    """Bytes of a stream that can be told apart as frames, some of which have keys."""

    frames: list[tuple[FindKey | None, bytes]]


def conflated(frames: list[tuple[FindKey | None, bytes]]) -> Conflated:
    """Join frames, and remember them."""
    joined = Conflated(frames[0][1] if len(frames) == 1 else b"".join([data for _, data in frames]))
    joined.frames = frames
    return joined


def glue(pieces: Iterable[bytes]) -> Conflated:
    """Join bytes of which some can be told apart."""
    return conflated([frame for piece in pieces for frame in frames_of(piece)])


def frames_of(data: bytes) -> list[tuple[FindKey | None, bytes]]:
    """Return what can be told apart."""
    return data.frames if isinstance(data, Conflated) else [(None, data)]
