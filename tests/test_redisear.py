"""Hearing Redis: an connection, and a listener that notes what it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

import pytest
from redis.exceptions import MovedError

from flask_phoenix.pubsub.redis.client import RedisClient
from flask_phoenix.pubsub.redis.subscriber import Listener, SubscriberConnection
from tests.processes import DEADLINE
from tests.redis_server import RedisServer


class Noting(Listener):
    """Notes what it is told."""

    def __init__(self, *channels: bytes) -> None:
        self.stopping = threading.Event()
        self.check_interval = 0.1
        self.channels = channels
        self.told: Queue[Any] = Queue()

    def asked(self, connection: SubscriberConnection) -> dict[bytes, Any]:
        return {channel: channel for channel in self.channels}

    def confirmed(self, ask: Any) -> None:
        self.told.put(("confirmed", ask))

    def heard(self, channel: bytes, data: bytes) -> None:
        self.told.put((channel, data))

    def lost(self, connection: SubscriberConnection) -> None:
        self.told.put("lost")

    def moved(self, channel: bytes, error: MovedError | None) -> None:
        self.told.put(("moved", channel))

    def found(self, connection: SubscriberConnection) -> None:
        self.told.put("found")

    def next(self) -> Any:
        """Return what it is told next."""
        return self.told.get(timeout=DEADLINE)


@pytest.fixture
def listener() -> Noting:
    return Noting(b"a")


@pytest.fixture
def connection(redis: RedisServer, listener: Noting) -> Iterator[SubscriberConnection]:
    access = RedisClient(redis.url, None, "phoenix", 0.1)
    connection = SubscriberConnection(access, access.pool(b""), listener)
    thread = threading.Thread(target=connection.run)
    thread.start()
    assert listener.next() == "found"
    assert listener.next() == ("confirmed", b"a")
    yield connection
    listener.stopping.set()
    connection.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_the_interface_is_for_others_to_write() -> None:
    listener, connection = Listener(), SubscriberConnection(RedisClient("redis://h", None, "", 1), None, Listener())
    for call in (
        lambda: listener.asked(connection),
        lambda: listener.confirmed(None),
        lambda: listener.heard(b"", b""),
        lambda: listener.lost(connection),
        lambda: listener.moved(b"", None),
        lambda: listener.found(connection),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_channels_come_and_go(redis: RedisServer, listener: Noting, connection: SubscriberConnection) -> None:
    redis.execute("PUBLISH", "a", "1")
    assert listener.next() == (b"a", b"1")
    connection.tell([b"a"], {b"b": "b", b"c": "c"})
    assert [listener.next(), listener.next()] == [("confirmed", "b"), ("confirmed", "c")]
    for channel in "abc":
        redis.execute("PUBLISH", channel, "2")
    assert [listener.next(), listener.next()] == [(b"b", b"2"), (b"c", b"2")]
    connection.tell([], {b"b": "once more"})
    assert listener.next() == ("confirmed", "once more")


def test_a_link_that_is_lost_is_made_anew(
    redis: RedisServer, listener: Noting, connection: SubscriberConnection
) -> None:
    for _ in range(3):
        redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        assert [listener.next() for _ in range(3)] == ["lost", "found", ("confirmed", b"a")]


def test_a_server_that_says_nothing_is_lost(
    redis: RedisServer, listener: Noting, connection: SubscriberConnection
) -> None:
    with redis.frozen():
        assert listener.next() == "lost"
        assert connection.away
        connection.tell([], {b"unheard": "unheard"})
        listener.channels = (b"b",)
    while (told := listener.next()) == "lost":
        pass
    assert [told, listener.next()] == ["found", ("confirmed", b"b")]
    assert not connection.away


def test_what_is_refused_is_a_loss(
    redis: RedisServer, listener: Noting, connection: SubscriberConnection, caplog: pytest.LogCaptureFixture
) -> None:
    redis.execute("ACL", "SETUSER", "default", "-subscribe")
    try:
        connection.tell([], {b"secret": "secret"})
        assert listener.next() == "lost"
        assert "subscribe" in caplog.text
    finally:
        redis.execute("ACL", "SETUSER", "default", "+@all")
    while listener.next() != ("confirmed", b"a"):
        pass


def test_a_channel_that_has_moved(redis: RedisServer, listener: Noting, connection: SubscriberConnection) -> None:
    # As a cluster's node says it, unasked.
    connection._hear(b"sunsubscribe", b"a", 0)
    assert listener.next() == ("moved", b"a")
