"""Broadcasts over Redis: what every adapter keeps, and what becomes of it when Redis does not."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import gevent
import pytest
from gevent.queue import Empty
from redis import Redis
from redis.cluster import RedisCluster as ClusterClient

from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.pubsub.redis.adapter import BATCH, RedisAdapter
from tests.contract import AdapterContract, Cut, LossContract, MakeAdapter, Node
from tests.processes import DEADLINE, HOST, ROOT, free_port, wait_until
from tests.redis_server import RedisCluster, RedisServer


class TestRedis(LossContract):
    @pytest.fixture
    def make_adapter(self, redis: RedisServer) -> MakeAdapter:
        return lambda: RedisAdapter(redis.url)

    @pytest.fixture
    def cut(self, redis: RedisServer) -> Cut:
        def cut() -> Callable[[], object]:
            redis.kill()
            return redis.start

        return cut


class TestNewProtocol(AdapterContract):
    """Version 3 of Redis' protocol, and a client that was handed in."""

    @pytest.fixture
    def make_adapter(self, redis: RedisServer) -> Iterator[MakeAdapter]:
        with Redis(host=HOST, port=redis.port, protocol=3) as client:
            yield lambda: RedisAdapter(client=client)


class TestCluster(LossContract):
    @pytest.fixture
    def make_adapter(self, cluster: RedisCluster) -> MakeAdapter:
        return lambda: RedisAdapter(cluster.url)

    @pytest.fixture
    def cut(self, cluster: RedisCluster) -> Cut:
        def cut() -> Callable[[], object]:
            cluster.kill()
            return cluster.start

        return cut


Start = Callable[[RedisAdapter], Node]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts nodes, and stops them in the end."""
    nodes: list[Node] = []

    def begin(adapter: RedisAdapter) -> Node:
        node = Node(adapter, f"node{len(nodes)}")
        nodes.append(node)
        node.start()
        return node

    yield begin
    for node in nodes:
        node.adapter.stop()


def hear_again(one: Node, other: Node, topic: str) -> None:
    """Publish until it is heard, and hear what is left."""
    token = uuid4().hex.encode()

    def heard() -> bool:
        other.publish(topic, token)
        with suppress(Empty):
            while one.received.get(timeout=0.02) != (topic, token):
                pass
            return True
        return False

    assert wait_until(heard, lambda: None)
    one.heard(topic, by=other)


# Whom it reaches


def test_prefixes_are_apart(redis: RedisServer, start: Start) -> None:
    one, other, alike = (start(RedisAdapter.from_url(f"{redis.url}?prefix={name}")) for name in "aba")
    for node in (one, other):
        node.adapter.subscribe("t")
    alike.publish("t", b"hello")
    other.publish("t", b"you do not hear me")
    assert one.hear() == ("t", b"hello")
    assert one.heard("t", by=alike) == other.heard("t", by=start(RedisAdapter(redis.url, prefix="b"))) == []


def test_a_unix_socket(redis: RedisServer, start: Start) -> None:
    one, other = start(RedisAdapter(f"unix://{redis.socket}")), start(RedisAdapter(redis.url))
    one.adapter.subscribe("t")
    assert one.heard("t", by=other) == []
    other.adapter.subscribe("t")
    assert other.heard("t", by=one) == []


def test_a_password_and_a_database(tmp_path: Path, start: Start) -> None:
    server = RedisServer(tmp_path, "--requirepass", "s:e/c", password="s:e/c")
    try:
        url = f"redis://:s%3Ae%2Fc@{HOST}:{server.port}/3"
        one, other = start(RedisAdapter(url)), start(RedisAdapter.from_url(f"{url}?prefix=phoenix&client_name=other"))
        one.adapter.subscribe("t")
        assert one.heard("t", by=other) == []
        assert b"name=other" in server.execute("CLIENT", "LIST")
    finally:
        server.kill()


def test_a_password_that_is_wrong_is_told(redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    node = start(RedisAdapter(f"redis://:wrong@{HOST}:{redis.port}", subscribe_timeout=0.2))
    node.adapter.subscribe("t")
    assert "AUTH" in caplog.text


def test_a_client_that_was_handed_in_stays_open(cluster: RedisCluster, start: Start) -> None:
    client = ClusterClient(host=HOST, port=cluster.servers[0].port)
    try:
        one, other = start(RedisAdapter(client=client)), start(RedisAdapter(cluster.url))
        one.adapter.subscribe("t")
        assert one.heard("t", by=other) == []
        one.adapter.stop()
        assert client.spublish("phoenix:t", b"") == 0
    finally:
        for node in (*client.nodes_manager.nodes_cache.values(), *getattr(client, "startup_nodes", ())):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()


def test_no_client_may_decode(redis: RedisServer) -> None:
    with Redis(decode_responses=True) as client, pytest.raises(InvalidOption, match="decode_responses"):
        RedisAdapter(client=client)


# What becomes of it


def test_one_line_for_a_loss_and_one_for_the_return(
    redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    one, other = start(RedisAdapter(redis.url)), start(RedisAdapter(redis.url))
    one.adapter.subscribe("t")
    for _ in range(2):
        redis.kill()
        assert wait_until(lambda: "lost" in caplog.text, lambda: gevent.sleep(0.01))
        speak_into_the_void(other)
        redis.start()
        hear_again(one, other, "t")
        texts = [record.message for record in caplog.records]
        assert len([text for text in texts if "is lost" in text]) == 1
        assert len([text for text in texts if "does not reach" in text]) == 1
        assert texts.count("Redis is back") == 1
        caplog.clear()


def test_a_topic_can_be_joined_without_redis(
    redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = start(RedisAdapter(redis.url, subscribe_timeout=0.05)), start(RedisAdapter(redis.url))
    one.adapter.subscribe("before")
    redis.kill()
    for topic in ("a", "b"):
        one.adapter.subscribe(topic)
    assert len([record for record in caplog.records if "does not confirm" in record.message]) == 1
    one.adapter.unsubscribe("a")
    redis.start()
    hear_again(one, other, "b")
    other.publish("a", b"unheard")
    one.heard("b", by=other)
    assert one.heard("before", by=other) == []


def test_a_network_that_goes_and_comes(redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (start(RedisAdapter(redis.url, check_interval=0.2, subscribe_timeout=0.1)) for _ in range(2))
    one.adapter.subscribe("t")
    with redis.frozen():
        other.publish("t", b"nobody knows")
        assert wait_until(lambda: "is lost" in caplog.text, lambda: gevent.sleep(0.01))
        assert wait_until(lambda: other.adapter.unpublished > 0, lambda: gevent.sleep(0.01))
        one.adapter.subscribe("u")
    hear_again(one, other, "u")
    hear_again(one, other, "t")


def test_silence_is_no_loss(redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (start(RedisAdapter(redis.url, check_interval=0.05)) for _ in range(2))
    one.adapter.subscribe("t")
    redis.execute("CONFIG", "RESETSTAT")

    def pings() -> int:
        calls = redis.execute("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
        return int(calls)

    assert wait_until(lambda: pings() > 3, lambda: gevent.sleep(0.01))
    assert one.heard("t", by=other) == []
    assert "lost" not in caplog.text


def test_a_full_queue_is_refused(redis: RedisServer, start: Start) -> None:
    node = start(RedisAdapter.from_url(f"{redis.url}?queue_limit=1000000"))
    with redis.frozen(), pytest.raises(NotPublished, match="queue_limit"):
        publish_thrice(node, b"x" * 900_000)  # one may be under way to Redis, which takes nothing, and one may wait
    assert wait_until(lambda: _takes(node, b"x" * 900_000), lambda: gevent.sleep(0.01))


def speak_into_the_void(node: Node) -> None:
    """Publish until ten messages are known to be lost."""
    lost = node.adapter.unpublished

    def speak() -> None:
        node.publish("t", b"into the void")
        gevent.sleep(0.01)

    assert wait_until(lambda: node.adapter.unpublished >= lost + 10, speak)


def publish_thrice(node: Node, data: bytes) -> None:
    """Publish the same three times."""
    for _ in range(3):
        node.publish("t", data)


def _takes(node: Node, data: bytes) -> bool:
    try:
        node.publish("t", data)
    except NotPublished:
        return False
    return True


def test_what_was_published_last_leaves_before_the_end(redis: RedisServer, start: Start) -> None:
    one, other = start(RedisAdapter(redis.url)), start(RedisAdapter(redis.url))
    one.adapter.subscribe("t")
    for _ in range(3):
        for number in range(1000):
            other.publish("t", b"%d" % number)
        other.adapter.stop()
        assert one.hear_all(1000) == [b"%d" % number for number in range(1000)]
        other.start()


def test_a_topic_is_followed_to_another_node_of_the_cluster(cluster: RedisCluster, start: Start) -> None:
    one, other = start(RedisAdapter(cluster.url)), start(RedisAdapter(cluster.url))
    topics = [f"room:{number}" for number in range(20)]
    for topic in topics:
        one.adapter.subscribe(topic)
    first, second, _ = cluster.servers
    slot = int(first.execute("CLUSTER", "KEYSLOT", "phoenix:room:1"))
    home = cluster.owner(slot)
    target = second if home is not second else first
    cluster.move(slot, target)
    hear_again(one, other, "room:1")
    cluster.move(slot, home)
    hear_again(one, other, "room:1")
    for topic in topics:
        assert one.heard(topic, by=other) == []


def test_a_cluster_that_is_not_there(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    node = start(RedisAdapter(f"redis+cluster://{HOST}:{free_port()}", subscribe_timeout=0.1))
    node.adapter.subscribe("t")
    for _ in range(100):
        node.publish("t", b"into the void")
    assert wait_until(lambda: node.adapter.unpublished == 100, lambda: gevent.sleep(0.01))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert len([record for record in caplog.records if "until the cluster answers" in record.message]) == 1


def test_what_cannot_leave_before_the_end_is_counted(redis: RedisServer, start: Start) -> None:
    node = start(RedisAdapter(redis.url, check_interval=0.1))
    node.adapter.subscribe("t")
    with redis.frozen():
        for _ in range(5):
            node.publish("t", b"x" * BATCH)
        node.adapter.stop()
    assert node.adapter.unpublished == 5


# In the process of a server


@pytest.mark.parametrize("mode", ["patched", "unpatched"])
def test_others_run_while_redis_is_waited_for(redis: RedisServer, start: Start, mode: str) -> None:
    node = start(RedisAdapter(redis.url))
    node.adapter.subscribe("pong")
    command = [sys.executable, "-m", "tests.redis_child", mode, f"{redis.url}?subscribe_timeout=0.5&check_interval=1"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            with redis.frozen():
                child.stdin.write("\n")
                child.stdin.flush()
                assert int(child.stdout.readline()) >= 10
            hear_answer(node, "late")
            hear_answer(node, "ping")
            assert child.stdout.readline() == "0\n"
            assert child.wait(DEADLINE) == 0
        finally:
            child.kill()


def hear_answer(node: Node, topic: str) -> None:
    """Publish on a topic of the child; it answers."""
    node.publish(topic, b"hello")
    assert node.hear() == ("pong", f"{topic} hello".encode())
