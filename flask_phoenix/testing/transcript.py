"""What happened in a test, in order and with times, for those who are told that something has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent
from flask import Flask, got_request_exception

from .. import clock
from ..app_state import state_of
from ..protocol.messages import REPLY, Broadcast, Message
from ..runtime.engine import Engine

#: Characters of a payload, and lines, that are shown at most.
SHOWN_PAYLOAD = 300
SHOWN_LINES = 60

SENT, GOT, BROADCAST, FAILED, CLOSED = "->", "<-", "**", "!!", "||"


class Entry:
    """One thing that happened."""

    __slots__ = ("at", "taken", "what", "who", "why")

    def __init__(self, at: float, who: str, why: str, what: Any) -> None:
        self.at = at
        self.who = who
        self.why = why
        self.what = what
        #: An assertion has taken it, or none would.
        self.taken = why not in (GOT, BROADCAST)

    def __str__(self) -> str:
        mark = " " if self.taken else "*"
        return f"{self.at:10.3f} {mark} {self.who} {self.why} {_shown(self.what)}"


class Transcript:
    """What happened: what clients sent and got, and in an app its broadcasts, and exceptions of its callbacks."""

    def __init__(self, app: Flask | None = None) -> None:
        self._began = clock.monotonic()
        self._entries: list[Entry] = []
        self._names: Counter[str | None] = Counter()
        #: A test was told that something is wrong.
        self.failed = False
        self._failure: BaseException | None = None
        #: The broadcasts of this process, and of others where it hears their topics.
        self.broadcasts: list[Entry] = []
        self._end_tap: Callable[[], object] = lambda: None
        if app is not None:
            self._engine: Engine = state_of(app).engine
            self._end_tap = self._engine.pubsub.tap(self._note_broadcast)
            got_request_exception.connect(self._note_failure, app)

    def name_for(self, id: str | None) -> str:
        """Return a name for another client: the id of its socket, or a number, and no other's."""
        self._names[id] += 1
        number = self._names[id]
        if id is None:
            return f"client {number}"
        return id if number == 1 else f"{id} ({number})"

    def note(self, who: str, why: str, what: Any) -> Entry:
        """Remember something."""
        entry = Entry(clock.monotonic() - self._began, who, why, what)
        self._entries.append(entry)
        return entry

    def take_failure(self) -> BaseException | None:
        """Return the last exception of a callback that no assertion has accounted for, once."""
        failure, self._failure = self._failure, None
        return failure

    def close(self) -> None:
        """Remember nothing more."""
        self._end_tap()
        got_request_exception.disconnect(self._note_failure)

    def __str__(self) -> str:
        lines = [f"    {entry}" for entry in self._entries[-SHOWN_LINES:]]
        if len(self._entries) > SHOWN_LINES:
            lines.insert(0, f"    ... {len(self._entries) - SHOWN_LINES} lines before")
        next_due = getattr(getattr(gevent.get_hub().loop, "clock", None), "next", None)
        if next_due is not None:
            lines.append(
                f"  The clock stands still; the next timer is due in {next_due:g} s: phoenix_clock.advance(...)"
            )
        return "\n".join(["  What happened (s; * is what no assertion has taken):", *(lines or ["    nothing"])])

    def _note_broadcast(self, broadcast: Broadcast) -> None:
        self.broadcasts.append(self.note("app", BROADCAST, self._engine.pubsub.read(broadcast)))

    def _note_failure(self, sender: Any, exception: BaseException, **_: Any) -> None:
        self.note("app", FAILED, exception)
        self._failure = exception


def _shown(what: Any) -> str:
    if isinstance(what, Message) and what.event == REPLY:
        response = _clipped(what.payload["response"])
        return f"reply to {what.ref} on {what.topic}: {what.payload['status']} {response}"
    if isinstance(what, Message):
        ref = f" (ref {what.ref})" if what.ref is not None else ""
        return f"{what.event} on {what.topic}{ref}: {_clipped(what.payload)}"
    if isinstance(what, Broadcast):
        return f"{what.event} on {what.topic}: {_clipped(what.payload)}"
    return _clipped(what)


def _clipped(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_PAYLOAD else f"{text[:SHOWN_PAYLOAD]}..."
