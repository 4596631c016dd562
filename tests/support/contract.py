"""What every adapter keeps: inherit a class, and give it a fixture that makes adapters of one network."""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import gevent
import pytest
from gevent.queue import Empty, Queue

from flask_phoenix.exceptions import NotPublished, PhoenixError
from flask_phoenix.pubsub.adapter import Adapter
from tests.support.loop import in_thread
from tests.support.processes import DEADLINE

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

    def start(self, *topics: str) -> Node:
        self.adapter.start(self.name, lambda topic, data: self.received.put((topic, data)), self.gone.put)
        for topic in topics:
            self.adapter.subscribe(topic)
        return self

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

    def hear_again(self, topic: str, by: Node) -> None:
        """Have another node publish until it is heard, over a link that may just be mended; take what is left."""
        tokens = count()

        def heard() -> bool:
            token = b"again %d" % next(tokens)
            with suppress(NotPublished, Empty):
                by.publish(topic, token)
                while self.received.get(timeout=0.02) != (topic, token):
                    pass
                return True
            return False

        with gevent.Timeout(DEADLINE):
            while not heard():
                pass
        self.heard(topic, by)


MakeNode = Callable[..., Node]


def numbers(size: int) -> list[bytes]:
    return [b"%d" % number for number in range(size)]


def run_all(*tasks: Callable[[], object]) -> None:
    """Run tasks at once, each in a greenlet, until all have ended."""
    gevent.joinall([gevent.spawn(task) for task in tasks], timeout=DEADLINE, raise_error=True)


class AdapterContract:
    """What every adapter keeps. A subclass overrides :meth:`make_adapter`."""

    #: The adapter tells when another node has ended.
    tells_end = False

    @pytest.fixture
    def make_adapter(self) -> MakeAdapter:
        """Make one more adapter of the same network; it is started, and stopped, elsewhere."""
        raise NotImplementedError

    @pytest.fixture
    def make_node(self, make_adapter: MakeAdapter) -> Iterator[MakeNode]:
        """Make nodes that are started and have asked for topics; stop those that still run in the end."""
        nodes: list[Node] = []

        def make(*topics: str) -> Node:
            nodes.append(Node(make_adapter(), f"node{len(nodes)}"))
            return nodes[-1].start(*topics)

        yield make
        for node in nodes:
            node.adapter.stop()

    # Who hears what

    def test_others_hear_what_is_published_and_nobody_an_echo(self, make_node: MakeNode) -> None:
        one, other, third = (make_node("news") for _ in range(3))
        one.publish("news", b"hello")
        other.publish("news", b"hi")
        assert sorted(third.hear_all(2)) == [b"hello", b"hi"]
        assert one.heard("news", by=other) == [("news", b"hi")]
        assert other.hear() == ("news", b"hello")

    def test_only_topics_that_are_asked_for_are_heard(self, make_node: MakeNode) -> None:
        # The braces let one server of a cluster carry both, so that one is heard after the other.
        one, other = make_node("{t}a", "{t}b", "{t}a"), make_node("c")
        for topic in ("c", "{t}A", "{t}a ", "", "{t}a:1", "*"):
            other.publish(topic, b"not for you")
        assert one.heard("{t}a", by=other) == []
        one.adapter.unsubscribe("{t}a")
        one.adapter.unsubscribe("never asked for")
        gevent.sleep(0)
        one.heard("{t}b", by=other)
        other.publish("{t}a", b"unheard")
        assert one.heard("{t}b", by=other) == []
        one.adapter.subscribe("{t}a")
        other.publish("{t}a", b"heard")
        assert one.hear() == ("{t}a", b"heard")

    def test_topics_and_data_are_any(self, make_node: MakeNode) -> None:
        one, other = make_node(*TOPICS), make_node()
        for topic in TOPICS:
            for payload in PAYLOADS:
                other.publish(topic, payload)
        heard = [one.hear() for _ in TOPICS for _ in PAYLOADS]
        assert {topic: [data for each, data in heard if each == topic] for topic in TOPICS} == dict.fromkeys(
            TOPICS, PAYLOADS
        )

    # Order and loss

    def test_each_publisher_is_heard_in_its_order(self, make_node: MakeNode) -> None:
        listener, *speakers = make_node("t"), *(make_node() for _ in range(3))
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
        one, other, third = make_node("t"), make_node(), make_node("t")
        for data in numbers(BURST):
            other.publish("t", data)
        assert one.hear_all(BURST) == numbers(BURST)
        assert third.hear_all(BURST) == numbers(BURST)
        assert other.adapter.unpublished == 0

    def test_large_data(self, make_node: MakeNode) -> None:
        one, other = make_node("t"), make_node("t")
        sizes = [len(LARGE), 1, len(LARGE) - 1, 0]
        for size in sizes:
            one.publish("t", LARGE[:size])
            other.publish("t", LARGE[:size])
        for node in (one, other):
            heard = node.hear_all(len(sizes))
            assert [len(data) for data in heard] == sizes
            assert heard[0] == LARGE

    def test_another_thread_may_publish(self, make_node: MakeNode) -> None:
        one, other = make_node("t"), make_node()

        def speak() -> None:
            for data in numbers(1000):
                other.publish("t", data)

        thread = threading.Thread(target=speak)
        thread.start()
        assert one.hear_all(1000) == numbers(1000)
        thread.join()

    def test_a_receiver_that_fails_hears_what_follows(self, make_adapter: MakeAdapter, make_node: MakeNode) -> None:
        heard: Queue[bytes] = Queue()
        failing, other, leaving = make_adapter(), make_node(), make_node()

        def receive(topic: str, data: bytes) -> None:
            heard.put(data)
            raise (RuntimeError, CancelledError)[len(data) % 2]("a failure on purpose")

        def gone(node: str) -> None:
            raise RuntimeError("a failure on purpose")

        failing.start("failing", receive, gone)
        try:
            failing.subscribe("t")
            leaving.adapter.stop()
            said = [b"a", b"bb", b"c"]
            for data in said:
                other.publish("t", data)
            assert [heard.get(timeout=DEADLINE) for _ in said] == said
        finally:
            failing.stop()

    def test_it_is_asked_in_the_thread_that_started_it(self, make_node: MakeNode) -> None:
        one, other = make_node("t"), make_node()
        for call in (lambda: one.adapter.subscribe("u"), lambda: one.adapter.unsubscribe("t")):
            with pytest.raises(PhoenixError, match="in the thread that has started it"):
                in_thread(call)
        with pytest.raises(PhoenixError, match="runs already"):
            one.start()
        assert one.heard("t", by=other) == []

    # Subscriptions are confirmed

    def test_what_follows_a_subscription_is_heard(self, make_node: MakeNode) -> None:
        one, *others = (make_node() for _ in range(3))
        for number in range(100):
            one.adapter.subscribe(f"room:{number}")
            for other in others:
                other.publish(f"room:{number}", other.name)
        heard = [one.hear() for _ in range(200)]
        assert sorted(heard) == sorted((f"room:{n}", other.name.encode()) for n in range(100) for other in others)

    @pytest.mark.parametrize("topics", [500, 1])
    def test_many_subscribe_at_once(self, make_node: MakeNode, topics: int) -> None:
        one, other = make_node(), make_node()

        def subscribe(number: int) -> None:
            one.adapter.subscribe(f"room:{number % topics}")
            other.publish(f"room:{number % topics}", b"%d" % number)

        run_all(*(lambda number=number: subscribe(number) for number in range(500)))
        assert sorted(one.hear_all(500)) == sorted(numbers(500))

    def test_a_topic_that_is_let_go_of_while_another_asks_for_it(self, make_node: MakeNode) -> None:
        one, other = make_node(), make_node()
        for number in range(20):
            asking = gevent.spawn(one.adapter.subscribe, f"room:{number}")
            for _ in range(number % 5):
                gevent.sleep(0)
            under_way = not asking.ready()
            one.adapter.unsubscribe(f"room:{number}")
            asking.get(timeout=DEADLINE)
            if under_way:
                other.publish(f"room:{number}", b"heard")
                assert one.hear() == (f"room:{number}", b"heard")

    # Coming and going

    def test_a_newcomer_is_heard_and_hears_at_once(self, make_node: MakeNode) -> None:
        one, other = make_node("t"), make_node("t")
        one.publish("u", b"to nobody")
        assert other.heard("t", by=one) == []  # what waited to be published has left
        for _ in range(5):
            newcomer = make_node()
            newcomer.publish("t", newcomer.name)
            assert one.hear() == other.hear() == ("t", newcomer.name.encode())
            newcomer.adapter.subscribe("u")
            one.publish("u", newcomer.name)
            assert newcomer.hear() == ("u", newcomer.name.encode())

    def test_nodes_that_start_at_one_moment_hear_each_other(self, make_node: MakeNode) -> None:
        nodes: list[Node] = []
        run_all(*[lambda: nodes.append(make_node("t"))] * 5)
        for node in nodes:
            node.publish("t", node.name)
        for node in nodes:
            assert sorted(node.hear_all(4)) == sorted(each.name.encode() for each in nodes if each is not node)

    def test_the_others_go_on_without_one_that_stops(self, make_node: MakeNode) -> None:
        one, other, leaving = (make_node("t") for _ in range(3))
        leaving.publish("t", b"goodbye")
        leaving.adapter.stop()
        assert one.hear() == other.hear() == ("t", b"goodbye")
        if self.tells_end:
            assert one.gone.get(timeout=DEADLINE) == other.gone.get(timeout=DEADLINE) == leaving.name
        one.adapter.subscribe("u")
        assert one.heard("u", by=other) == other.heard("t", by=one) == []
        assert leaving.received.empty()
        assert all(node.gone.empty() for node in (one, other, leaving))

    def test_it_publishes_while_it_runs_and_leaves_nothing_behind(self, make_adapter: MakeAdapter) -> None:
        # Greenlets and descriptors are looked for after every test.
        before = set(threading.enumerate())
        one, other = Node(make_adapter(), "one"), Node(make_adapter(), "other")
        with pytest.raises(NotPublished):
            one.publish("t", b"too early")
        other.start("t")
        for name in ("first life", "second life"):
            one.name = name
            one.start().publish("t", name)
            assert other.hear() == ("t", name.encode())
            one.adapter.stop()
            one.adapter.stop()
            with pytest.raises(NotPublished):
                one.publish("t", b"too late")
        other.adapter.stop()
        assert one.adapter.unpublished == other.adapter.unpublished == 0
        assert set(threading.enumerate()) <= before


#: Cuts the links between the nodes; what it returns lets them be mended.
Cut = Callable[[], Callable[[], object]]


class LossContract(AdapterContract):
    """What adapters keep whose links can be lost. A subclass overrides :meth:`cut` too."""

    #: All that another node misses is counted; else what it misses while its own link is lost is told there alone.
    counts_all = True

    @pytest.fixture
    def cut(self) -> Cut:
        """Cut the links between all nodes."""
        raise NotImplementedError

    def test_what_is_lost_with_a_link_is_told(
        self, make_node: MakeNode, cut: Cut, caplog: pytest.LogCaptureFixture
    ) -> None:
        one, other = make_node("t"), make_node()
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
        assert any(record.levelno >= logging.WARNING for record in caplog.records)
        if self.counts_all:
            assert len(heard) + raised + other.adapter.unpublished >= 100
        assert set(one.heard("t", by=other)) <= {("t", b"mended")}

    def test_a_topic_asked_for_while_a_link_is_cut_is_had_in_the_end(self, make_node: MakeNode, cut: Cut) -> None:
        one, other = make_node("t"), make_node()
        mend = cut()
        asking = gevent.spawn(one.adapter.subscribe, "u")
        gevent.sleep(0)
        mend()
        asking.get(timeout=DEADLINE)
        one.hear_again("u", by=other)
        one.hear_again("t", by=other)

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
