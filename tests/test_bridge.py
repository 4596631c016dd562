"""Between the event loop and threads: calls, events, and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix.pubsub.hub import thread_id
from flask_phoenix.pubsub.redis.threads import STRIDE, Bridge
from tests.processes import DEADLINE


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    bridge = Bridge()
    yield bridge
    bridge.close(DEADLINE)


def test_a_thread_has_something_called_here_in_order(bridge: Bridge) -> None:
    called: Queue[tuple[int, int]] = Queue()

    def call() -> None:
        for number in range(10 * STRIDE):
            bridge.call(lambda number: called.put((number, thread_id())), number)

    assert bridge.spawn(call).wait(DEADLINE)
    here = thread_id()
    assert [called.get(timeout=DEADLINE) for _ in range(10 * STRIDE)] == [(n, here) for n in range(10 * STRIDE)]
    assert len(bridge) == 0


def test_others_run_during_many_calls(bridge: Bridge) -> None:
    order: list[str] = []
    done = Event()
    bridge.call(gevent.spawn, order.append, "other")
    for _ in range(3 * STRIDE):
        bridge.call(order.append, "call")
    bridge.call(done.set)
    assert done.wait(DEADLINE)
    assert 0 < order.index("other") < 3 * STRIDE


def test_a_call_that_fails_is_nobody_elses(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    done = Event()
    bridge.call(int, "x")
    bridge.call(done.set)
    assert done.wait(DEADLINE)
    assert "a call from another thread failed" in caplog.text


def test_a_thread_waits_while_greenlets_run(bridge: Bridge) -> None:
    work, order = threading.Event(), []

    def wait() -> None:
        work.wait()
        order.append("thread")

    end = bridge.spawn(wait)
    gevent.sleep(0)
    order.append("greenlet")
    bridge.set(work)
    assert end.wait(DEADLINE)
    assert order == ["greenlet", "thread"]


def test_the_end_of_a_thread_that_fails_is_told(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(failure.exc_type))

    def fail() -> None:
        raise ValueError

    assert bridge.spawn(fail).wait(DEADLINE)
    bridge.close(DEADLINE)
    assert failures == [ValueError]


def test_closing_waits_for_the_threads(bridge: Bridge) -> None:
    work = threading.Event()
    before = threading.active_count()

    def wait() -> None:
        work.wait()

    bridge.spawn(wait)
    gevent.spawn(bridge.set, work)
    bridge.close(DEADLINE)
    assert threading.active_count() == before
