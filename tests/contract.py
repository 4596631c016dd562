"""What every adapter keeps: inherit the classes, and give them a fixture that makes adapters of one network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import gevent
import pytest
from gevent.queue import Empty, Queue

from flask_phoenix.exceptions import NotPublished
from flask_phoenix.pubsub.adapter import Adapter
from tests.processes import DEADLINE

#: Topics may be anything that a client can write.
TOPICS = ["room:1", "", "two words", "line\nbreak\r\n", "nul\0", "caf\u00e9 \U0001f600", "a*?[b-c]^\\{d}", "x" * 10_000]
PAYLOADS = [b"", b"\0", bytes(range(256)), '{"n":"\u00e9"}'.encode(), b"\r\n+OK\r\n$-1\r\n", b"x" * 70_000]
LARGE = bytes(range(256)) * 4 * 4096
BURST = 20_000

MakeAdapter = Callable[[], Adapter]


class Node:
    """An adapter that is started, and what it has told."""

    def __init__(self, adapter: Adapter, name: str) -> None:
        self.adapter = adapter
        self.name = name
        self.received: Queue[tuple[str, bytes]] = Queue()
        self.gone: Queue[str] = Queue()

    def start(self) -> None:
        self.adapter.start(self.name, self._receive, self.gone.put)

    def publish(self, topic: str, data: bytes | str) -> None:
        self.adapter.publish(topic, data.encode() if isinstance(data, str) else data)

    def hear(self, within: float = DEADLINE) -> tuple[str, bytes]:
        """Return the next of what others have published; it has to come."""
        return self.received.get(timeout=within)

    def hear_all(self, number: int) -> list[bytes]:
        """Return the data of the next so many messages."""
        return [self.hear()[1] for _ in range(number)]

    def heard(self, topic: str, by: Node) -> list[tuple[str, bytes]]:
        """Return all that has come until what another node publishes now on a topic that is asked for."""
        by.publish(topic, "that is all")
        heard = []
        while (message := self.hear()) != (topic, b"that is all"):
            heard.append(message)
        return heard

    def _receive(self, topic: str, data: bytes) -> None:
        self.received.put((topic, data))


MakeNode = Callable[[], Node]


def numbers(size: int) -> list[bytes]:
    return [b"%d" % number for number in range(size)]


class AdapterContract:
    """What every adapter keeps. A subclass overrides :meth:`make_adapter`."""

    @pytest.fixture
    def make_adapter(self) -> MakeAdapter:
        """Make one more adapter of the same network; it is started, and stopped, elsewhere."""
        raise NotImplementedError

    @pytest.fixture
    def make_node(self, make_adapter: MakeAdapter) -> Iterator[MakeNode]:
        """Make nodes that are started, and stop those that still run in the end."""
        nodes: list[Node] = []
        names = count(1)

        def make() -> Node:
            node = Node(make_adapter(), f"node{next(names)}")
            nodes.append(node)
            node.start()
            return node

        yield make
        for node in nodes:
            node.adapter.stop()

    # Who hears what

    def test_others_hear_what_is_published(self, make_node: MakeNode) -> None:
        nodes = [make_node() for _ in range(3)]
        for node in nodes:
            node.adapter.subscribe("news")
        nodes[0].publish("news", b"hello")
        nodes[1].publish("news", b"hi")
        assert sorted(nodes[2].hear_all(2)) == [b"hello", b"hi"]
        assert nodes[0].hear() == ("news", b"hi")
        assert nodes[1].hear() == ("news", b"hello")

    def test_nobody_hears_an_echo(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("news")
        other.adapter.subscribe("news")
        one.publish("news", b"mine")
        assert other.hear() == ("news", b"mine")
        assert one.heard("news", by=other) == []

    def test_only_topics_that_are_asked_for_are_heard(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("a")
        other.adapter.subscribe("b")
        for topic in ("b", "A", "a ", "", "a:1", "*"):
            other.publish(topic, b"not for you")
        assert one.heard("a", by=other) == []

    def test_a_topic_can_be_given_up_and_asked_for_anew(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        for topic in ("a", "b", "a"):
            one.adapter.subscribe(topic)
        one.adapter.unsubscribe("a")
        one.adapter.unsubscribe("never asked for")
        gevent.sleep(0)
        one.heard("b", by=other)
        other.publish("a", b"unheard")
        assert one.heard("b", by=other) == []
        one.adapter.subscribe("a")
        other.publish("a", b"heard")
        assert one.hear() == ("a", b"heard")

    @pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: ascii(topic)[:20])
    def test_topics_are_any_strings(self, make_node: MakeNode, topic: str) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe(topic)
        for payload in PAYLOADS:
            other.publish(topic, payload)
        assert [one.hear() for _ in PAYLOADS] == [(topic, payload) for payload in PAYLOADS]

    # Order and loss

    def test_each_publisher_is_heard_in_its_order(self, make_node: MakeNode) -> None:
        listener, *speakers = (make_node() for _ in range(4))
        listener.adapter.subscribe("t")
        for number in range(500):
            for speaker in speakers:
                speaker.publish("t", f"{speaker.name} {number}")
            if number % 50 == 0:
                gevent.sleep(0)
        heard = listener.hear_all(500 * len(speakers))
        for speaker in speakers:
            mine = [data for data in heard if data.startswith(speaker.name.encode())]
            assert mine == [f"{speaker.name} {number}".encode() for number in range(500)]

    def test_a_burst_is_heard_whole(self, make_node: MakeNode) -> None:
        one, other, third = make_node(), make_node(), make_node()
        one.adapter.subscribe("t")
        third.adapter.subscribe("t")
        for data in numbers(BURST):
            other.publish("t", data)
        assert one.hear_all(BURST) == numbers(BURST)
        assert third.hear_all(BURST) == numbers(BURST)
        assert other.adapter.unpublished == 0

    def test_large_payloads(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("t")
        other.adapter.subscribe("t")
        for size in (len(LARGE), 1, len(LARGE) - 1, 0):
            one.publish("t", LARGE[:size])
            other.publish("t", LARGE[:size])
        for node in (one, other):
            heard = node.hear_all(4)
            assert [len(data) for data in heard] == [len(LARGE), 1, len(LARGE) - 1, 0]
            assert heard[0] == LARGE

    def test_another_thread_may_publish(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("t")

        def speak() -> None:
            for data in numbers(1000):
                other.publish("t", data)

        thread = threading.Thread(target=speak)
        thread.start()
        assert one.hear_all(1000) == numbers(1000)
        thread.join()

    def test_a_receiver_that_fails_hears_what_follows(self, make_adapter: MakeAdapter, make_node: MakeNode) -> None:
        heard: Queue[bytes] = Queue()
        failing, other = make_adapter(), make_node()

        def receive(topic: str, data: bytes) -> None:
            heard.put(data)
            raise RuntimeError("a failure on purpose")

        failing.start("failing", receive, lambda node: None)
        try:
            failing.subscribe("t")
            for data in numbers(3):
                other.publish("t", data)
            assert [heard.get(timeout=DEADLINE) for _ in range(3)] == numbers(3)
        finally:
            failing.stop()

    # Subscriptions are confirmed

    def test_what_follows_a_subscription_is_heard(self, make_node: MakeNode) -> None:
        one, *others = (make_node() for _ in range(3))
        for number in range(100):
            one.adapter.subscribe(f"room:{number}")
            for other in others:
                other.publish(f"room:{number}", other.name)
        heard = [one.hear() for _ in range(200)]
        assert sorted(heard) == sorted((f"room:{n}", other.name.encode()) for n in range(100) for other in others)

    def test_many_subscribe_at_once(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()

        def subscribe(number: int) -> None:
            one.adapter.subscribe(f"room:{number}")
            other.publish(f"room:{number}", b"%d" % number)

        greenlets = [gevent.spawn(subscribe, number) for number in range(500)]
        gevent.joinall(greenlets, timeout=DEADLINE, raise_error=True)
        heard = {one.hear() for _ in range(500)}
        assert heard == {(f"room:{number}", b"%d" % number) for number in range(500)}

    def test_many_subscribe_to_one_topic_at_once(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()

        def subscribe(number: int) -> None:
            one.adapter.subscribe("t")
            other.publish("t", b"%d" % number)

        greenlets = [gevent.spawn(subscribe, number) for number in range(20)]
        gevent.joinall(greenlets, timeout=DEADLINE, raise_error=True)
        assert sorted(one.hear_all(20)) == sorted(numbers(20))

    # Coming and going

    def test_a_newcomer_is_heard_at_once(self, make_node: MakeNode) -> None:
        sitting = [make_node() for _ in range(2)]
        for node in sitting:
            node.adapter.subscribe("t")
        for _ in range(5):
            newcomer = make_node()
            newcomer.publish("t", newcomer.name)
            assert [node.hear() for node in sitting] == [("t", newcomer.name.encode())] * 2

    def test_a_newcomer_hears_at_once(self, make_node: MakeNode) -> None:
        sitting = make_node()
        sitting.publish("u", b"to nobody")
        for _ in range(5):
            newcomer = make_node()
            newcomer.adapter.subscribe("t")
            sitting.publish("t", newcomer.name)
            assert newcomer.hear() == ("t", newcomer.name.encode())

    def test_nodes_that_start_at_one_moment_hear_each_other(
        self, make_adapter: MakeAdapter, make_node: MakeNode
    ) -> None:
        nodes: list[Node] = []

        def begin() -> None:
            node = make_node()
            node.adapter.subscribe("t")
            nodes.append(node)

        gevent.joinall([gevent.spawn(begin) for _ in range(5)], timeout=DEADLINE, raise_error=True)
        for node in nodes:
            node.publish("t", node.name)
        for node in nodes:
            assert sorted(node.hear_all(4)) == sorted(each.name.encode() for each in nodes if each is not node)

    def test_the_others_go_on_without_one_that_stops(self, make_node: MakeNode) -> None:
        one, other, leaving = (make_node() for _ in range(3))
        for node in (one, other, leaving):
            node.adapter.subscribe("t")
        leaving.publish("t", b"goodbye")
        leaving.adapter.stop()
        assert one.hear() == other.hear() == ("t", b"goodbye")
        one.publish("t", b"still here")
        assert other.hear() == ("t", b"still here")
        one.adapter.subscribe("u")
        assert one.heard("u", by=other) == []
        assert leaving.received.empty()

    def test_nothing_is_left_of_one_that_stops(self, make_adapter: MakeAdapter) -> None:
        # Greenlets and descriptors are looked for behind every test.
        before = set(threading.enumerate())
        nodes = [Node(make_adapter(), f"node{number}") for number in range(2)]
        for node in nodes:
            node.start()
            node.adapter.subscribe("t")
        nodes[0].publish("t", b"hello")
        assert nodes[1].hear() == ("t", b"hello")
        for node in nodes:
            node.adapter.stop()
        assert set(threading.enumerate()) <= before

    def test_nothing_is_published_by_one_that_does_not_run(self, make_adapter: MakeAdapter) -> None:
        node = Node(make_adapter(), "node")
        with pytest.raises(NotPublished):
            node.publish("t", b"too early")
        node.start()
        node.publish("t", b"to nobody")
        node.adapter.stop()
        with pytest.raises(NotPublished):
            node.publish("t", b"too late")
        assert node.adapter.unpublished == 0


class GoneContract(AdapterContract):
    """What adapters keep that know when another node has ended."""

    def test_the_end_of_a_node_is_told_once(self, make_node: MakeNode) -> None:
        one, other, leaving = (make_node() for _ in range(3))
        for node in (one, other, leaving):
            node.adapter.subscribe("t")
        leaving.publish("t", b"goodbye")
        leaving.adapter.stop()
        for node in (one, other):
            assert node.gone.get(timeout=DEADLINE) == leaving.name
            assert node.hear() == ("t", b"goodbye")
        assert one.heard("t", by=other) == other.heard("t", by=one) == []
        assert one.gone.empty()
        assert other.gone.empty()
        assert leaving.gone.empty()


#: Cuts the links between the nodes; what it returns lets them be mended.
Cut = Callable[[], Callable[[], object]]


class LossContract(AdapterContract):
    """What adapters keep whose links can be lost. A subclass overrides :meth:`cut` too."""

    @pytest.fixture
    def cut(self) -> Cut:
        """Cut the links between all nodes."""
        raise NotImplementedError

    def test_what_is_lost_with_a_link_is_told(
        self, make_node: MakeNode, cut: Cut, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("t")
        other.publish("t", b"before")
        assert one.hear() == ("t", b"before")
        mend = cut()
        raised = 0
        for data in numbers(100):
            try:
                other.publish("t", data)
            except NotPublished:
                raised += 1
            gevent.sleep(0)
        mend()
        heard = self._hear_until_mended(one, other)
        assert heard == sorted(set(heard))
        lost = raised + other.adapter.unpublished
        assert len(heard) + lost >= 100
        assert any(record.levelno >= logging.ERROR for record in caplog.records)
        assert set(one.heard("t", by=other)) <= {("t", b"mended")}

    def test_a_topic_asked_for_while_a_link_is_cut_is_had_in_the_end(self, make_node: MakeNode, cut: Cut) -> None:
        one, other = make_node(), make_node()
        one.adapter.subscribe("t")
        mend = cut()
        asking = gevent.spawn(one.adapter.subscribe, "u")
        gevent.sleep(0)
        mend()
        asking.get(timeout=DEADLINE)
        self._hear_until_mended(one, other)
        assert set(one.heard("u", by=other)) <= {("t", b"mended")}

    def _hear_until_mended(self, one: Node, other: Node) -> list[int]:
        """Publish until something gets through; return what came before."""
        heard: list[int] = []
        with gevent.Timeout(DEADLINE):
            while True:
                with suppress(NotPublished):
                    other.publish("t", b"mended")
                with suppress(Empty):
                    while (data := one.received.get(timeout=0.02)[1]) != b"mended":
                        heard.append(int(data))
                    return heard
