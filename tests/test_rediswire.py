"""The way to Redis: URLs, clients, and what is published from outside."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from flask_phoenix.pubsub.redis.client import NOBODY, PublishingClient, RedisClient, RedisPublisher, pause, split_url
from tests.processes import DEADLINE, HOST, ROOT, free_port
from tests.redis_server import RedisCluster, RedisServer

#: Publishes in the parent, then in a child, then in the parent again.
FORKED = """
import os, sys
from flask_phoenix.pubsub.redis.adapter import RedisAdapter
publisher = RedisAdapter.from_url(sys.argv[1]).publisher()
publisher.publish("t", b"parent")
child = os.fork()
if not child:
    publisher.publish("t", b"child")
    publisher.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
publisher.publish("t", b"parent again")
publisher.close()
"""


class Listener:
    """Listens to a channel with nothing but redis-py."""

    def __init__(self, server: RedisServer, channel: str, sharded: bool = False) -> None:
        self.client = Redis(host=HOST, port=server.port, protocol=2)
        self.pubsub = self.client.pubsub()  # type: ignore[no-untyped-call]
        (self.pubsub.ssubscribe if sharded else self.pubsub.subscribe)(channel)
        assert self.pubsub.get_message(timeout=DEADLINE)

    def hear(self) -> bytes:
        """Return what comes next."""
        message = self.pubsub.get_message(timeout=DEADLINE)
        assert message is not None
        return bytes(message["data"])

    def close(self) -> None:
        """Listen no more."""
        self.pubsub.close()
        self.client.close()


@pytest.fixture
def listener(redis: RedisServer) -> Iterator[Listener]:
    listener = Listener(redis, "phoenix:t")
    yield listener
    listener.close()


@pytest.fixture
def publisher(redis: RedisServer) -> Iterator[RedisPublisher]:
    publisher = RedisPublisher(redis.url)
    yield publisher
    publisher.close()


# URLs and clients


@pytest.mark.parametrize(
    ("url", "rest", "options"),
    [
        ("redis://h:1/2", "redis://h:1/2", {}),
        ("redis://h?db=3&client_name=a%26b", "redis://h?db=3&client_name=a%26b", {}),
        ("redis://:p%40@h/2?prefix=a%20b", "redis://:p%40@h/2", {"prefix": "a b"}),
        ("redis://h?client_name=a%26b&prefix=", "redis://h?client_name=a%26b", {"prefix": ""}),
        (
            "redis+cluster://h?prefix=x&protocol=3&subscribe_timeout=.5&check_interval=3&queue_limit=7",
            "redis+cluster://h?protocol=3",
            {"prefix": "x", "subscribe_timeout": 0.5, "check_interval": 3.0, "queue_limit": 7},
        ),
        ("unix:///a/b.sock?db=1&prefix=x", "unix:///a/b.sock?db=1", {"prefix": "x"}),
    ],
)
def test_our_part_of_a_url(url: str, rest: str, options: dict[str, object]) -> None:
    assert split_url(url) == (rest, options)


@pytest.mark.parametrize("url", ["http://h", "h:6379", "", "redis+sentinel://h", "redis://h?db=x", "redis://h:port"])
def test_a_url_that_cannot_be(url: str) -> None:
    with pytest.raises(InvalidOption):
        RedisClient(url, None, "phoenix", 1)


def test_a_value_that_cannot_be() -> None:
    with pytest.raises(InvalidOption, match="queue_limit"):
        split_url("redis://h?queue_limit=many")


def test_nothing_may_be_decoded() -> None:
    with pytest.raises(InvalidOption, match="decode_responses"):
        RedisClient("redis://h?decode_responses=yes", None, "phoenix", 1)
    with Redis(decode_responses=True) as client, pytest.raises(InvalidOption, match="decode_responses"):
        RedisClient("redis://h", client, "phoenix", 1)


def test_topics_and_channels() -> None:
    access = RedisClient("redis://h", None, "a:b", 1)
    for topic in ("", "room:1", "caf\u00e9 \U0001f600\n"):
        assert access.topic(access.channel(topic)) == topic
    assert access.channel("room:1") == b"a:b:room:1"


# Publishing from outside


def test_what_is_published_from_outside(publisher: RedisPublisher, listener: Listener) -> None:
    publisher.publish("t", b"\x00\xff")
    assert listener.hear() == NOBODY + b"\x00\xff"
    publisher.publish("nobody listens", b"")


def test_the_prefix_of_a_url(redis: RedisServer, listener: Listener) -> None:
    publisher = RedisAdapter.from_url(f"{redis.url}?prefix=phoenix&queue_limit=1").publisher()
    publisher.publish("t", b"hello")
    publisher.close()
    assert listener.hear() == NOBODY + b"hello"


def test_a_client_of_its_owner(redis: RedisServer, listener: Listener) -> None:
    with Redis(host=HOST, port=redis.port) as client:
        publisher = RedisPublisher(client=client)
        publisher.publish("t", b"hello")
        publisher.close()
        assert listener.hear() == NOBODY + b"hello"
        assert client.ping()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_nobody_carries_it(scheme: str) -> None:
    publisher = RedisPublisher(f"{scheme}://{HOST}:{free_port()}")
    with pytest.raises(NotPublished, match="look whether it runs"):
        publisher.publish("t", b"hello")
    publisher.close()


def test_redis_refuses_it(redis: RedisServer) -> None:
    redis.execute("ACL", "SETUSER", "mute", "on", ">secret", "+@all", "-publish")
    publisher = RedisPublisher(redis.url.replace("redis://", "redis://mute:secret@"))
    with pytest.raises(NotPublished, match="permission"):
        publisher.publish("t", b"hello")
    publisher.close()


def test_a_link_that_died_of_old_age(redis: RedisServer, publisher: RedisPublisher) -> None:
    publisher.publish("t", b"first")
    redis.kill()
    redis.start()
    listener = Listener(redis, "phoenix:t")
    publisher.publish("t", b"second")
    assert listener.hear() == NOBODY + b"second"
    listener.close()


def test_threads_share_a_publisher(publisher: RedisPublisher, listener: Listener) -> None:
    def publish(name: int) -> None:
        for number in range(100):
            publisher.publish("t", b"%d %d" % (name, number))

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(5)]
    for thread in threads:
        thread.start()
    heard = [listener.hear().removeprefix(NOBODY) for _ in range(500)]
    for thread in threads:
        thread.join()
    for name in range(5):
        mine = [data for data in heard if data.startswith(b"%d " % name)]
        assert mine == [b"%d %d" % (name, number) for number in range(100)]


def test_a_forked_process_publishes_too(redis: RedisServer, listener: Listener) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", FORKED, redis.url], cwd=ROOT, check=True, timeout=DEADLINE)
    heard = [listener.hear().removeprefix(NOBODY) for _ in range(3)]
    assert heard == [b"parent", b"child", b"parent again"]


def test_a_cluster(tmp_path: Path) -> None:
    cluster = RedisCluster(tmp_path)
    try:
        publisher = RedisPublisher(cluster.url)
        slot = int(cluster.servers[0].execute("CLUSTER", "KEYSLOT", "phoenix:t"))
        for number in range(3):
            target = cluster.servers[number]
            cluster.move(slot, target)
            listener = Listener(target, "phoenix:t", sharded=True)
            publisher.publish("t", b"%d" % number)
            assert listener.hear() == NOBODY + b"%d" % number
            listener.close()
        publisher.close()
    finally:
        cluster.kill()


# Publishing on and on


@pytest.mark.parametrize(("failures", "least", "most"), [(0, 0.025, 0.05), (3, 0.2, 0.4), (9, 2, 4), (10**6, 2, 4)])
def test_attempts_are_ever_further_apart(failures: int, least: float, most: float) -> None:
    assert all(least <= pause(failures) <= most for _ in range(100))


def test_a_server_that_fails_rests(caplog: pytest.LogCaptureFixture) -> None:
    access = PublishingClient(f"redis://{HOST}:{free_port()}", None, "phoenix", DEADLINE)
    messages = [(b"a", b"1"), (b"b", b"2")]
    first = access.publish(messages)
    assert [message for message, _ in first] == messages
    assert access.publish(messages) == first
    assert len(caplog.records) == 1
    access.reopen(access.pool(b"a"))
    again = access.publish(messages)
    assert again[0][1] is not first[0][1]
    access.close()


def test_a_connection_is_kept_and_looked_at(redis: RedisServer, listener: Listener) -> None:
    access = PublishingClient(redis.url, None, "phoenix", DEADLINE)

    def connections() -> int:
        return len(redis.execute("CLIENT", "LIST", "TYPE", "normal").splitlines())

    before = connections()
    for number in range(3):
        assert access.publish([(b"phoenix:t", b"%d" % number)]) == []
    assert connections() == before + 1
    redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    threading.Event().wait(1.5 * access.trust)
    assert access.publish([(b"phoenix:t", b"3")]) == []
    assert [listener.hear() for _ in range(4)] == [b"0", b"1", b"2", b"3"]
    access.close()
