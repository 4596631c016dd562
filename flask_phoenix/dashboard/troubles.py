"""What has gone wrong lately: crashes with their tracebacks, and other events. Bounded in number and in bytes."""

from __future__ import annotations

import secrets
import traceback
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Any

from flask import Flask

from .. import clock, signals
from ..protocol.messages import shown
from ..runtime.engine import Engine
from .shown import PARAMETERS_LENGTH, parameters, shortened

#: Crashes that a node remembers, and other events.
CRASHES, EVENTS = 20, 50
#: Characters of a traceback.
TRACEBACK_LENGTH = 6000
#: Crashes that are written down in a second; the others are counted alone.
WRITTEN_PER_SECOND = 5


class Troubles:
    """Remembers what has gone wrong in this process, by signals that are rare: they cost nothing while all is well."""

    def __init__(self, app: Flask, engine: Engine) -> None:
        self._engine = engine
        self._numbers = count(1)
        self._name = secrets.token_hex(4)
        #: The newest last.
        self.crashes: deque[dict[str, Any]] = deque(maxlen=CRASHES)
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        #: How many crashes there were, and how many clients were closed for reading too slowly.
        self.crash_count = self.slow_count = 0
        self._written: deque[float] = deque(maxlen=WRITTEN_PER_SECOND)
        self._connect(app)

    def since(self, number: int) -> tuple[int, list[dict[str, Any]], list[dict[str, Any]]]:
        """Return crashes and events with higher numbers than this, and the highest number there is."""
        crashes = [crash for crash in self.crashes if crash["number"] > number]
        events = [event for event in self.events if event["number"] > number]
        return max([number, *(each["number"] for each in crashes + events)]), crashes, events

    def _connect(self, app: Flask) -> None:
        def on(signal: Any, receive: Callable[..., None]) -> None:
            signal.connect(lambda app, **about: receive(**about), app, weak=False)

        on(signals.channel_crashed, self._note_crash)
        on(signals.slow_client, self._note_slow)
        on(signals.drain_begun, lambda **_: self._note("drain", "lets its clients go"))
        on(signals.adapter_lost, lambda **_: self._note("adapter_lost", "has lost the way to the other nodes"))
        on(signals.adapter_back, lambda **_: self._note("adapter_back", "reaches the other nodes again"))

    def _note(self, kind: str, text: str, **about: Any) -> None:
        self.events.append({**self._begin(), "kind": kind, "text": text, **about})

    def _note_slow(self, connection: Any, size: int, **_: Any) -> None:
        self.slow_count += 1
        self._note("slow", f"closed client {connection.number}, for which {size} bytes waited", id=connection.id)

    def _note_crash(
        self, connection: Any, mount: str, topic: str, pattern: str, reason: Any, where: str, payload: Any, **_: Any
    ) -> None:
        self.crash_count += 1
        now = clock.monotonic()
        if len(self._written) == WRITTEN_PER_SECOND and now - self._written[0] < 1:
            return
        self._written.append(now)
        told = self._engine.filter_parameters
        self.crashes.append(
            {
                **self._begin(),
                "connection": f"{self._engine.node.name}-{connection.number}",
                "mount": mount,
                "topic": shortened(topic),
                "pattern": pattern,
                "where": where,
                "message": told.of_text(_message(reason)[:PARAMETERS_LENGTH]),
                "parameters": parameters(payload, told),
                "params": parameters(connection.socket.params, told),
                "traceback": told.of_text(written(reason)),
            }
        )

    def _begin(self) -> dict[str, Any]:
        number = next(self._numbers)
        return {"key": f"{self._name}-{number}", "number": number, "at": round(clock.time(), 3)}


def _message(reason: Any) -> str:
    if isinstance(reason, BaseException):
        return traceback.format_exception_only(type(reason), reason)[-1].strip()
    return f"stopped for the reason {shown(reason)}"


def written(reason: Any) -> str:
    """Return the traceback of an exception: its begin and its end, where it is long."""
    if not isinstance(reason, BaseException):
        return ""
    text = "".join(traceback.format_exception(type(reason), reason, reason.__traceback__))
    if len(text) <= TRACEBACK_LENGTH:
        return text
    half = TRACEBACK_LENGTH // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"
