"""What carries frames and broadcasts in tests, within one process: a carrier, an adapter and its publisher."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

import gevent

from .. import clock
from ..exceptions import NotPublished, PhoenixError
from ..protocol.messages import Broadcast, Frame, Message
from ..pubsub.adapter import RUNS_ALREADY, WRONG_THREAD, Adapter, Archive, Publisher
from ..pubsub.envelope import pack_kept
from ..pubsub.failures import log_failure
from ..pubsub.history import History, MemoryStore, Position
from ..pubsub.hub import thread_id
from ..runtime.connection import Carrier

log = logging.getLogger("flask_phoenix.pubsub")


NOBODY = "no app of this network serves anybody yet: one does with its first connection"


class MemoryCarrier(Carrier):
    """Carries frames to a client in the same process.

    :param write: takes each message that the client receives.
    :param read: reads the frames.
    :param end: is given the close code and the reason when the server closes the connection.
    """

    transport = "websocket"
    stream = False

    def __init__(
        self, write: Callable[[Message], None], read: Callable[[Frame], Message], end: Callable[[int, str], None]
    ) -> None:
        self.write = write
        self.to_wire = read
        self._end = end

    def close(self, code: int, reason: str) -> None:
        """Tell the client how the server closes the connection."""
        self._end(code, reason)


class MemoryArchive(Archive):
    """Keeps what a network keeps with its first app; when that leaves, it is lost."""

    keeps = True
    _network: list[MemoryAdapter]

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry where all of the network find it, and hand it on.

        :raises NotPublished: nobody is there.
        """
        position, new = self._shared.append(Broadcast(topic, "", entry), history, clock.monotonic(), key=key)
        if new:
            self.publish(topic, pack_kept(position, entry))
        return position, new

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all."""
        position, stretch = self.position(topic, history), self._shared.read(topic, history, clock.monotonic(), since)
        return position, stretch and [(entry.offset, entry.broadcast.payload) for entry in stretch.entries]

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is."""
        return self._shared.position(topic, history, clock.monotonic())

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data on."""
        raise NotImplementedError

    @property
    def _shared(self) -> MemoryStore:
        if not self._network:
            raise NotPublished(NOBODY)
        return self._network[0].store


class MemoryAdapter(MemoryArchive, Adapter):
    """Joins several apps in one process, as another adapter joins the nodes of a network.

    ``Phoenix(adapter=MemoryAdapter(network))`` with the same list for each app.
    """

    meets = True

    def __init__(self, network: list[MemoryAdapter]) -> None:
        self._network = network
        #: What the network keeps, while this is its first.
        self.store = MemoryStore(secrets.token_hex(4))
        self._topics: set[str] = set()
        self._process = 0

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Join the network.

        :raises PhoenixError: it is of the network already.
        """
        if self in self._network and self._process == os.getpid():
            raise PhoenixError(RUNS_ALREADY)
        self._thread, self._process = thread_id(), os.getpid()
        self.node = node
        self._receive = receive
        self._gone = gone
        self._loop = gevent.get_hub().loop
        if self not in self._network:
            for other in self._network:
                other._loop.run_callback_threadsafe(other._meet, node)
                self._loop.run_callback_threadsafe(self._meet, other.node)
            self._network.append(self)

    def stop(self) -> None:
        """Leave the network; the others hear of it."""
        if self in self._network:
            self._network.remove(self)
            self._topics.clear()
            for other in self._network:
                other._loop.run_callback_threadsafe(other._tell, other._gone, self.node)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        self._topics.discard(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every other node that asks for the topic, in the next turns of the event loop.

        :raises NotPublished: this one is not of the network.
        """
        if self not in self._network:
            raise NotPublished("this adapter is not started: an app starts its own, with the first connection")
        for other in list(self._network):
            if other is not self and topic in other._topics:
                other._loop.run_callback_threadsafe(other._hear, topic, data)

    def publisher(self) -> Publisher:
        """Make what publishes to the network from outside."""
        return MemoryPublisher(self._network)

    def _hear(self, topic: str, data: bytes) -> None:
        if topic in self._topics and self in self._network:
            self._tell(self._receive, topic, data)

    def _meet(self, node: str) -> None:
        if self in self._network:
            self._tell(self.joined, node)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except gevent.GreenletExit:
            raise
        except BaseException:
            log_failure(log, "%s, told of %r, failed", function, args)

    def _check_thread(self) -> None:
        if self in self._network and thread_id() != self._thread:
            raise PhoenixError(WRONG_THREAD)


class MemoryPublisher(MemoryArchive, Publisher):
    """Publishes to a network of :class:`MemoryAdapter`, without being one of them."""

    def __init__(self, network: list[MemoryAdapter]) -> None:
        self._network = network

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every node that asks for the topic.

        :raises NotPublished: nobody is there.
        """
        if not self._network:
            raise NotPublished(NOBODY)
        for node in list(self._network):
            if topic in node._topics:
                node._loop.run_callback_threadsafe(node._hear, topic, data)

    def close(self) -> None:
        """Hold nothing."""
