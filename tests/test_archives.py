"""What nodes keep in common, as every adapter that keeps has to do it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.queue import Queue

from flask_phoenix import (
    Adapter,
    History,
    InvalidOption,
    InvalidPayload,
    Json,
    NotPublished,
    Position,
    RedisAdapter,
    WorkersAdapter,
)
from flask_phoenix.protocol.messages import Broadcast, Kept
from flask_phoenix.pubsub.envelope import pack_entry, unpack
from flask_phoenix.pubsub.history import OVERHEAD
from flask_phoenix.pubsub.unix import archive
from flask_phoenix.pubsub.unix.directory import HISTORY as HISTORY_FILE
from flask_phoenix.pubsub.unix.publisher import WorkersPublisher
from flask_phoenix.testing import MemoryAdapter
from tests.support.processes import DEADLINE, HOST, wait_until
from tests.support.redis_server import RedisCluster, RedisServer

TOPIC = "room:1"
HISTORY = History(size=3, ttl=60)
JSON = Json()


def entry(what: str, sender: str = "") -> bytes:
    """Return an entry of a history."""
    return pack_entry(sender, Broadcast(TOPIC, what, b""), JSON)


class Nodes:
    """Adapters of one kind that reach each other."""

    def __init__(self, make: Callable[[], Adapter]) -> None:
        self._make = make
        self._started: list[Adapter] = []
        #: What each is told.
        self.heard: list[Queue[Kept]] = []

    def start(self) -> Adapter:
        """Start another one."""
        heard: Queue[Kept] = Queue()
        adapter, name = self._make(), f"node{len(self._started)}"
        adapter.start(name, lambda topic, data: heard.put(_kept(unpack(topic, data))), lambda node: None)
        self._started.append(adapter)
        self.heard.append(heard)
        return adapter

    def stop(self) -> None:
        """Stop all."""
        for adapter in self._started:
            adapter.stop()


def _kept(broadcast: Broadcast) -> Kept:
    assert isinstance(broadcast, Kept)
    return broadcast


@pytest.fixture(params=["memory", "workers", "redis", "cluster"])
def nodes(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Nodes]:
    """Return nodes of each kind."""
    network: list[MemoryAdapter] = []
    makers: dict[str, Callable[[], Adapter]] = {
        "memory": lambda: MemoryAdapter(network),
        "workers": lambda: WorkersAdapter(short_path / "workers"),
        "redis": lambda: RedisAdapter.from_url(request.getfixturevalue("redis_url")),
        "cluster": lambda: RedisAdapter(request.getfixturevalue("cluster").url, prefix=short_path.name),
    }
    nodes = Nodes(makers[request.param])
    yield nodes
    nodes.stop()


@pytest.fixture
def node(nodes: Nodes) -> Adapter:
    """Return one of them."""
    return nodes.start()


def keep(node: Any, *whats: str, key: str = "", history: History = HISTORY, topic: str = TOPIC) -> Position:
    """Keep entries; return the position of the last."""
    position = Position("", 0)
    for what in whats:
        position, _ = node.keep(topic, history, entry(what), key)
    return position


def read(node: Any, since: Position | None = None, history: History = HISTORY, topic: str = TOPIC) -> list[str] | None:
    """Return what is kept after a position."""
    position, kept = node.kept(topic, history, since)
    assert position == node.position(topic, history)
    if kept is None:
        return None
    assert [offset for offset, _ in kept] == list(range(position.offset - len(kept) + 1, position.offset + 1))
    return [unpack(TOPIC, data[1:]).event for _, data in kept]


def test_what_is_kept_is_numbered_and_read_by_all(nodes: Nodes) -> None:
    first, second = nodes.start(), nodes.start()
    epoch, offset = first.position(TOPIC, HISTORY)
    assert offset == 0
    assert keep(first, "a") == Position(epoch, 1)
    assert keep(second, "b") == Position(epoch, 2)
    for node in (first, second):
        assert read(node) == ["a", "b"]
        assert read(node, Position(epoch, 0)) == ["a", "b"]
        assert read(node, Position(epoch, 1)) == ["b"]
        assert read(node, Position(epoch, 2)) == []
        assert read(node, Position(epoch, 3)) is read(node, Position("other", 1)) is None


def test_it_is_published_with_its_position(nodes: Nodes) -> None:
    first, second = nodes.start(), nodes.start()
    for node in (first, second):
        node.subscribe(TOPIC)
    position, _ = first.keep(TOPIC, HISTORY, entry("a", "me"), "")
    heard = nodes.heard[1].get(timeout=DEADLINE)
    assert (heard, heard.ref, heard.sender) == (Broadcast(TOPIC, "a", b""), str(position), "me")
    keep(second, "b")
    assert nodes.heard[0].get(timeout=DEADLINE).event == "b"  # and not what it has said itself


def test_from_outside_too(nodes: Nodes) -> None:
    node = nodes.start()
    node.subscribe(TOPIC)
    keep(node, "a")
    publisher = node.publisher()
    keeping = gevent.get_hub().threadpool.apply(publisher.keep, (TOPIC, HISTORY, entry("b"), ""))
    assert keeping[0].offset == 2
    assert nodes.heard[0].get(timeout=DEADLINE).event == "b"
    assert read(publisher) == ["a", "b"]
    publisher.close()


def test_the_number_of_messages_is_bounded(node: Adapter) -> None:
    epoch = keep(node, *"abcde").epoch
    assert read(node) == ["c", "d", "e"]
    assert read(node, Position(epoch, 1)) is None
    assert read(node, Position(epoch, 2)) == ["c", "d", "e"]


def test_their_bytes_are_bounded(node: Adapter) -> None:
    history = History(max_bytes=2 * OVERHEAD + 20)
    keep(node, *"abc", history=history)
    assert read(node, history=history) == ["b", "c"]
    with pytest.raises(InvalidPayload, match="max_bytes"):
        keep(node, 500 * "a", history=history)
    assert keep(node, "d", history=history).offset == 4


def test_their_age_is_bounded(node: Adapter) -> None:
    history = History(ttl=0.05)
    position = keep(node, "a", history=history)
    while read(node, history=history):
        gevent.sleep(0.01)
    assert node.position(TOPIC, history) == position
    assert read(node, position, history) == []
    assert read(node, Position(position.epoch, 0), history) is None


def test_what_has_left_for_its_age_makes_room(node: Adapter) -> None:
    brief, lasting = (History(ttl=ttl, max_bytes=3 * OVERHEAD) for ttl in (0.05, 60))
    keep(node, "a" * OVERHEAD, history=brief)
    gevent.sleep(2 * brief.ttl)
    keep(node, "b" * OVERHEAD, history=lasting)
    assert read(node, history=lasting) == ["b" * OVERHEAD]


def test_a_key_is_kept_once(node: Adapter) -> None:
    assert [node.keep(TOPIC, HISTORY, entry("a"), "key")[1] for _ in range(2)] == [True, False]
    assert keep(node, "b", key="key").offset == 1
    assert keep(node, *"cdef").offset == 5
    assert node.keep(TOPIC, HISTORY, entry("g"), "key")[1]  # it is no longer kept
    assert read(node) == ["e", "f", "g"]


def test_a_key_is_free_again_when_its_message_is_too_old(node: Adapter) -> None:
    history = History(ttl=0.05)
    assert keep(node, "a", key="key", history=history).offset == 1
    gevent.sleep(2 * history.ttl)
    assert keep(node, "b", key="key", history=history).offset == 2


def test_a_key_is_known_after_redis_has_evicted_all_of_them(redis: RedisServer, redis_url: str) -> None:
    nodes = Nodes(lambda: RedisAdapter.from_url(redis_url))
    node = nodes.start()
    keep(node, "a")
    position = keep(node, "b", key="key")
    [evicted] = redis.execute("KEYS", f"{redis_url.partition('=')[2]}*:keys")
    redis.execute("DEL", evicted)
    assert node.keep(TOPIC, HISTORY, entry("c"), "key") == (position, False)
    assert read(node) == ["a", "b"]
    nodes.stop()


def test_topics_are_apart(node: Adapter) -> None:
    keep(node, "a")
    other = "room:{2}"
    assert node.keep(other, HISTORY, entry("b"), "")[0].offset == 1
    assert read(node) == ["a"]


def test_workers_that_all_end_leave_what_they_keep(short_path: Path) -> None:
    epoch = ""
    for _ in range(2):
        nodes = Nodes(lambda: WorkersAdapter(short_path / "workers"))
        position = keep(nodes.start(), "a")
        assert epoch in (position.epoch, "")
        epoch = position.epoch
        nodes.stop()
    assert position.offset == 2


@pytest.mark.parametrize("nodes", ["workers", "redis"], indirect=True)
def test_all_topics_together_are_bounded(nodes: Nodes) -> None:
    adapter, reached = nodes.start(), list[None]()
    bound(adapter, 3 * OVERHEAD + 20, reached)
    older = keep(adapter, "a", topic="older")
    keep(adapter, *"bc")
    assert (read(adapter, topic="older"), reached) == (["a"], [])
    keep(adapter, "d")
    assert read(adapter, topic="older") == []
    assert read(adapter) == ["b", "c", "d"]
    assert reached
    assert read(adapter, older, topic="older") == []
    assert keep(adapter, "e", topic="older") == Position(older.epoch, older.offset + 1)
    assert read(adapter, Position(older.epoch, older.offset - 1), topic="older") is None


@pytest.mark.parametrize("nodes", ["workers", "redis"], indirect=True)
def test_what_is_published_from_outside_keeps_to_the_bound_of_the_nodes(nodes: Nodes) -> None:
    adapter = nodes.start()
    publisher = adapter.publisher()
    for total, left in ((3 * OVERHEAD + 20, []), (100 * OVERHEAD, ["a"])):
        bound(adapter, total, [])
        keep(adapter, "a", topic="older")
        keep(publisher, *"bcd")
        assert read(adapter, topic="older") == left
    publisher.close()


@pytest.mark.parametrize("nodes", ["workers", "redis"], indirect=True)
def test_what_is_too_old_counts_no_more(nodes: Nodes) -> None:
    adapter, reached = nodes.start(), list[None]()
    bound(adapter, 3 * OVERHEAD + 20, reached)
    brief = History(ttl=0.05)
    for number in range(5):
        keep(adapter, "a", topic=f"older{number}", history=brief)
        while read(adapter, topic=f"older{number}", history=brief):
            gevent.sleep(0.01)
    keep(adapter, *"bcd")
    assert read(adapter) == ["b", "c", "d"]
    assert reached == []


def test_workers_forget_topics_that_nobody_needs(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEMORY", "QUIET"):
        monkeypatch.setattr(archive, name, 0.0)
    nodes = Nodes(lambda: WorkersAdapter(short_path / "workers"))
    adapter, brief = nodes.start(), History(ttl=0.05)
    older = keep(adapter, *"ab", topic="older", history=brief)
    adapter.position("never written", brief)
    while read(adapter, topic="older", history=brief):
        gevent.sleep(0.01)
    keep(adapter, "c")
    with sqlite3.connect(short_path / "workers" / HISTORY_FILE) as database:
        assert database.execute("SELECT name FROM topic").fetchall() == [(TOPIC,)]
    database.close()
    assert read(adapter, Position(older.epoch, 1), topic="older") is None
    assert keep(adapter, "d", topic="older") == Position(older.epoch, 3)
    nodes.stop()


def delete(file: Path) -> None:
    """Delete the file of a history."""
    file.resolve().unlink()


def delete_all(file: Path) -> None:
    """Delete all files of a history."""
    for each in file.parent.glob("history*"):
        each.unlink()


def delete_journal(file: Path) -> None:
    """Delete what SQLite has not yet written into its file."""
    Path(f"{file.resolve()}-wal").unlink()


def damage(file: Path) -> None:
    """Write over the file of a history, and what is beside it."""
    file.resolve().write_bytes(b"nothing that SQLite knows" * 1000)
    Path(f"{file.resolve()}-wal").write_bytes(b"")


@pytest.mark.parametrize("harm", [delete, delete_all, delete_journal, damage])
def test_workers_whose_file_is_deleted_or_damaged_agree_on_another(
    short_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    nodes = Nodes(lambda: WorkersAdapter(short_path))
    adapters = [nodes.start(), nodes.start()]
    before = keep(adapters[0], "a")
    assert read(adapters[1]) == ["a"]
    harm(short_path / HISTORY_FILE)
    adapters.append(nodes.start())
    for adapter in adapters:  # whoever finds that it is damaged is refused, once
        answers(lambda adapter=adapter: adapter.position(TOPIC, HISTORY))  # type: ignore[misc]
    after = keep(adapters[0], "b")
    assert before.epoch != after.epoch
    for adapter in adapters:
        assert (read(adapter), read(adapter, before)) == (["b"], None)
    assert keep(adapters[2], "c") == Position(after.epoch, 2)
    assert "was deleted or damaged, and begins anew" in caplog.text
    nodes.stop()
    assert len(list(short_path.glob("history*.db"))) == 1


def test_where_no_worker_has_ever_been_there_is_nothing_to_read(short_path: Path) -> None:
    publisher = WorkersPublisher(short_path / "nowhere")
    with pytest.raises(NotPublished, match="start the server"):
        publisher.kept(TOPIC, HISTORY, None)


def bound(adapter: Adapter, total: int, reached: list[None]) -> None:
    """Start an adapter anew, with a bound of all topics."""
    adapter.stop()
    adapter.history_total, adapter.history_reached = total, lambda: reached.append(None)
    adapter.start("anew", lambda topic, data: None, lambda node: None)


def test_a_redis_that_starts_anew_begins_an_epoch(redis: RedisServer, redis_url: str) -> None:
    nodes = Nodes(lambda: RedisAdapter.from_url(redis_url))
    node = nodes.start()
    position = keep(node, "a")
    redis.execute("CONFIG", "SET", "save", "900 1")
    redis.execute("SAVE")
    redis.kill()
    with pytest.raises(NotPublished):
        keep(node, "b")
    redis.start()
    assert wait_until(lambda: answers(lambda: keep(node, "c")), lambda: gevent.sleep(0.01))
    assert node.position(TOPIC, HISTORY).epoch != position.epoch
    assert read(node, position) is None
    nodes.stop()


def test_a_replica_that_takes_over_begins_an_epoch(redis: RedisServer, redis_url: str, tmp_path: Path) -> None:
    master, replica = Nodes(lambda: RedisAdapter.from_url(redis_url)), RedisServer(tmp_path)
    position = keep(master.start(), "a")
    master.stop()
    replica.execute("REPLICAOF", HOST, redis.port)
    assert wait_until(
        lambda: replica.execute("INFO", "replication")["master_link_status"] == "up", lambda: time.sleep(0.01)
    )
    replica.execute("REPLICAOF", "NO", "ONE")
    nodes = Nodes(lambda: RedisAdapter.from_url(f"{replica.url}?{redis_url.partition('?')[2]}"))
    node = nodes.start()
    assert keep(node, "b").epoch != position.epoch
    assert read(node, position) is None
    nodes.stop()
    replica.kill()


def answers(ask: Callable[[], Any]) -> bool:
    """Tell whether something can be done."""
    try:
        ask()
    except NotPublished:
        return False
    return True


def test_in_a_cluster_a_topic_with_no_slot_of_its_own_is_refused(cluster: RedisCluster) -> None:
    nodes = Nodes(lambda: RedisAdapter(cluster.url))
    with pytest.raises(InvalidOption, match="cluster"):
        nodes.start().keep("room:}", HISTORY, entry("a"), "")
    nodes.stop()


def test_a_database_that_another_process_holds_lets_the_event_loop_go_on(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = WorkersAdapter(short_path)
    adapter.start("one", lambda topic, data: None, lambda node: None)
    first, _ = adapter.keep(TOPIC, HISTORY, entry("a"), "")
    other = sqlite3.connect(short_path / HISTORY_FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keeping = [gevent.spawn(adapter.keep, TOPIC, HISTORY, entry("b"), "") for _ in range(3)]
    gevent.sleep(0)
    assert not any(each.ready() for each in keeping)
    other.execute("COMMIT")
    gevent.joinall(keeping, timeout=DEADLINE)
    assert sorted(each.get()[0].offset for each in keeping) == [first.offset + n for n in (1, 2, 3)]
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(archive, "BUSY_TIMEOUT", 0.1)
    with pytest.raises(NotPublished, match="is a worker stopped"):
        adapter.keep(TOPIC, HISTORY, entry("c"), "")
    other.close()
    adapter.stop()
