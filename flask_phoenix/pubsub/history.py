"""What a topic keeps of its broadcasts: how it is declared, positions in it, and the store of one process. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, overload

from ..exceptions import InvalidOption, InvalidPayload
from ..protocol.messages import Broadcast, Kept, shown

#: Bytes that all topics of a process keep together, unless ``PHOENIX_HISTORY_TOTAL`` says otherwise.
TOTAL = 64 << 20
#: Topics of which a process remembers where they are; the one that was used least recently is forgotten first.
TOPICS = 10_000
#: Seconds for which nodes remember in common where a topic is, after all that it kept has grown too old; and where one
#: is that keeps nothing, when nobody has asked for it since.
MEMORY, QUIET = 86_400.0, 3_600.0
#: How many bytes a message takes beside its payload, about.
OVERHEAD = 300
#: The digits that an offset has at most.
DIGITS = 18


@dataclass(frozen=True)
class History:
    """Has the topics of a channel keep their broadcasts, so that clients that come back miss none.

    Write ``history = History()`` in the class; in an instance, ``self.history()`` returns what is kept.

    :param size: messages that each topic keeps; 0: none.
    :param ttl: seconds for which it keeps each.
    :param max_bytes: bytes that it keeps.
    :raises InvalidOption: one of them cannot be.
    """

    size: int = 500
    ttl: float = 300.0
    max_bytes: int = 1 << 19

    def __post_init__(self) -> None:
        whole = all(type(number) is int for number in (self.size, self.max_bytes))
        if not whole or type(self.ttl) not in (int, float) or self.size < 0 or self.ttl <= 0 or self.max_bytes <= 0:
            raise InvalidOption(
                "a History has a whole number of messages, seconds above 0, and a whole number of bytes above 0:"
                f" History(size=500, ttl=300, max_bytes=524288); got {self!r}"
            )

    @overload
    def __get__(self, channel: None, owner: type) -> History: ...

    @overload
    def __get__(self, channel: Any, owner: type) -> Callable[..., list[Kept]]: ...

    def __get__(self, channel: Any, owner: type) -> Any:
        """Return the declaration from a class; from a channel, what reads the history of its topic."""
        return self if channel is None else partial(read_of, channel)


def read_of(channel: Any, since: str | None = None, limit: int | None = None) -> list[Kept]:
    """Return what a channel's topic keeps, the oldest first.

    :param since: the ref of a message: only what came after it.
    :param limit: so many of the newest at most.
    :raises InvalidOption: the channel has no history.
    :raises HistoryLost: the history does not reach back to ``since``.
    """
    kept: list[Kept] = channel.runtime.history(since, limit)
    return kept


#: Makes a tuple of values that are all there, in half the time: for what each broadcast makes.
_new = tuple.__new__


class Position(NamedTuple):
    """Where a topic is: the life in which its numbers hold, and the number of its last message. Its string is a ref."""

    #: The life: it changes where numbers begin anew.
    epoch: str
    #: The number.
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


def read_position(ref: Any) -> Position | None:
    """Read a ref; None: it is none."""
    epoch, _, digits = ref.rpartition(":") if isinstance(ref, str) else ("", "", "")
    if not epoch or not digits.isascii() or not digits.isdigit() or len(digits) > DIGITS:
        return None
    return Position(epoch, int(digits))


class Entry(NamedTuple):
    """A message that is kept."""

    offset: int
    #: When it was kept, on the store's clock.
    at: float
    broadcast: Broadcast
    #: The name of the channel that is not to get it, or nothing.
    sender: str = ""
    #: What makes its publishing idempotent, or nothing.
    key: str = ""


def size_of(broadcast: Broadcast) -> int:
    """Return the bytes that a message counts for: characters, where its payload is text."""
    return len(broadcast.payload) + OVERHEAD


class Stretch(NamedTuple):
    """What a topic keeps after some position, and where it is."""

    epoch: str
    head: int
    entries: list[Entry]

    def kept(self, topic: str) -> list[Kept]:
        """Return the messages with their refs."""
        return [Kept.made(each.broadcast, f"{self.epoch}:{each.offset}", each.sender) for each in self.entries]


class Log:
    """What one topic keeps."""

    __slots__ = ("entries", "head", "history", "keys", "size")

    def __init__(self, head: int, history: History) -> None:
        self.entries: deque[Entry] = deque()
        self.head = head
        self.history = history
        self.keys: dict[str, int] = {}
        self.size = 0

    def drop(self) -> int:
        """Drop the oldest message; return how many bytes it counted for."""
        entry = self.entries.popleft()
        if entry.key:
            self.keys.pop(entry.key, None)
        size = size_of(entry.broadcast)
        self.size -= size
        return size


class MemoryStore:
    """Keeps the messages of topics in one process. It has no clock: it is told the time, in seconds.

    Each topic numbers its messages; one that was forgotten goes on with numbers that no topic has had before, so that
    the epoch can stay.

    :param epoch: tells this life of the store from every other.
    :param total: bytes that all topics keep together.
    :param reached: called when the total bound drops what its topic would have kept.
    """

    def __init__(self, epoch: str, total: int = TOTAL, reached: Callable[[], None] = lambda: None) -> None:
        self.epoch = epoch
        self.size = 0
        self._total = total
        self._reached = reached
        self._floor = 0
        #: All topics, that which was used least recently first; and those that keep something.
        self._logs: OrderedDict[str, Log] = OrderedDict()
        self._filled: OrderedDict[str, Log] = OrderedDict()

    def append(
        self, broadcast: Broadcast, history: History, now: float, sender: str = "", key: str = ""
    ) -> tuple[Position, bool]:
        """Keep a message; return its position, and whether it is new: one with a key that is kept is not kept twice.

        :raises InvalidPayload: it is larger than what its topic may keep.
        """
        topic, log = broadcast.topic, self._log(broadcast.topic, history, now)
        if key:
            self._trim(topic, log, now)
            if key in log.keys:
                return Position(self.epoch, log.keys[key]), False
        size, offset = size_of(broadcast), log.head + 1
        check_size(size, history, topic)
        log.head = offset
        log.entries.append(_new(Entry, (offset, now, broadcast, sender, key)))
        if key:
            log.keys[key] = offset
        log.size += size
        self.size += size
        filled = self._filled
        filled[topic] = log
        if len(filled) > 1:
            filled.move_to_end(topic)
        self._trim(topic, log, now)
        if self.size > self._total or len(filled) > 1:
            self._trim_all(topic, now)
        return _new(Position, (self.epoch, offset)), True

    def position(self, topic: str, history: History, now: float) -> Position:
        """Return where a topic is."""
        return Position(self.epoch, self._log(topic, history, now).head)

    def read(self, topic: str, history: History, now: float, since: Position | None = None) -> Stretch | None:
        """Return all that came after a position, or all that is kept; None: some of it is not kept any more."""
        log = self._log(topic, history, now)
        self._trim(topic, log, now)
        entries = list(log.entries)
        if since is not None:
            missed = log.head - since.offset
            if since.epoch != self.epoch or not 0 <= missed <= len(entries):
                return None
            entries = entries[len(entries) - missed :]
        return Stretch(self.epoch, log.head, entries)

    def _log(self, topic: str, history: History, now: float) -> Log:
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = Log(self._floor, history)
            if len(self._logs) > TOPICS:
                self._forget(next(iter(self._logs)))
        self._logs.move_to_end(topic)
        return log

    def _forget(self, topic: str) -> None:
        log = self._logs.pop(topic)
        self._filled.pop(topic, None)
        self.size -= log.size
        self._floor = max(self._floor, log.head)

    def _trim(self, topic: str, log: Log, now: float) -> None:
        """Drop what one topic keeps beyond its own bounds."""
        history, entries = log.history, log.entries
        while entries and (
            len(entries) > history.size or log.size > history.max_bytes or entries[0].at <= now - history.ttl
        ):
            self.size -= log.drop()
        if not entries:
            self._filled.pop(topic, None)

    def _trim_all(self, topic: str, now: float) -> None:
        """Drop what has grown old in the topic that was quiet for longest, and what all keep beyond their bound.

        :param topic: has been trimmed.
        """
        quiet = next(iter(self._filled))
        if quiet != topic:
            self._trim(quiet, self._filled[quiet], now)
        if self.size <= self._total:
            return
        self._reached()
        while self.size > self._total:
            topic, log = next(iter(self._filled.items()))
            self.size -= log.drop()
            if not log.entries:
                del self._filled[topic]


def check_size(size: int, history: History, topic: str) -> None:
    """Check that a topic can keep a message.

    :raises InvalidPayload: it is too large.
    """
    if size > history.max_bytes:
        raise InvalidPayload(
            f"a message on {shown(topic)} counts for {size} bytes, and its history keeps {history.max_bytes}: send"
            " less, or raise History(max_bytes=...)"
        )
