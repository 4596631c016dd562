"""Broadcasts over Redis: the adapter between hosts, and the way in for processes that serve nobody."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from gevent import monkey
from gevent.event import Event
from redis.exceptions import MovedError, RedisClusterException, ResponseError

from ...exceptions import NotPublished
from ..adapter import Adapter, Publisher
from .client import FAILURES, MARK, PREFIX, URL, Message, PublishingClient, split_url
from .client import RedisPublisher as RedisPublisher
from .subscriber import Listener, SubscriberConnection
from .threads import Threads

log = logging.getLogger(__name__)

#: A lock between OS threads, which a patched one is not. Whoever holds it never waits.
allocate_lock = monkey.get_original("_thread", "allocate_lock")

#: How many bytes a message takes in the queue beside its payload, about.
OVERHEAD = 200
#: So many bytes are published in one go, and so many messages are handed on before others may run.
BATCH = 1 << 20
STRIDE = 64
#: So many messages may wait to be handed on before reading pauses, for so many seconds each time.
MOST, PAUSE = 10_000, 0.01
#: Seconds that the last broadcasts have to leave, and then the threads to end, when an adapter stops.
GRACE = 2.0
#: Seconds after which a cluster is looked for again.
RETRY = 1.0


class RedisAdapter(Adapter, Listener):
    """Carries broadcasts between hosts over Redis' pub/sub, at most once and in order for each publisher and topic.

    While Redis is away, broadcasts reach the clients of their own node; the others miss them, and each is counted in
    :attr:`unpublished`. Topics can be subscribed to meanwhile and are heard as soon as Redis is back.

    :param url: as redis-py takes it (``redis://``, ``rediss://``, ``unix://``), or ``redis+cluster://host:port``.
    :param client: a client of redis-py instead of the URL: of a Sentinel's master, of a cluster, with TLS.
    :param prefix: what comes before each topic, and a colon; those who share a Redis have a prefix each.
    :param subscribe_timeout: seconds that a subscriber waits at most for Redis to confirm a topic.
    :param check_interval: seconds of silence after which Redis is asked for a sign of life; as many again, and the
        link counts as lost.
    :param queue_limit: bytes that may wait to be published.
    :raises InvalidOption: the URL or the client cannot be used.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        client: Any = None,
        prefix: str = PREFIX,
        subscribe_timeout: float = 2.0,
        check_interval: float = 5.0,
        queue_limit: int = 64 << 20,
    ) -> None:
        self._reach: dict[str, Any] = {"url": url, "client": client, "prefix": prefix}
        self.client = PublishingClient(url, client, prefix, check_interval)
        self.check_interval = check_interval
        self._subscribe_timeout = subscribe_timeout
        self._queue_limit = queue_limit
        self._lock = allocate_lock()
        self._running = False

    @classmethod
    def from_url(cls, url: str) -> RedisAdapter:
        """Make an adapter whose options stand in the query: ``redis://host/0?prefix=chat&queue_limit=1000000``.

        :raises InvalidOption: the URL cannot be used.
        """
        url, options = split_url(url)
        return cls(url, **options)

    def publisher(self) -> Publisher:
        """Make what publishes to the same nodes from outside."""
        return RedisPublisher(**self._reach)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Begin; ``gone`` is never called, for Redis tells nobody."""
        self._mark, self._receive = blake2b(node.encode(), digest_size=MARK).digest(), receive
        self._work, self.stopping = threading.Event(), threading.Event()
        #: What the subscribers of each channel wait for.
        self._wanted: dict[bytes, Event] = {}
        #: Channels that are wanted, or no longer, and that the writer has yet to see to.
        self._changed: deque[bytes] = deque()
        self._placed: dict[bytes, SubscriberConnection] = {}
        self._connections: dict[Any, SubscriberConnection] = {}
        self._queue: deque[Message] = deque()
        self._queued = self._heard = 0
        self._looked = 0.0
        self._warned = self._refused = False
        #: Seconds until the writer looks for a cluster again that did not answer.
        self._rest: float | None = None
        self._threads = Threads()
        self._writer = self._threads.spawn(self._write)
        self._running = True

    def stop(self) -> None:
        """End; what waits to be published has a moment to leave."""
        self._running = False
        self.stopping.set()
        self._wake()
        self._writer.wait(GRACE)
        for connection in list(self._connections.values()):
            connection.close()
        self.client.close()
        self._threads.close(GRACE)
        if self._queue:
            log.error("the adapter ends with %d messages that Redis has not taken", len(self._queue))
            self.unpublished += len(self._queue)
        for ask in self._wanted.values():
            ask.set()

    def subscribe(self, topic: str) -> None:
        """Ask for a topic, and wait until Redis confirms; without Redis, it is heard when that is back."""
        channel = self.client.channel(topic)
        while True:
            ask = self._wanted.get(channel)
            if ask is None:
                ask = self._wanted[channel] = Event()
                self._changed.append(channel)
                self._wake()
            if not ask.wait(self._subscribe_timeout):
                self._warn(topic)
                return
            if self._wanted.get(channel) is ask:  # else another has let go of the topic meanwhile
                return

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more."""
        channel = self.client.channel(topic)
        if self._wanted.pop(channel, None) is not None:
            self._changed.append(channel)
            self._wake()

    def publish(self, topic: str, data: bytes) -> None:
        """Queue data for every other node that asks for a topic.

        :raises NotPublished: the queue is full, or the adapter does not run.
        """
        if not self._running:
            raise NotPublished("the adapter of Redis does not run: it starts with the first connection")
        message = self.client.channel(topic), self._mark + data
        size = len(data) + MARK + OVERHEAD
        with self._lock:
            full = self._queued + size > self._queue_limit
            if not full:
                self._queue.append(message)
                self._queued += size
        if full:
            raise NotPublished(f"{self._queue_limit} bytes wait for Redis: publish less, or raise queue_limit")
        self._wake()

    # What an connection asks and tells, in its own thread.

    def asked(self, connection: SubscriberConnection) -> dict[bytes, Event]:
        """Return the channels that an connection is to listen to."""
        mine = [channel for channel, other in list(self._placed.items()) if other is connection]
        return {channel: ask for channel in mine if (ask := self._wanted.get(channel)) is not None}

    def confirmed(self, ask: Event) -> None:
        """Let those go on who wait for a topic."""
        self._threads.call(ask.set)

    def heard(self, channel: bytes, data: bytes) -> None:
        """Hand on what another node has published."""
        if data[:MARK] != self._mark:
            self._threads.call(self._deliver, channel, data)
        self._heard += 1
        if not self._heard % STRIDE:
            time.sleep(0)
            while len(self._threads) > MOST and not self.stopping.is_set():
                time.sleep(PAUSE)

    def lost(self, connection: SubscriberConnection) -> None:
        """In a cluster, look whether others carry now what this one did."""
        if self.client.sharded:
            self._look_again()
            self._changed.extend(self.asked(connection))
            self._wake()

    def moved(self, channel: bytes, error: MovedError | None) -> None:
        """Listen where a channel is now."""
        if error is not None:
            time.sleep(PAUSE)  # two nodes may send each other's clients to and fro, for a moment
            self.client.redirect(error)
        elif time.monotonic() - self._looked > PAUSE:  # the channels of a slot move together
            self._look_again()
        self._changed.append(channel)
        self._wake()

    def found(self, connection: SubscriberConnection) -> None:
        """Publish there again, too."""
        self._warned = False
        self.client.reopen(connection.pool)

    # How it is done.

    def _deliver(self, channel: bytes, data: bytes) -> None:
        if channel in self._wanted:  # else it was let go of while this was on its way
            self._receive(self.client.topic(channel), data[MARK:])

    def _warn(self, topic: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("Redis does not confirm %r: until it does, the topic is heard on this node alone", topic)

    def _look_again(self) -> None:
        try:
            self.client.refresh()
        except FAILURES as error:
            log.debug("the cluster cannot be asked for its nodes: %s", error)
        self._looked = time.monotonic()

    def _wake(self) -> None:
        self._threads.set(self._work)

    # What the writer does, in its thread.

    def _write(self) -> None:
        over = False
        while not over:
            self._work.wait(self._rest)
            self._work.clear()
            over = self.stopping.is_set()  # what follows takes all that was published before
            try:
                self._place()
                self._flush()
            except Exception:
                log.exception("what writes to Redis failed, and goes on")

    def _place(self) -> None:
        """Tell the connections what is wanted, each what its server carries."""
        changed: dict[bytes, None] = {}
        while self._changed:
            changed[self._changed.popleft()] = None
        moves: dict[SubscriberConnection, tuple[list[bytes], dict[bytes, Event]]] = {}
        try:
            while changed:
                self._move(next(reversed(changed)), moves)
                changed.popitem()
            self._rest = None
        except FAILURES as error:
            if self._rest is None:
                log.warning("topics cannot be subscribed to until the cluster answers: %s", error)
            self._rest = RETRY
            self._changed.extend(reversed(changed))  # what failed is last at the next attempt
        for connection, (leave, join) in moves.items():
            connection.tell(leave, join)
        for connection in [
            connection
            for connection in self._connections.values()
            if connection.away and connection not in self._placed.values()
        ]:
            self._connections.pop(connection.pool).close()

    def _move(self, channel: bytes, moves: dict[SubscriberConnection, tuple[list[bytes], dict[bytes, Event]]]) -> None:
        ask, old = self._wanted.get(channel), self._placed.get(channel)
        new = self._ear(self.client.pool(channel)) if ask is not None else None
        if old is not None and old is not new:
            del self._placed[channel]
            moves.setdefault(old, ([], {}))[0].append(channel)
        if new is not None and ask is not None:
            self._placed[channel] = new
            moves.setdefault(new, ([], {}))[1][channel] = ask

    def _ear(self, pool: Any) -> SubscriberConnection:
        if pool not in self._connections:
            connection = self._connections[pool] = SubscriberConnection(self.client, pool, self)
            self._threads.spawn(connection.run)
        return self._connections[pool]

    def _flush(self) -> None:
        """Publish what waits, and let new subscriptions in between."""
        while batch := self._take():
            failed = self.client.publish(batch)
            self.unpublished += len(failed)
            refused = [error for _, error in failed if isinstance(error, (ResponseError, RedisClusterException))]
            if refused and not self._refused:
                log.error("Redis does not take what is published: %s", refused[0])
            self._refused = bool(refused)
            if self._changed:
                self._place()

    def _take(self) -> list[Message]:
        batch: list[Message] = []
        size = 0
        while self._queue and size < BATCH:
            batch.append(self._queue.popleft())
            size += len(batch[-1][1]) + OVERHEAD
        with self._lock:
            self._queued -= size
        return batch
