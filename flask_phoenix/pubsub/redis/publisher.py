"""Publishing over Redis from outside: from a process that is no node, without an event loop."""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError

from ...exceptions import NotPublished
from ..adapter import Publisher
from .archive import KeepsInRedis, RedisArchive
from .client import MARK_SIZE, PREFIX, URL, RedisClient, split_url

#: The mark of a publisher that is no node, and drops nothing.
NO_NODE = bytes(MARK_SIZE)


class RedisPublisher(KeepsInRedis, Publisher):
    """Publishes from a process that serves nobody: a script, a task of a queue, a thread. It blocks, without gevent.

    One of it serves all threads, and processes that are forked after it was made.

    :param url: as for the adapter, as are ``client`` and ``prefix``.
    :param timeout: seconds that Redis may take to answer.
    :raises InvalidOption: the URL or the client cannot be used.
    """

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

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
