"""Between the event loop and threads: calls, events, and the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event
from gevent.queue import Queue

from flask_phoenix.pubsub.hub import thread_id
from flask_phoenix.pubsub.redis.threads import STRIDE, Threads
from tests.processes import DEADLINE


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close(DEADLINE)


def test_a_thread_has_something_called_here_in_order(threads: Threads) -> None:
    called: Queue[tuple[int, int]] = Queue()

    def call() -> None:
        for number in range(10 * STRIDE):
            threads.call(lambda number: called.put((number, thread_id())), number)

    assert threads.spawn(call).wait(DEADLINE)
    here = thread_id()
    assert [called.get(timeout=DEADLINE) for _ in range(10 * STRIDE)] == [(n, here) for n in range(10 * STRIDE)]
    assert len(threads) == 0


def test_others_run_during_many_calls(threads: Threads) -> None:
    order: list[str] = []
    done = Event()
    threads.call(gevent.spawn, order.append, "other")
    for _ in range(3 * STRIDE):
        threads.call(order.append, "call")
    threads.call(done.set)
    assert done.wait(DEADLINE)
    assert 0 < order.index("other") < 3 * STRIDE


def test_a_call_that_fails_is_nobody_elses(threads: Threads, caplog: pytest.LogCaptureFixture) -> None:
    done = Event()
    threads.call(int, "x")
    threads.call(done.set)
    assert done.wait(DEADLINE)
    assert "a call from another thread failed" in caplog.text


def test_a_thread_waits_while_greenlets_run(threads: Threads) -> None:
    work, order = threading.Event(), []

    def wait() -> None:
        work.wait()
        order.append("thread")

    end = threads.spawn(wait)
    gevent.sleep(0)
    order.append("greenlet")
    threads.set(work)
    assert end.wait(DEADLINE)
    assert order == ["greenlet", "thread"]


def test_the_end_of_a_thread_that_fails_is_told(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda failure: failures.append(failure.exc_type))

    def fail() -> None:
        raise ValueError

    assert threads.spawn(fail).wait(DEADLINE)
    threads.close(DEADLINE)
    assert failures == [ValueError]


def test_closing_waits_for_the_threads(threads: Threads) -> None:
    work = threading.Event()
    before = threading.active_count()

    def wait() -> None:
        work.wait()

    threads.spawn(wait)
    gevent.spawn(threads.set, work)
    threads.close(DEADLINE)
    assert threading.active_count() == before
