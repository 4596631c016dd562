"""Answers that are given once: a message that comes again is answered as the first time, whichever node it comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from .. import clock
from ..exceptions import Refused
from ..protocol.json import Json
from ..protocol.messages import INTERNAL, Broadcast, JsonText, Reply
from ..pubsub.adapter import Archive
from ..pubsub.history import History
from .histories import Histories

#: What is kept of each topic: a claim of each key, and its outcome.
KEPT = History(size=2000, ttl=300.0, max_bytes=1 << 20)
#: Seconds in which the first call has to end when a second one waits for it, and between two looks.
WAIT, LOOK = 5.0, 0.05
#: The events of what is kept.
CLAIMED, ANSWERED, FAILED = "claimed", "answered", "failed"


def answer_once(
    histories: Histories, archive: Archive | None, json: Json, topic: str, key: str, call: Callable[[], Reply | None]
) -> Reply | None:
    """Call a function, unless it was called for this key of the topic; return its reply of now or then.

    A call that failed is made again. One that neither ended nor failed, since its process was killed, is not.

    :param archive: where the replies are kept; None: in this process.
    :raises Refused: it is not known what has become of the first call.
    """

    def keep(event: str, value: Any, once: str = "") -> bool:
        entry = Broadcast(f"{INTERNAL}once:{topic}", event, JsonText(json.dumps(value)))
        return histories.note(archive, entry, KEPT, once)[1]

    attempt = 0
    while not keep(CLAIMED, [key, attempt], f"{attempt} {key}"):
        event, reply = _outcome(histories, archive, json, topic, [key, attempt])
        if event == ANSWERED:
            return reply and Reply(*reply)
        attempt += 1
    try:
        made = call()
    except BaseException:
        keep(FAILED, [key, attempt, None])
        raise
    keep(ANSWERED, [key, attempt, made and [*made]])
    return made


def _outcome(
    histories: Histories, archive: Archive | None, json: Json, topic: str, claim: list[Any]
) -> tuple[str, Any]:
    """Wait for the outcome of a call; return whether it was answered, and how."""
    deadline = clock.monotonic() + WAIT
    while True:
        for entry in histories.noted(archive, f"{INTERNAL}once:{topic}", KEPT):
            if entry.event != CLAIMED:
                *done, reply = json.loads(entry.payload)
                if done == claim:
                    return entry.event, reply
        if clock.monotonic() > deadline:
            raise Refused(reason="in doubt")
        gevent.sleep(LOOK)
