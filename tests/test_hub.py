"""When they hear it: the real queue and the real greenlet, with lists as receivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from flask_phoenix.pubsub.hub import STRIDE, Hub, glued, plan
from flask_phoenix.pubsub.local import Delivery
from tests.processes import DEADLINE
from tests.roads import in_thread, turn


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return a hub that runs."""
    hub = Hub()
    hub.start()
    yield hub
    hub.stop()


def stream(data: bytes, receivers: list[Any], key: Any = "room:1") -> Delivery:
    """Make a delivery of bytes of a stream."""
    return Delivery(key, data, receivers, True)


def piece(data: Any, receivers: list[Any], key: Any = "room:1") -> Delivery:
    """Make a delivery that is no stream."""
    return Delivery(key, data, receivers, False)


def fail(data: Any) -> None:
    """Fail to receive."""
    raise RuntimeError("broken")


# Before it starts


def test_a_hub_that_does_not_run_delivers_at_once() -> None:
    hub, heard = Hub(), list[bytes]()
    hub.put(stream(b"a", [heard.append]))
    assert heard == [b"a"]
    assert not hub.owes(heard.append, ["room:1"])
    assert not hub.elsewhere


def test_a_hub_that_does_not_run_delivers_in_any_thread() -> None:
    hub, heard = Hub(), list[bytes]()
    in_thread(hub.put, stream(b"a", [heard.append]))
    assert heard == [b"a"]


def test_it_can_be_started_and_stopped_again_and_again() -> None:
    hub, heard = Hub(), list[bytes]()
    hub.stop()
    runs = []
    for _ in range(2):
        runs.append(hub.running)
        hub.start()
        hub.start()
        runs.append(hub.running)
        hub.put(stream(b"a", [heard.append]))
        turn()
        hub.stop()
    hub.stop()
    assert heard == [b"a", b"a"]
    assert runs == [False, True, False, True]


def test_what_waits_when_it_stops_is_dropped(hub: Hub) -> None:
    heard: list[bytes] = []
    hub.put(stream(b"lost", [heard.append]))
    hub.stop()
    assert not hub.owes(heard.append, ["room:1"])
    hub.start()
    turn()
    assert heard == []


# Bursts


def test_the_burst_that_waits_is_one_write(hub: Hub) -> None:
    writes: dict[str, list[bytes]] = {"ann": [], "bob": []}
    receivers = [writes["ann"].append, writes["bob"].append]
    for data in (b"a", b"b", b"c"):
        hub.put(stream(data, receivers))
    assert writes == {"ann": [], "bob": []}
    turn()
    assert writes == {"ann": [b"abc"], "bob": [b"abc"]}


def test_each_receiver_gets_its_own_share_in_order(hub: Hub) -> None:
    ann, bob, cid = list[bytes](), list[bytes](), list[bytes]()
    hub.put(stream(b"1", [ann.append, bob.append]))
    hub.put(stream(b"2", [bob.append, cid.append], "room:2"))
    hub.put(stream(b"3", [ann.append], "ann"))
    hub.put(stream(b"4", [cid.append, ann.append, bob.append]))
    turn()
    assert (ann, bob, cid) == ([b"134"], [b"124"], [b"24"])


def test_what_is_no_stream_is_not_glued(hub: Hub) -> None:
    heard: list[Any] = []
    for number in range(3):
        hub.put(piece({"n": number}, [heard.append]))
    turn()
    assert heard == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_burst_of_both_kinds(hub: Hub) -> None:
    written, told = list[bytes](), list[Any]()
    hub.put(piece("x", [told.append]))
    hub.put(stream(b"a", [written.append]))
    hub.put(piece("y", [told.append]))
    hub.put(stream(b"b", [written.append]))
    turn()
    assert (written, told) == ([b"ab"], ["x", "y"])


def test_a_plan() -> None:
    ann, bob = ["ann"], ["ann", "bob"]
    batch = [stream(b"1", ann), stream(b"2", ann), piece("x", bob), stream(b"3", bob)]
    assert [(run.data, run.receivers) for run in plan(batch)] == [(b"123", ["ann"]), (b"3", ["bob"]), ("x", bob)]
    assert [(run.data, run.receivers) for run in plan(batch[:2])] == [(b"12", ann)]
    assert list(plan([])) == []


def test_only_neighbours_with_the_very_same_receivers_are_glued() -> None:
    same, alike = ["ann"], ["ann"]
    runs = glued([stream(b"1", same), stream(b"2", same), stream(b"3", alike), stream(b"4", same)])
    assert [run.data for run in runs] == [b"12", b"3", b"4"]


# Order


def test_it_tells_whom_it_owes(hub: Hub) -> None:
    ann, bob = list[bytes](), list[bytes]()
    assert not hub.owes(ann.append, ["room:1"])
    hub.put(stream(b"1", [ann.append]))
    hub.put(stream(b"2", [ann.append]))
    hub.put(stream(b"3", [bob.append], bob.append))
    assert hub.owes(ann.append, ["room:0", "room:1"])
    assert not hub.owes(ann.append, ["room:2"])
    assert hub.owes(bob.append, [])
    turn()
    assert not hub.owes(ann.append, ["room:1"])
    assert not hub.owes(bob.append, [])


def test_a_debt_lasts_until_the_last_receiver_is_served(hub: Hub) -> None:
    heard, crowd = list[bytes](), list[bytes]()
    debts: list[bool] = []
    look = [lambda _: debts.append(hub.owes(None, ["room:1"]))]
    hub.put(stream(b"1", [*[crowd.append] * STRIDE, *look]))
    hub.put(stream(b"2", [heard.append]))
    turn(10)
    assert debts == [True]
    assert not hub.owes(None, ["room:1"])


def test_what_comes_during_a_large_fan_out_waits_behind_it(hub: Hub) -> None:
    heard: list[str] = []
    crowd: list[Callable[[bytes], None]] = [lambda data, n=number: heard.append(f"{n}") for number in range(STRIDE * 3)]  # type: ignore[misc]
    hub.put(stream(b"1", crowd))
    while not heard:
        turn(1)
    assert len(heard) < len(crowd)
    hub.put(stream(b"2", [lambda data: heard.append("late")]))
    turn(10)
    assert heard == [*(f"{number}" for number in range(STRIDE * 3)), "late"]


def test_others_run_during_a_large_fan_out(hub: Hub) -> None:
    served: list[bytes] = []
    seen: list[int] = []

    def watch() -> None:
        for _ in range(12):
            seen.append(len(served))
            turn(1)

    watcher = gevent.spawn(watch)
    hub.put(stream(b"x", [served.append] * STRIDE * 4))
    watcher.join(DEADLINE)
    assert {0, STRIDE, STRIDE * 2, STRIDE * 3, STRIDE * 4} <= set(seen)


def test_before_a_large_fan_out_it_gathers_what_is_on_its_way(hub: Hub) -> None:
    writes: list[bytes] = []
    receivers = [writes.append] * (STRIDE + 1)

    def chatter() -> None:
        for data in (b"2", b"3"):
            hub.put(stream(data, receivers))
            turn(1)

    hub.put(stream(b"1", receivers))
    chatterer = gevent.spawn(chatter)
    chatterer.join(DEADLINE)
    turn(10)
    assert writes == [b"123"] * (STRIDE + 1)


# Failures


def test_one_failing_receiver_harms_nobody(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    ann, bob = list[bytes](), list[bytes]()
    hub.put(stream(b"1", [ann.append, fail, bob.append]))
    turn()
    hub.put(stream(b"2", [ann.append, fail, bob.append]))
    turn()
    assert (ann, bob) == ([b"1", b"2"], [b"1", b"2"])
    assert [record.getMessage().split()[:3] for record in caplog.records] == [["a", "broadcast", "failed"]] * 2
    assert not hub.owes(None, ["room:1"])


# Threads


def test_it_knows_its_thread(hub: Hub) -> None:
    assert not hub.elsewhere
    assert gevent.spawn(lambda: hub.elsewhere).get(timeout=DEADLINE) is False
    assert in_thread(lambda: hub.elsewhere) is True
    assert in_thread(lambda: hub.owes(None, [])) is True


def test_a_call_is_made_in_the_thread_that_delivers(hub: Hub) -> None:
    done, where = Event(), list[bool]()

    def look(mark: str) -> None:
        where.append(hub.elsewhere)
        done.set()

    hub.call(look, "here")
    assert where == [False]
    done.clear()
    in_thread(hub.call, look, "there")
    assert done.wait(DEADLINE)
    assert where == [False, False]


def test_deliveries_from_a_thread_of_the_pool_keep_their_order(hub: Hub) -> None:
    heard, done = list[bytes](), Event()

    def talk() -> None:
        for number in range(100):
            hub.put(stream(b"%d," % number, [heard.append]))
        hub.put(piece(None, [lambda _: done.set()]))

    in_thread(talk)
    assert done.wait(DEADLINE)
    assert b"".join(heard) == b"".join(b"%d," % number for number in range(100))


def test_a_delivery_from_a_thread_that_gevent_does_not_know(hub: Hub) -> None:
    heard, done = list[bytes](), Event()

    def talk() -> None:
        hub.put(stream(b"a", [heard.append]))
        hub.put(piece(None, [lambda _: done.set()]))

    start_thread = monkey.get_original("_thread", "start_new_thread")
    start_thread(talk, ())
    assert done.wait(DEADLINE)
    assert heard == [b"a"]


# The end of a turn


def test_one_failing_call_at_the_end_of_a_turn_harms_nobody(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []

    def broken() -> None:
        raise RuntimeError("broken")

    for call in (lambda: log.append("first"), broken, lambda: log.append("last")):
        hub.at_end_of_turn(call)
    turn()
    assert log == ["first", "last"]
    hub.at_end_of_turn(broken)
    hub.put(piece("data", [log.append]))
    turn()
    hub.at_end_of_turn(lambda: log.append("still here"))
    hub.put(piece("more", [log.append]))
    turn()
    assert log == ["first", "last", "data", "still here", "more"]
    assert ["failed at the end of a turn" in record.getMessage() for record in caplog.records] == [True, True]
