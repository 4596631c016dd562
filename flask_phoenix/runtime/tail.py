"""The end of a topic's history as one node follows it: its messages reach the clients here in order, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context
from typing import Any

import gevent
from gevent.event import Event

from ..protocol.messages import Kept, shown
from ..pubsub.failures import log_failure
from ..pubsub.history import History, Position, Stretch, read_position
from ..pubsub.local import Subscriber

log = logging.getLogger("flask_phoenix.pubsub")

#: Seconds until a history that cannot be read is asked again.
RETRY = 0.2


class Tail:
    """Follows a topic whose history other nodes write too.

    Whatever comes with the next number is delivered. One that was delivered already is dropped. When one comes too
    early, what is missing is read from the history; where that has lost it, all who rely on positions are told.

    :param read: returns what came after a position, and True; or what is left of it, and False. Without a position it
        returns nothing but where the topic is.
    :param deliver: gives a message to the subscribers here, except one.
    """

    def __init__(
        self,
        topic: str,
        history: History,
        read: Callable[[Position | None], tuple[Stretch, bool]],
        deliver: Callable[[Kept, Subscriber | None], None],
    ) -> None:
        self.topic = topic
        self.history = history
        #: The last message that was delivered here; None until it is known what came before this node listened.
        self.position: Position | None = None
        #: Set when that is known, and in the end.
        self.known = Event()
        #: Who is on the topic here.
        self.users: set[Subscriber] = set()
        #: What tells those of them who rely on positions that messages are lost.
        self.followers: dict[Subscriber, Callable[[], None]] = {}
        #: Those of them that the history knows by name.
        self.names: dict[str, Subscriber] = {}
        self._read = read
        self._deliver = deliver
        self._collecting: list[list[Kept]] = []
        self._greenlet: Any = None
        #: There may be more than what has been delivered.
        self._behind = False
        #: What came last while the history was read: if that does not have it yet, it is read again.
        self._latest: Position | None = None

    def catch_up(self) -> None:
        """Have what is missing read from the history, and delivered, soon."""
        self._behind = True
        if self._greenlet is None:
            # In an empty context: greenlets inherit that of their maker, which may be a request's.
            self._greenlet = Context().run(gevent.spawn, self._run)

    def reach(self, position: Position, seconds: float) -> None:
        """Wait, so long at most, until what is delivered here has come to a position that another node knows."""
        if self.position is None or (self.position.epoch == position.epoch and self.position.offset < position.offset):
            self.catch_up()
            self._greenlet.join(seconds)

    def close(self) -> None:
        """End."""
        greenlet, self._greenlet = self._greenlet, None
        self._behind = False
        self.known.set()
        if greenlet is not None and greenlet is not gevent.getcurrent():
            greenlet.kill(block=False)

    def arrive(self, message: Kept) -> None:
        """Take a message, from this node or from another."""
        position = read_position(message.ref)
        if position is None:
            return
        if self._greenlet is not None or self.position is None:
            self._latest = position  # the history has it by now
        elif position == (self.position.epoch, self.position.offset + 1):
            self._hand_on(message, position)
        elif self._is_ahead(position):
            self.catch_up()

    def collect(self) -> list[Kept]:
        """Return a list to which everything is added that is delivered from now on, until it is forgotten."""
        collected: list[Kept] = []
        self._collecting.append(collected)
        return collected

    def forget(self, collected: list[Kept]) -> None:
        """Add to a list no more."""
        self._collecting = [each for each in self._collecting if each is not collected]

    def _hand_on(self, message: Kept, position: Position) -> None:
        self.position = position
        for collected in self._collecting:
            collected.append(message)
        try:
            self._deliver(message, self.names.get(message.sender) if message.sender else None)
        except Exception:
            log_failure(log, "a broadcast on %s failed", shown(self.topic))

    def _run(self) -> None:
        told = False
        while self._behind:
            self._behind, self._latest = False, None  # whatever comes from now on, the read may not find
            try:
                self._take(*self._read(self.position))
            except gevent.GreenletExit:
                raise
            except Exception as error:
                if not told:
                    log.warning("the history of %s cannot be read, and is asked again: %s", shown(self.topic), error)
                told = self._behind = True
                gevent.sleep(RETRY)
        self._greenlet = None

    def _take(self, stretch: Stretch, whole: bool) -> None:
        """Take what the history says; nothing waits in here."""
        if not whole:
            self._lose()
        for message, entry in zip(stretch.kept(self.topic), stretch.entries, strict=True):
            self._hand_on(message, Position(stretch.epoch, entry.offset))
        self.position = Position(stretch.epoch, stretch.head)
        if self._latest is not None and self._is_ahead(self._latest):
            self._behind = True
        self.known.set()

    def _is_ahead(self, position: Position) -> bool:
        """Tell whether what has this position was not delivered here."""
        return self.position is None or position.epoch != self.position.epoch or position.offset > self.position.offset

    def _lose(self) -> None:
        """Tell those who rely on positions."""
        if self.followers and self.position is not None:
            log.warning("messages on %s are lost; %d clients are told", shown(self.topic), len(self.followers))
        for lose in list(self.followers.values()):
            lose()
        for collected in self._collecting:
            collected.clear()  # what comes now does not follow it
