"""A network of nodes in one process that loses, doubles and parts as a test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gevent

from flask_phoenix.exceptions import NotPublished
from flask_phoenix.pubsub.adapter import Adapter


class Parcel(NamedTuple):
    """What one node has published, on its way to another."""

    source: NetworkAdapter
    target: NetworkAdapter
    topic: str
    data: bytes


class Network:
    """Joins nodes; whatever is published arrives once and in order, unless the test says something else."""

    def __init__(self) -> None:
        self.nodes: list[NetworkAdapter] = []
        #: All that was published, whether it arrived or not.
        self.published: list[tuple[NetworkAdapter, str, bytes]] = []
        #: Returns how often a parcel arrives: 0 loses it, 2 doubles it.
        self.copies: Callable[[Parcel], int] = lambda parcel: 1
        self._parts: list[set[NetworkAdapter]] = []

    def part(self, *nodes: NetworkAdapter) -> None:
        """Let these hear each other alone from now on; one alone is as good as dead."""
        self._parts.append(set(nodes))

    def heal(self) -> None:
        """Let everybody hear everybody again."""
        self._parts.clear()

    def carry(self, source: NetworkAdapter, topic: str, data: bytes) -> None:
        """Take a parcel to every other node, in one of the next turns of the event loop; from any thread."""
        self.published.append((source, topic, data))
        for parcel in [Parcel(source, target, topic, data) for target in self.nodes if target is not source]:
            for _ in range(self.copies(parcel) if self._joined(parcel) else 0):
                parcel.target.loop.run_callback_threadsafe(parcel.target.hear, parcel.topic, parcel.data)

    def _joined(self, parcel: Parcel) -> bool:
        return all((parcel.source in part) == (parcel.target in part) for part in self._parts)


class NetworkAdapter(Adapter):
    """The adapter of one node; nobody hears of its end, unless a test calls :meth:`gone` of the others."""

    loop: Any
    node: str

    def __init__(self, network: Network) -> None:
        self.network = network
        self.topics: set[str] = set()
        self.on = False

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Join the network."""
        self.node, self.loop, self.on = node, gevent.get_hub().loop, True
        self._receive, self._gone = receive, gone
        self.network.nodes.append(self)

    def stop(self) -> None:
        """Leave the network."""
        self.on = False
        self.network.nodes.remove(self)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic."""
        self.topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        """Ask for it no more."""
        self.topics.discard(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to the network."""
        if not self.on:
            raise NotPublished("out of reach")
        self.network.carry(self, topic, data)

    def hear(self, topic: str, data: bytes) -> None:
        """Take what has arrived."""
        if self.on and topic in self.topics:
            self._receive(topic, data)

    def gone(self, node: str) -> None:
        """Take the news of another node's end."""
        if self.on:
            self._gone(node)
