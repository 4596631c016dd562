"""Publishing over Redis from outside: from a process that is no node, without an event loop."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError

from ...exceptions import NotPublished
from ..adapter import Publisher
from ..history import History, Position
from .archive import RedisArchive
from .client import MARK_SIZE, PREFIX, URL, RedisClient, split_url

#: The mark of a publisher that is no node, and drops nothing.
NO_NODE = bytes(MARK_SIZE)


class RedisPublisher(Publisher):
    """Publishes from a process that serves nobody: a script, a task of a queue, a thread. It blocks, without gevent.

    One of it serves all threads, and processes that are forked after it was made.

    :param url: as for the adapter, as are ``client`` and ``prefix``.
    :param timeout: seconds that Redis may take to answer.
    :raises InvalidOption: the URL or the client cannot be used.
    """

    keeps = True

    def __init__(self, url: str = URL, *, client: Any = None, prefix: str = PREFIX, timeout: float = 5.0) -> None:
        self._client = RedisClient(url, client, prefix, timeout)
        self._archive = RedisArchive(self._client, NO_NODE, self._client.execute)

    @classmethod
    def from_url(cls, url: str) -> RedisPublisher:
        """Make one for a URL of the adapter; what concerns the adapter alone is left aside.

        :raises InvalidOption: the URL cannot be used.
        """
        url, options = split_url(url)
        return cls(url, prefix=options.get("prefix", PREFIX))

    def publish(self, topic: str, data: bytes) -> None:
        """Publish data to every node that asks for a topic, be it none; when this returns, Redis has it.

        A link that has died of old age is replaced. One that dies underway is not: what was sent may have arrived.

        :raises NotPublished: Redis cannot be reached, refuses, or has not said that it has it.
        """
        for _, error in self._client.publish([(self._client.channel(topic), NO_NODE + data)]):
            denied = isinstance(error, NoPermissionError)
            remedy = self._client.acl_remedy if denied else "look whether it runs and is the one meant"
            raise NotPublished(f"Redis has not taken it ({error}): {remedy}") from error

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry in Redis, and publish it, as one step.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: Redis has not said that it is kept.
        """
        return self._archive.keep(topic, history, entry, key)

    def kept(
        self, topic: str, history: History, since: Position | None
    ) -> tuple[Position, list[tuple[int, bytes]] | None]:
        """Return where a topic is, and the entries after a position, or all."""
        return self._archive.kept(topic, history, since)

    def position(self, topic: str, history: History) -> Position:
        """Return where a topic is."""
        return self._archive.position(topic, history)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
