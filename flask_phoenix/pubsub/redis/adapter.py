"""The adapter over Redis: publishing, in a thread that writes, and its life from start to stop."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from gevent import monkey
from redis.exceptions import RedisClusterException, ResponseError

from ...exceptions import NotPublished, PhoenixError
from ..adapter import RUNS_ALREADY, WRONG_THREAD, Adapter, Publisher
from ..hub import thread_id
from .archive import KeepsInRedis, RedisArchive
from .archivist import Archivist
from .client import MARK_SIZE, PREFIX, URL, ChannelMessage, PublishingClient, split_url
from .lease import Lease
from .publisher import RedisPublisher
from .subscriber import RedisSubscriber
from .threads import Threads

log = logging.getLogger("flask_phoenix.redis")

#: A lock between OS threads, which a patched one is not. Whoever holds it never waits.
allocate_lock = monkey.get_original("_thread", "allocate_lock")

#: How many bytes a message takes in the queue beside its payload, about.
OVERHEAD = 200
#: How many bytes are published in one go.
BATCH_SIZE = 1 << 20
#: Seconds that the last broadcasts have to leave, and then the threads to end, when an adapter stops.
STOP_GRACE = 2.0


class RedisAdapter(KeepsInRedis, Adapter):
    """Carries broadcasts between hosts over Redis' pub/sub, at most once and in order for each publisher and topic.

    While Redis is away, broadcasts reach the clients of their own node; the others miss them, and each is counted in
    :attr:`.Adapter.unpublished`. Topics can be subscribed to meanwhile and are heard as soon as Redis is back.

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
        self._target: dict[str, Any] = {"url": url, "client": client, "prefix": prefix}
        self._client = PublishingClient(url, client, prefix, check_interval)
        self._check_interval = check_interval
        self.subscribe_timeout = subscribe_timeout
        self._queue_limit = queue_limit
        self._lock = allocate_lock()
        self._running, self._process = False, 0

    @classmethod
    def from_url(cls, url: str) -> RedisAdapter:
        """Make an adapter whose options stand in the query: ``redis://host/0?prefix=chat&queue_limit=1000000``.

        :raises InvalidOption: the URL cannot be used.
        """
        url, options = split_url(url)
        return cls(url, **options)

    def publisher(self) -> Publisher:
        """Make what publishes to the same nodes from outside."""
        return RedisPublisher(**self._target)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Begin; ``gone`` is never called, for Redis tells nobody: see :attr:`.Adapter.meets`.

        :raises PhoenixError: it runs already.
        """
        if self._runs:
            raise PhoenixError(RUNS_ALREADY)
        self._thread, self._process, self._lock = thread_id(), os.getpid(), allocate_lock()
        self._mark = blake2b(node.encode(), digest_size=MARK_SIZE).digest()
        self._work, self._stopping = threading.Event(), threading.Event()
        self._queue: deque[ChannelMessage] = deque()
        self._queued = 0
        self._refused = False
        self._threads = Threads()
        self._subscriber = RedisSubscriber(
            self._client,
            self._threads,
            self._mark,
            receive,
            self.restored,
            self.tell_lost,
            self.subscribe_timeout,
            self._check_interval,
        )
        self._subscriber.start()
        self._writer = self._threads.spawn(self._write)
        self._archivist = Archivist(self._threads, self._client.execute)
        self._archive = RedisArchive(
            self._client, self._mark, self._archivist.execute, self.history_total, self.history_reached
        )
        self._running = True

    def stop(self) -> None:
        """End; what waits to be published has a moment to leave."""
        if not self._runs:
            return
        with self._lock:
            self._running = False
        self._stopping.set()
        self._threads.set(self._work)
        self._archivist.stop()
        self._writer.wait(STOP_GRACE)
        self._subscriber.close()
        self._client.close()
        self._threads.close(STOP_GRACE)
        if self._queue:
            log.error("the adapter ends with %d messages that Redis has not taken", len(self._queue))
            self.unpublished += len(self._queue)

    def lead(self, name: str, lost: Callable[[], None]) -> Callable[[], None]:
        """Wait until no other node has the lease of this name."""
        key, remedy = self._client.channel(f"leader:{name}"), self._client.lead_remedy
        lease = Lease(self._archivist.execute, key, self._mark, lost, remedy)
        lease.acquire()
        return lease.release

    def subscribe(self, topic: str) -> None:
        """Ask for a topic, and wait until Redis confirms; without Redis, it is heard when that is back.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        if self._runs:
            self._check_thread()
            self._subscriber.subscribe(topic)

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        if self._runs:
            self._check_thread()
            self._subscriber.unsubscribe(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Queue data for every other node that asks for a topic.

        :raises NotPublished: the queue is full, or the adapter does not run.
        """
        if not self._runs:
            raise NotPublished(f"the adapter of Redis does not run in process {os.getpid()}; a RedisPublisher may")
        message = self._client.channel(topic), self._mark + data
        size = len(data) + MARK_SIZE + OVERHEAD
        with self._lock:
            full = self._queued + size > self._queue_limit
            if self._running and not full:
                self._queue.append(message)
                self._queued += size
        if not self._running:
            raise NotPublished("the adapter of Redis has just been stopped")
        if full:
            raise NotPublished(f"{self._queue_limit} bytes wait for Redis: publish less, or raise queue_limit")
        self._threads.set(self._work)

    @property
    def _runs(self) -> bool:
        """True in the process that has started it, and not in one that was forked from that."""
        return self._running and self._process == os.getpid()

    def _check_thread(self) -> None:
        if thread_id() != self._thread:
            raise PhoenixError(WRONG_THREAD)

    # In the thread that writes.

    def _write(self) -> None:
        over = False
        while not over:
            self._work.wait()
            self._work.clear()
            over = self._stopping.is_set()  # what follows takes all that was published before
            try:
                self._flush()
            except Exception:
                log.exception("what writes to Redis failed, and goes on")

    def _flush(self) -> None:
        """Publish what waits."""
        while batch := self._take():
            try:
                failed = self._client.publish(batch)
            except Exception as error:  # a connection that another thread has closed raises whatever it stumbles on
                failed = [(message, error) for message in batch]
                log.exception("%d messages are lost: what publishes to Redis failed, and goes on", len(batch))
            self.unpublished += len(failed)
            refused = [each for each in failed if isinstance(each[1], (ResponseError, RedisClusterException))]
            if refused and not self._refused:
                self._client.tell_refusal(refused[0][0][0], refused[0][1])
            self._refused = bool(refused)

    def _take(self) -> list[ChannelMessage]:
        batch: list[ChannelMessage] = []
        size = 0
        while self._queue and size < BATCH_SIZE:
            batch.append(self._queue.popleft())
            size += len(batch[-1][1]) + OVERHEAD
        with self._lock:
            self._queued -= size
        return batch
