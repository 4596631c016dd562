"""The histories of an app's topics in one process."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

import gevent

from .. import clock
from ..exceptions import HistoryLost, InvalidOption, NotPublished, PhoenixError
from ..protocol.json import Json
from ..protocol.messages import Broadcast, Kept, shown
from ..pubsub.adapter import Adapter, Archive
from ..pubsub.envelope import pack_entry, unpack_entry
from ..pubsub.history import TOTAL, Entry, History, MemoryStore, Position, Stretch, read_position
from ..pubsub.local import PubSub, Subscriber
from ..socket import Socket
from .recovery import Recovery
from .tail import Tail

log = logging.getLogger("flask_phoenix.pubsub")

#: Topics of which is remembered whether they have a history.
KNOWN_LIMIT = 10_000
#: Seconds that a join waits for its topic and for a history that does not answer; its client is told later, then.
OPEN_TIMEOUT = 2.0
#: Seconds between two looks at whether a topic has more than was delivered here.
CHECK_PERIOD = 5.0
#: Where a topic is of which nothing is known.
NOWHERE = Position("", 0)


class Histories:
    """Which topics have a history, what they keep, and who follows them here.

    :param reached: called when what all topics keep reaches its bound.
    """

    def __init__(self, pubsub: PubSub, json: Json, reached: Callable[[], None]) -> None:
        #: The sockets whose channels tell which topics have a history.
        self.sockets: list[type[Socket]] = []
        #: Bytes that all topics keep together.
        self.total = TOTAL
        self._pubsub = pubsub
        self._json = json
        self._reached = reached
        self._known: dict[str, History | None] = {}
        self._store: MemoryStore | None = None
        #: The process that has made it.
        self._process = 0
        self._adapter: Adapter | None = None
        self._detach: Callable[[], None] = lambda: None
        self._tails: dict[str, Tail] = {}
        self._checker: Any = None

    def of(self, topic: str, settled: bool) -> History | None:
        """Return the history that a topic has; None: it keeps nothing.

        :param settled: no channels are declared any more.
        """
        if topic in self._known:
            return self._known[topic]
        found = next(
            (
                route.channel.history
                for socket in self.sockets
                if (route := socket.match(topic)) is not None and route.channel.history.size
            ),
            None,
        )
        if settled:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            self._known[topic] = found
        return found

    # The start and the end.

    def attach(self, adapter: Adapter) -> None:
        """Keep what is kept where all nodes do; where they have no such place, nothing is kept."""
        self._adapter = adapter
        adapter.history_total, adapter.history_reached = self.total, self._reached
        self._detach = adapter.when_restored(self._catch_up)
        for topic, subscribers in self._pubsub.subscribers().items():  # functions of the app: no client has come yet
            history = self.of(topic, False)
            if history is not None and adapter.keeps:
                tail = self._follow(adapter, topic, history)
                tail.users.update(subscribers)
                tail.catch_up()

    def detach(self) -> None:
        """Forget everything: this process serves no more, or was forked from one that did."""
        self._detach()
        for tail in self._tails.values():
            tail.close()
        if self._checker is not None:
            self._checker.kill(block=False)
        self._checker = None
        self._tails.clear()
        self._known.clear()
        self._store = self._adapter = None

    def _catch_up(self) -> None:
        for tail in list(self._tails.values()):
            tail.catch_up()

    def _check(self, archive: Archive) -> None:
        """See now and then whether some message was lost, after which no other has come that would tell."""
        while self._tails:
            gevent.sleep(CHECK_PERIOD)
            for topic, tail in list(self._tails.items()):
                with suppress(PhoenixError):
                    if tail.position not in (None, archive.position(topic, tail.history)):
                        tail.catch_up()
                gevent.sleep(0)
        self._checker = None

    # What is kept, and what is read of it. With an archive, these may block.

    def keep(
        self, archive: Archive | None, sealed: Broadcast, history: History, sender: Subscriber | None, key: str
    ) -> Position:
        """Keep a broadcast, and deliver it, unless one with its key is kept.

        :param archive: where; None: in this process.
        :raises InvalidPayload: it is larger than what its topic may keep.
        :raises NotPublished: nothing keeps it.
        """
        if sender is not None and not sender.name:
            sender.name = secrets.token_hex(8)
        name = "" if sender is None else sender.name
        tail = self._tails.get(sealed.topic)
        if tail is not None and sender is not None:
            tail.names[name] = sender
        position, new = self.note(archive, sealed, history, key, name)
        if new:
            self.arrive(Kept.made(sealed, str(position), name), sender)
        if tail is not None:
            tail.reach(position, OPEN_TIMEOUT)  # so that what its maker sends next does not overtake it
        return position

    def note(
        self, archive: Archive | None, sealed: Broadcast, history: History, key: str, name: str = ""
    ) -> tuple[Position, bool]:
        """Keep what nobody here is to get; return its position, and whether it is new.

        :param name: of the channel that is not to get it elsewhere either, or nothing.
        :raises InvalidPayload: it is larger than what its topic may keep.
        :raises NotPublished: nothing keeps it.
        """
        if archive is None:
            return self.store.append(sealed, history, clock.monotonic(), name, key)
        return archive.keep(sealed.topic, history, pack_entry(name, sealed, self._json), key)

    def noted(self, archive: Archive | None, topic: str, history: History) -> Iterator[Broadcast]:
        """Return what was noted, the newest first."""
        stretch = self._read(archive, topic, history)
        return (entry.broadcast for entry in reversed(stretch.entries if stretch else []))

    def arrive(self, message: Kept, sender: Subscriber | None = None) -> None:
        """Deliver a message, from this node or from another, in its turn."""
        tail = self._tails.get(message.topic)
        if tail is None:
            self._pubsub.broadcast(message, sender)
        else:
            tail.arrive(message)

    def look(
        self, archive: Archive | None, topic: str, since: str | None, limit: int | None
    ) -> tuple[Position, list[Kept]]:
        """Return where a topic is, and what it keeps, as an author wants it.

        :raises InvalidOption: it has no history.
        :raises HistoryLost: the history does not reach back to ``since``.
        :raises NotPublished: it cannot be read.
        """
        history = self.of(topic, False)
        if history is None:
            raise InvalidOption(f"{shown(topic)} has no history: write history = History() in the class of its channel")
        position = read_position(since)
        stretch = None if since is not None and position is None else self._read(archive, topic, history, position)
        if stretch is None:
            raise HistoryLost(f"the history of {shown(topic)} does not reach back to {shown(since)}")
        kept = stretch.kept(topic)
        return Position(stretch.epoch, stretch.head), kept if limit is None else kept[max(0, len(kept) - limit) :]

    @property
    def store(self) -> MemoryStore:
        """What this process keeps, where it is alone; one that is forked begins anew, in an epoch of its own."""
        if self._store is None or self._process != os.getpid():
            self._process = os.getpid()
            self._store = MemoryStore(secrets.token_hex(4), self.total, self._reached)
        return self._store

    def _read(
        self, archive: Archive | None, topic: str, history: History, since: Position | None = None
    ) -> Stretch | None:
        """Return what a topic has kept since a position, or all that it keeps; None: some of it is lost."""
        if archive is None:
            return self.store.read(topic, history, clock.monotonic(), since)
        position, kept = archive.kept(topic, history, since)
        if kept is None:
            return None
        entries = []
        for offset, data in kept:
            sender, broadcast = unpack_entry(topic, data)
            entries.append(Entry(offset, 0, broadcast, sender))
        return Stretch(*position, entries)

    def _read_on(self, archive: Archive, topic: str, history: History, since: Position | None) -> tuple[Stretch, bool]:
        """Return what a tail has to read, and whether all of that is there."""
        if since is None:
            return Stretch(*archive.position(topic, history), []), False
        stretch = self._read(archive, topic, history, since)
        if stretch is not None:
            return stretch, True
        left = self._read(archive, topic, history)
        assert left is not None
        same = left.epoch == since.epoch
        return left._replace(entries=[each for each in left.entries if not same or each.offset > since.offset]), False

    # Who follows a topic here.

    def subscribe(self, topic: str, subscriber: Subscriber, settled: bool) -> None:
        """Give a function of the app, or another channel, the broadcasts of a topic; :meth:`leave` ends it. May block.

        :param settled: as that of :meth:`of`.
        """
        history = self.of(topic, settled)
        if history is None:
            self._pubsub.subscribe(topic, subscriber)
        else:
            self.enter(topic, history, subscriber, None, lambda: None)

    def enter(
        self, topic: str, history: History, subscriber: Subscriber, recovery: Recovery | None, lose: Callable[[], None]
    ) -> None:
        """Subscribe to a topic, and see what the client has missed; may block.

        When it returns, nothing has come for the subscriber, and whatever comes follows what the recovery has.

        :param lose: called when messages are lost that the client relies on.
        """
        if self._adapter is not None and self._adapter.keeps:
            self._enter_tail(self._adapter, topic, history, subscriber, recovery, lose)
            return
        self._pubsub.subscribe(topic, subscriber)
        if recovery is not None and self._adapter is None:
            for start in recovery.starts:
                if (stretch := self._read(None, topic, history, start)) is not None:
                    recovery.go_on(start, stretch.kept(topic))
                    return
            recovery.begin(self.store.position(topic, history, clock.monotonic()))

    def leave(self, topic: str, subscriber: Subscriber) -> None:
        """End what :meth:`enter` has begun, also while it is under way."""
        self._pubsub.unsubscribe(topic, subscriber)
        tail = self._tails.get(topic)
        if tail is None:
            return
        tail.users.discard(subscriber)
        tail.followers.pop(subscriber, None)
        if tail.names.get(subscriber.name) is subscriber:
            del tail.names[subscriber.name]
        if not tail.users:
            del self._tails[topic]
            tail.close()
            self._pubsub.release(topic)

    def _enter_tail(
        self,
        archive: Archive,
        topic: str,
        history: History,
        subscriber: Subscriber,
        recovery: Recovery | None,
        lose: Callable[[], None],
    ) -> None:
        tail = self._tails.get(topic) or self._follow(archive, topic, history)
        tail.users.add(subscriber)
        deadline = clock.monotonic() + OPEN_TIMEOUT
        self._pubsub.hold(topic)
        if tail.position is None:
            tail.catch_up()
            tail.known.wait(max(0.0, deadline - clock.monotonic()))
        if recovery is not None:
            self._recover(archive, tail, history, recovery, deadline)
            tail.names[recovery.name] = subscriber
            tail.followers[subscriber] = lose
        self._pubsub.add(topic, subscriber)

    def _follow(self, archive: Archive, topic: str, history: History) -> Tail:
        """Return a new tail of a topic."""
        read = partial(self._read_on, archive, topic, history)
        tail = self._tails[topic] = Tail(topic, history, read, self._pubsub.broadcast)
        if self._checker is None:
            self._checker = Context().run(gevent.spawn, self._check, archive)
        return tail

    def _recover(self, archive: Archive, tail: Tail, history: History, recovery: Recovery, deadline: float) -> None:
        """Read what the client has missed, up to where this node is."""
        for start in recovery.starts:
            tail.reach(start, max(0.0, deadline - clock.monotonic()))
            if (missed := self._missed(archive, tail, history, start, deadline)) is not None:
                recovery.go_on(start, missed)
                return
        recovery.begin(tail.position or NOWHERE)

    def _missed(
        self, archive: Archive, tail: Tail, history: History, since: Position, deadline: float
    ) -> list[Kept] | None:
        """Return what was kept after a position, up to where this node is; None: some of it is lost.

        What is delivered here while the history is read is collected, so that both together have no hole.
        """
        collected = tail.collect()
        try:
            with gevent.Timeout(max(0.0, deadline - clock.monotonic()), NotPublished("it does not answer in time")):
                stretch = self._read(archive, tail.topic, history, since)
        except PhoenixError as error:
            log.warning("the history of %s cannot be read: %s", shown(tail.topic), error)
            stretch = None
        finally:
            tail.forget(collected)
        position = tail.position or NOWHERE
        if stretch is None or not since.epoch == stretch.epoch == position.epoch:
            return None
        missed = stretch.kept(tail.topic)[: max(0, position.offset - since.offset)]
        missed += collected[max(0, len(collected) + len(missed) + since.offset - position.offset) :]
        return missed if len(missed) == position.offset - since.offset else None
