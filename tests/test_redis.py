"""Broadcasts over Redis, one or a cluster: between nodes, while it is away, and from outside."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import gevent
import pytest
from flask import Flask
from gevent.event import Event
from redis import Redis
from redis.cluster import RedisCluster as ClusterClient

from flask_phoenix import Channel, Phoenix, Socket
from flask_phoenix.app_state import state_of
from flask_phoenix.exceptions import InvalidOption, NotPublished
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast
from flask_phoenix.pubsub.envelope import pack
from flask_phoenix.pubsub.redis import lease, subscriber
from flask_phoenix.pubsub.redis.adapter import BATCH_SIZE, RedisAdapter
from flask_phoenix.pubsub.redis.client import RedisClient
from flask_phoenix.pubsub.redis.publisher import RedisPublisher
from flask_phoenix.pubsub.redis.threads import Threads
from flask_phoenix.runtime import peers
from flask_phoenix.signals import adapter_back, adapter_lost, node_gone, node_joined
from flask_phoenix.testing import Client
from tests.support.contract import AdapterContract, Cut, LossContract, MakeAdapter, Node
from tests.support.loop import in_thread
from tests.support.processes import DEADLINE, HOST, ROOT, free_port, wait_until
from tests.support.redis_server import RedisCluster, RedisServer

Start = Callable[..., Node]


class Visitor(Socket):
    """Lets everybody in."""


@Visitor.channel("room:*")
class Room(Channel):
    def join(self, payload: Any) -> None:
        """Let everybody join."""


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Return a Redis of a test's own, to be killed, stopped or configured."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def cluster_url(cluster: RedisCluster) -> str:
    return f"{cluster.url}?prefix={uuid4().hex}"


def cut_off(server: RedisServer | RedisCluster) -> Cut:
    def cut() -> Callable[[], object]:
        server.kill()
        return server.start

    return cut


class TestRedis(LossContract):
    counts_all = False

    @pytest.fixture
    def make_adapter(self, own_redis: RedisServer) -> MakeAdapter:
        return lambda: RedisAdapter(own_redis.url)

    @pytest.fixture
    def cut(self, own_redis: RedisServer) -> Cut:
        return cut_off(own_redis)


class TestNewProtocol(AdapterContract):
    """Version 3 of Redis' protocol, and a client that was handed in."""

    @pytest.fixture
    def make_adapter(self, redis: RedisServer) -> Iterator[MakeAdapter]:
        prefix = uuid4().hex
        with Redis(host=HOST, port=redis.port, protocol=3) as client:
            yield lambda: RedisAdapter(client=client, prefix=prefix)


class TestCluster(LossContract):
    counts_all = False

    @pytest.fixture
    def make_adapter(self, cluster_url: str) -> MakeAdapter:
        return lambda: RedisAdapter.from_url(cluster_url)

    @pytest.fixture
    def cut(self, cluster: RedisCluster) -> Cut:
        return cut_off(cluster)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts nodes of a URL, or of an adapter, which ask for topics; stops them in the end."""
    nodes: list[Node] = []

    def begin(adapter: str | RedisAdapter, *topics: str) -> Node:
        node = Node(RedisAdapter.from_url(adapter) if isinstance(adapter, str) else adapter, f"node{len(nodes)}")
        nodes.append(node)
        return node.start(*topics)

    yield begin
    for node in nodes:
        node.adapter.stop()


def wait_for(condition: Callable[[], bool]) -> None:
    assert wait_until(condition, lambda: gevent.sleep(0.01))


# URLs and clients


def test_prefixes_are_apart(redis: RedisServer, start: Start) -> None:
    names = [uuid4().hex for _ in range(2)]
    one, other, alike = (start(f"{redis.url}?prefix={names[number]}", "t") for number in (0, 1, 0))
    alike.publish("t", b"hello")
    other.publish("t", b"you do not hear me")
    assert one.hear() == ("t", b"hello")
    third = start(RedisAdapter(f"unix://{redis.socket}", prefix=names[1]))
    assert one.heard("t", by=alike) == other.heard("t", by=third) == []


def test_what_a_url_may_hold(tmp_path: Path, start: Start) -> None:
    server = RedisServer(tmp_path, "--requirepass", "s:e/c", password="s:e/c")
    try:
        url = f"redis://:s%3Ae%2Fc@{HOST}:{server.port}/3"
        options = "prefix=a%26b&subscribe_timeout=.5&check_interval=3&queue_limit=1000&client_name=other"
        one, other = start(RedisAdapter(url, prefix="a&b"), "t"), start(f"{url}?{options}")
        assert one.heard("t", by=other) == []
        assert b"name=other" in server.execute("CLIENT", "LIST")
        with pytest.raises(NotPublished, match="1000 bytes wait for Redis"):
            other.publish("t", bytes(1000))
    finally:
        server.kill()


@pytest.mark.parametrize("url", ["http://h", "h:6379", "", "redis+sentinel://h", "redis://h?db=x", "redis://h:port"])
@pytest.mark.parametrize("kind", [RedisAdapter, RedisPublisher])
def test_a_url_that_cannot_be(url: str, kind: type[RedisAdapter | RedisPublisher]) -> None:
    with pytest.raises(InvalidOption):
        kind.from_url(url)


def test_options_that_cannot_be() -> None:
    with pytest.raises(InvalidOption, match="expected a number for queue_limit"):
        RedisAdapter.from_url("redis://h?queue_limit=many")
    with pytest.raises(InvalidOption, match="decode_responses"):
        RedisPublisher.from_url("redis://h?decode_responses=yes")
    with Redis(decode_responses=True) as client, pytest.raises(InvalidOption, match="decode_responses"):
        RedisAdapter(client=client)


def test_a_client_that_was_handed_in_stays_open(cluster: RedisCluster, start: Start) -> None:
    client, prefix = ClusterClient(host=HOST, port=cluster.servers[0].port), uuid4().hex
    try:
        one = start(RedisAdapter(client=client, prefix=prefix), "t")
        assert one.heard("t", by=start(RedisAdapter(cluster.url, prefix=prefix))) == []
        publisher = one.adapter.publisher()
        publisher.publish("t", b"from outside")
        assert one.hear() == ("t", b"from outside")
        publisher.close()
        one.adapter.stop()
        assert client.spublish("a:t", b"") == 0
    finally:
        for node in (*client.nodes_manager.nodes_cache.values(), *getattr(client, "startup_nodes", ())):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()


# Losses


def test_one_line_for_a_loss_and_one_for_the_return(
    own_redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    one, other = start(own_redis.url, "t"), start(own_redis.url)
    for _ in range(2):
        own_redis.kill()
        wait_for(lambda: "lost" in caplog.text)
        lost = other.adapter.unpublished

        def speak() -> bool:
            other.publish("t", b"into the void")
            return other.adapter.unpublished >= lost + 10  # noqa: B023

        wait_for(speak)
        own_redis.start()
        one.hear_again("t", by=other)
        texts = [record.message for record in caplog.records]
        assert len([text for text in texts if "is lost" in text]) == 1
        assert len([text for text in texts if "does not reach" in text]) == 1
        assert texts.count("Redis is back") == 1
        caplog.clear()


def test_signals_tell_of_a_loss_and_of_the_return(own_redis: RedisServer) -> None:
    app, told = Flask(__name__), []
    app.testing = True
    Phoenix(app, RedisAdapter(own_redis.url)).socket("/socket")(Visitor)

    def lost(_: Flask, why: str) -> None:
        told.append(("lost", bool(why)))

    def back(_: Flask, why: str) -> None:
        told.append(("back", bool(why)))

    with adapter_lost.connected_to(lost, app), adapter_back.connected_to(back, app), Client(app) as client:
        client.join("room:1")
        for count in (1, 2):
            own_redis.kill()
            wait_for(lambda: len(told) == 2 * count - 1)  # noqa: B023
            own_redis.start()
            wait_for(lambda: len(told) == 2 * count)  # noqa: B023
        client.join("room:2")
    app.extensions["phoenix"].engine.stop()
    assert told == [("lost", True), ("back", False)] * 2


class Nodes:
    """What an app is told of other nodes, in order."""

    def __init__(self, stack: ExitStack, url: str) -> None:
        self.app = Flask(__name__)
        self.app.testing = True
        Phoenix(self.app, RedisAdapter.from_url(url)).socket("/socket")(Visitor)
        self.engine = state_of(self.app).engine
        self.told: list[tuple[str, str]] = []
        stack.enter_context(node_joined.connected_to(self._joined, self.app))
        stack.enter_context(node_gone.connected_to(self._gone, self.app))
        stack.callback(self.engine.stop)
        stack.enter_context(Client(self.app))
        self.name = self.engine.node.name

    def _joined(self, _: Flask, node: str) -> None:
        gevent.sleep(0)  # a receiver may wait
        self.told.append(("joined", node))

    def _gone(self, _: Flask, node: str) -> None:
        gevent.sleep(0)
        self.told.append(("gone", node))


@pytest.fixture
def quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PERIOD", 0.05)
    monkeypatch.setattr(peers, "LIMIT", 0.5)


@pytest.mark.usefixtures("quick_signs")
def test_nodes_tell_each_other_that_they_are_there_and_go(redis_url: str) -> None:
    with ExitStack() as stack:
        one, two = Nodes(stack, redis_url), Nodes(stack, redis_url)
        wait_for(lambda: bool(one.told and two.told))
        assert (one.told, two.told) == ([("joined", two.name)], [("joined", one.name)])
        assert state_of(one.app).inspect()["nodes"] == [two.name]
        two.engine.stop()
        wait_for(lambda: len(one.told) > 1)
        assert one.told[1:] == [("gone", two.name)]
        assert state_of(one.app).inspect()["nodes"] == []


@pytest.mark.usefixtures("quick_signs")
def test_a_node_that_falls_silent_counts_as_gone(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        one = Nodes(stack, redis_url)
        publisher = RedisPublisher.from_url(redis_url)
        stack.callback(publisher.close)
        for times in (1, 2):
            sign = Broadcast(peers.TOPIC, peers.HERE, {"node": "another"})
            publisher.publish(peers.TOPIC, pack(sign, Json()))
            wait_for(lambda: len(one.told) == 2 * times)  # noqa: B023
        assert one.told == [("joined", "another"), ("gone", "another")] * 2
        assert caplog.text.count("node another has not been heard") == 2


@pytest.mark.usefixtures("quick_signs")
def test_while_redis_is_lost_nobody_counts_as_gone(own_redis: RedisServer) -> None:
    with ExitStack() as stack:
        nodes = [Nodes(stack, own_redis.url) for _ in range(2)]
        wait_for(lambda: all(node.told for node in nodes))
        adapters = [node.engine.node.adapter for node in nodes]
        own_redis.kill()
        enough = 2 * peers.LIMIT / peers.PERIOD
        wait_for(lambda: all(adapter is not None and adapter.unpublished > enough for adapter in adapters))
        own_redis.start()
        wait_for(lambda: not any(adapter is None or adapter.lost for adapter in adapters))
        assert [len(node.told) for node in nodes] == [1, 1]
        nodes[0].engine.stop()
        wait_for(lambda: len(nodes[1].told) > 1)
        assert nodes[1].told[1:] == [("gone", nodes[0].name)]


def test_a_topic_can_be_joined_without_redis(
    own_redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = start(f"{own_redis.url}?subscribe_timeout=0.05", "before"), start(own_redis.url)
    own_redis.kill()
    for topic in ("a", "b"):
        one.adapter.subscribe(topic)
    assert len([record for record in caplog.records if "does not confirm" in record.message]) == 1
    one.adapter.unsubscribe("a")
    own_redis.start()
    one.hear_again("b", by=other)
    other.publish("a", b"unheard")
    assert one.heard("b", by=other) == one.heard("before", by=other) == []


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_all_that_one_client_waits_for_without_redis_is_one_time_out(
    own_redis: RedisServer, start: Start, how: str
) -> None:
    timeout = 1.0
    fresh, one = (start(f"{own_redis.url}?subscribe_timeout={timeout}") for _ in range(2))
    one.adapter.subscribe("before")
    with ExitStack() as stack:
        if how == "killed":
            own_redis.kill()
        else:
            stack.enter_context(own_redis.frozen())
        for node in (fresh, one):
            node.publish("t", b"what publishes waits for Redis as well")
            began = time.monotonic()
            for topic in ("the process", "a presence", "the user", "the room"):
                node.adapter.subscribe(topic)
            assert time.monotonic() - began < 2.5 * timeout
    if how == "killed":
        own_redis.start()
    one.hear_again("the room", by=fresh)
    began = time.monotonic()
    one.adapter.subscribe("later")
    assert time.monotonic() - began < timeout
    assert one.heard("later", by=fresh) == []


def test_a_network_that_goes_and_comes(own_redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (start(f"{own_redis.url}?check_interval=0.2&subscribe_timeout=0.1", "t") for _ in range(2))
    with own_redis.frozen():
        other.publish("t", b"nobody knows")
        wait_for(lambda: "is lost" in caplog.text)
        wait_for(lambda: other.adapter.unpublished > 0)
        one.adapter.subscribe("u")
    one.hear_again("u", by=other)
    one.hear_again("t", by=other)


def test_silence_is_no_loss(own_redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    one, other = (start(f"{own_redis.url}?check_interval=1", "t") for _ in range(2))
    wait_for(lambda: own_redis.execute("INFO", "commandstats").get("cmdstat_ping", {"calls": 0})["calls"] > 1)
    assert one.heard("t", by=other) == []
    assert "lost" not in caplog.text


def test_subscribers_that_are_cut_off_come_back(own_redis: RedisServer, start: Start) -> None:
    one, other = start(own_redis.url, "a", "b"), start(own_redis.url)
    for _ in range(3):
        own_redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        own_redis.execute("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        one.hear_again("a", by=other)
        assert one.heard("b", by=other) == []


def test_a_wrong_password_is_told(redis: RedisServer, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    start(f"redis://:wrong@{HOST}:{redis.port}?subscribe_timeout=0.2", "t")
    assert "AUTH" in caplog.text


def test_what_a_user_may_not_is_one_line_with_the_remedy(
    own_redis: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(subscriber, "REFUSED_RETRY", 0.02)
    own_redis.execute("ACL", "SETUSER", "chat", "on", ">secret", "resetchannels", "&chat:*", "+@all")
    url = own_redis.url.replace("redis://", "redis://chat:secret@")
    one, other = start(url), start(own_redis.url)
    began = time.monotonic()
    for number in range(10):
        one.adapter.subscribe(f"room:{number}")
        one.publish(f"room:{number}", b"unheard")
    assert time.monotonic() - began < 10  # a refusal is an answer
    wait_for(lambda: one.adapter.unpublished == 10)
    publisher = one.adapter.publisher()
    with pytest.raises(NotPublished, match=r"no permissions .*&phoenix:\* in Redis' ACL"):
        publisher.publish("t", b"unheard")
    publisher.close()
    wait_for(lambda: own_redis.execute("INFO", "commandstats")["cmdstat_subscribe"]["rejected_calls"] > 40)
    (line,) = [record.message for record in caplog.records]
    assert "&phoenix:*" in line
    assert "?prefix=" in line
    own_redis.execute("ACL", "SETUSER", "chat", "&phoenix:*")
    for number in range(10):
        one.hear_again(f"room:{number}", by=other)
    wait_for(lambda: caplog.records[-1].message == "Redis lets this node hear all that it refused")
    assert len(caplog.records) == 2


def test_who_leads_needs_what_is_written(
    own_redis: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.02)
    first, further = re.findall(r"ACL SETUSER chat (.*)", (ROOT / "docs/explanation/scaling.md").read_text())
    own_redis.execute("ACL", "SETUSER", "chat", *first.split())
    node = start(own_redis.url.replace("redis://", "redis://chat:secret@"))
    leading = gevent.spawn(node.adapter.lead, "work", lambda: None)
    wait_for(lambda: "who leads" in caplog.text)
    (line,) = [record.message for record in caplog.records if "who leads" in record.message]
    assert line.endswith(f"give its user also {further} in Redis' ACL")
    own_redis.execute("ACL", "SETUSER", "chat", *further.split())
    leading.get(timeout=DEADLINE)()
    assert own_redis.execute("EXISTS", "phoenix:leader:work") == 0


def test_a_leader_that_stood_still_is_stopped_before_it_goes_on(
    redis_url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process that was stopped: what its leader waits for is over by then, too."""
    monkeypatch.setattr(lease, "LEASE", 0.3)
    monkeypatch.setattr(lease, "MARGIN", 0.1)
    node, lost = start(redis_url), Event()

    def work() -> None:
        gevent.spawn(time.sleep, 0.4)
        gevent.sleep(0.01)
        went_on.append(lost.is_set())

    went_on: list[bool] = []
    release = node.adapter.lead("work", lost.set)
    gevent.spawn(work).join()
    release()
    assert went_on == [True]


def test_a_full_queue_is_refused(own_redis: RedisServer, start: Start) -> None:
    node, data = start(f"{own_redis.url}?queue_limit=1000000"), b"x" * 900_000

    def fill() -> None:
        for _ in range(3):  # one may be under way to Redis, which takes nothing, and one may wait
            node.publish("t", data)

    def takes() -> bool:
        with suppress(NotPublished):
            node.publish("t", data)
            return True
        return False

    with own_redis.frozen(), pytest.raises(NotPublished, match="queue_limit"):
        fill()
    wait_for(takes)


def test_what_was_published_last_leaves_before_the_end(redis_url: str, start: Start) -> None:
    one, other = start(redis_url, "t"), start(redis_url)
    for number in range(1000):
        other.publish("t", b"%d" % number)
    other.adapter.stop()
    assert one.hear_all(1000) == [b"%d" % number for number in range(1000)]


def test_what_cannot_leave_before_the_end_is_counted(own_redis: RedisServer, start: Start) -> None:
    node = start(f"{own_redis.url}?check_interval=0.1", "t")
    with own_redis.frozen():
        for _ in range(5):
            node.publish("t", b"x" * BATCH_SIZE)
        node.adapter.stop()
    assert node.adapter.unpublished == 5


# Clusters


def test_a_topic_is_followed_to_another_server_of_the_cluster(
    cluster: RedisCluster, cluster_url: str, start: Start
) -> None:
    topics = [f"room:{number}" for number in range(20)]
    one, other = start(cluster_url, *topics), start(cluster_url)
    publisher = RedisPublisher.from_url(cluster_url)
    slot = int(cluster.servers[0].execute("CLUSTER", "KEYSLOT", f"{cluster_url.partition('=')[2]}:room:1"))
    home = cluster.owner(slot)
    for target in (cluster.servers[cluster.servers.index(home) - 1], home):
        publisher.publish("room:1", b"before")
        cluster.move(slot, target)
        one.hear_again("room:1", by=other)
        publisher.publish("room:1", b"from outside")
        assert one.hear() == ("room:1", b"from outside")
    publisher.close()
    for topic in topics:
        assert one.heard(topic, by=other) == []


def test_a_cluster_that_is_not_there(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    node = start(f"redis+cluster://{HOST}:{free_port()}?subscribe_timeout=0.1", "t")
    for _ in range(100):
        node.publish("t", b"into the void")
    wait_for(lambda: node.adapter.unpublished == 100)

    def errors() -> list[str]:
        return [record.message for record in caplog.records if record.levelno == logging.ERROR]

    def unasked() -> list[str]:
        return [record.message for record in caplog.records if "until the cluster answers" in record.message]

    wait_for(lambda: bool(errors() and unasked()))
    assert (len(errors()), len(unasked())) == (1, 1)


# In the process of a server


@pytest.mark.parametrize("mode", ["patched", "unpatched"])
def test_others_run_while_redis_is_waited_for(own_redis: RedisServer, start: Start, mode: str) -> None:
    node = start(own_redis.url, "pong")
    url = f"{own_redis.url}?subscribe_timeout=0.5&check_interval=1"
    command = [sys.executable, "-m", "tests.support.redis_child", mode, url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            with own_redis.frozen():
                child.stdin.write("\n")
                child.stdin.flush()
                assert int(child.stdout.readline()) >= 10
            for topic in ("late", "ping"):
                node.publish(topic, b"hello")
                assert node.hear() == ("pong", f"{topic} hello".encode())
            assert child.stdout.readline() == "0\n"
            assert child.wait(DEADLINE) == 0
        finally:
            child.kill()


# Publishing from outside


@pytest.fixture
def publisher(redis_url: str) -> Iterator[RedisPublisher]:
    publisher = RedisPublisher.from_url(redis_url)
    yield publisher
    publisher.close()


def test_threads_share_a_publisher(redis_url: str, start: Start, publisher: RedisPublisher) -> None:
    node = start(redis_url, "t")

    def speak(name: int) -> None:
        for number in range(100):
            publisher.publish("t", b"%d %d" % (name, number))

    threads = [threading.Thread(target=speak, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    heard = node.hear_all(300)
    for name in range(3):
        mine = [data for data in heard if data.startswith(b"%d " % name)]
        assert mine == [b"%d %d" % (name, number) for number in range(100)]
    for thread in threads:
        in_thread(thread.join)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_nobody_carries_it(scheme: str) -> None:
    publisher = RedisPublisher(f"{scheme}://{HOST}:{free_port()}")
    with pytest.raises(NotPublished, match="look whether it runs"):
        publisher.publish("t", b"hello")
    publisher.close()


def test_a_redis_that_does_not_answer_is_waited_for_once(own_redis: RedisServer, start: Start) -> None:
    node, publisher = start(own_redis.url, "t"), RedisPublisher(own_redis.url, timeout=0.5)

    def speak() -> float:
        began = time.monotonic()
        with pytest.raises(NotPublished, match=r"(?i)time.?out|has not answered in 0\.5 s"):
            publisher.publish("t", b"unheard")
        return time.monotonic() - began

    def heard() -> bool:
        with suppress(NotPublished):
            publisher.publish("t", b"heard")
            return True
        return False

    publisher.publish("t", b"before")
    with own_redis.frozen():
        assert speak() >= 0.5
        assert sum(speak() for _ in range(50)) < 5
    wait_for(heard)
    while node.hear() != ("t", b"heard"):
        pass
    publisher.close()


def test_a_link_that_died_of_old_age_is_replaced(own_redis: RedisServer, start: Start) -> None:
    with ExitStack() as stack:
        publisher = RedisPublisher(own_redis.url)
        stack.callback(publisher.close)
        publisher.publish("t", b"first")
        own_redis.kill()
        own_redis.start()
        node = start(own_redis.url, "t")
        publisher.publish("t", b"second")
        assert node.hear() == ("t", b"second")


def test_no_more_is_read_from_redis_while_much_waits_to_be_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: Any = lambda *_: None  # noqa: E731 - whoever is told
    threads, waiting = Threads(), list[int]()

    def pause(seconds: float) -> None:
        waiting.append(len(threads))
        gevent.sleep(0)

    monkeypatch.setattr(subscriber, "UNDELIVERED_SIZE", 4)
    monkeypatch.setattr(subscriber, "time", SimpleNamespace(sleep=pause))
    reader = subscriber.RedisSubscriber(nothing, threads, b"mine", nothing, nothing, nothing, 1.0, 1.0)
    reader.hear(b"channel", b"1234")
    assert waiting == []
    reader.hear(b"channel", b"5")
    assert set(waiting) == {2}
    assert len(threads) == 0
    threads.close(DEADLINE)


# The end


def connections(redis: RedisServer) -> int:
    """Return how many others are connected."""
    return len(redis.execute("CLIENT", "LIST").splitlines()) - 1


def before(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, event: threading.Event) -> threading.Event:
    """Have a method wait for an event first; return what is set when it has been called."""
    called, method = threading.Event(), getattr(owner, name)

    def late(*arguments: Any) -> Any:
        called.set()
        assert event.wait(DEADLINE)
        return method(*arguments)

    monkeypatch.setattr(owner, name, late)
    return called


def after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> threading.Event:
    """Return what is set each time that a method has ended."""
    ended, method = threading.Event(), getattr(owner, name)

    def tell(*arguments: Any) -> Any:
        result = method(*arguments)
        ended.set()
        return result

    monkeypatch.setattr(owner, name, tell)
    return ended


def test_a_node_that_ends_while_it_tells_redis_of_topics_leaves_no_connection(
    own_redis: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = start(own_redis.url, "t"), RedisPublisher.from_url(own_redis.url)
    closed = after(monkeypatch, subscriber.RedisSubscriber, "close")
    told = after(monkeypatch, subscriber.SubscriberConnection, "_send")
    hearing = before(monkeypatch, subscriber.RedisSubscriber, "hear", told)
    telling = before(monkeypatch, subscriber.SubscriberConnection, "_send", closed)
    other.publish("t", b"heard while the rest happens")
    other.close()
    one.adapter.unsubscribe("t")
    wait_for(lambda: hearing.is_set() and telling.is_set())
    one.adapter.stop()
    wait_for(lambda: connections(own_redis) == 0)


def test_a_publisher_that_is_closed_while_it_connects_keeps_no_connection(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, closed = RedisPublisher.from_url(own_redis.url), threading.Event()
    connecting = before(monkeypatch, RedisClient, "connect", closed)
    publishing = gevent.get_hub().threadpool.spawn(publisher.publish, "t", b"published")
    wait_for(connecting.is_set)
    publisher.close()
    closed.set()
    publishing.get(timeout=DEADLINE)
    wait_for(lambda: connections(own_redis) == 0)
