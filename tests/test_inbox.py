"""Inboxes and runners: when an author's callbacks run, in which order, and who waits for them."""

from __future__ import annotations

from asyncio import CancelledError
from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import getcurrent

from flask_phoenix.runtime.inbox import Inbox
from flask_phoenix.runtime.runners import IDLE_RUNNERS, Runners
from tests.support.loop import turn
from tests.support.processes import DEADLINE


@pytest.fixture
def runners() -> Runners:
    return Runners()


@pytest.fixture
def inbox(runners: Runners) -> Inbox:
    return Inbox(runners)


class Gate:
    """A call that blocks until it is opened."""

    def __init__(self) -> None:
        self.gate = Event()

    def __call__(self, argument: Any = None) -> None:
        assert self.gate.wait(DEADLINE)

    def open(self) -> None:
        """Let the call go on to its end."""
        self.gate.set()
        turn()


# The hand-off


def test_a_call_that_does_not_block_ends_before_anything_else_runs(inbox: Inbox) -> None:
    log: list[Any] = []
    gevent.get_hub().loop.run_callback(log.append, "loop")
    inbox.hand_off(lambda _: log.append(getcurrent()), None)
    log.append("back")
    turn()
    assert log[0] is not getcurrent()
    assert log[1:] == ["back", "loop"]


def test_a_call_that_blocks_lets_its_caller_go_on_at_once(inbox: Inbox) -> None:
    log: list[str] = []
    gate = Gate()

    def call(argument: Any) -> None:
        gevent.get_hub().loop.run_callback(log.append, "later")
        gate(argument)
        log.append("ended")

    inbox.hand_off(call, None)
    log.append("back")
    assert inbox.running
    gate.open()
    assert log == ["back", "later", "ended"]
    assert not inbox.running


def test_a_hand_off_inside_a_hand_off(runners: Runners) -> None:
    log: list[str] = []

    def outer(_: Any) -> None:
        Inbox(runners).hand_off(log.append, "inner")
        log.append("outer")

    Inbox(runners).hand_off(outer, None)
    assert log == ["inner", "outer"]


@pytest.mark.parametrize("before", [True, False])
def test_a_caller_may_be_killed_while_its_call_blocks(inbox: Inbox, before: bool) -> None:
    gate = Gate()
    log: list[str] = []

    def call(_: Any) -> None:
        if before:
            reader.kill(block=False)
        gate()
        log.append("ended")

    def read() -> None:
        inbox.hand_off(call, None)
        log.append("back")
        gate()

    reader = gevent.spawn(read)
    turn()
    reader.kill()
    gate.open()
    inbox.hand_off(log.append, "next")
    assert (log[-2:], reader.dead, inbox.running) == (["ended", "next"], True, False)


# Runners


def test_one_runner_is_enough_until_a_call_blocks(runners: Runners) -> None:
    seen: list[Any] = []
    for _ in range(10):
        Inbox(runners).hand_off(lambda _: seen.append(getcurrent()), None)
        Inbox(runners).put(lambda _: seen.append(getcurrent()))
        turn()
    assert (len(seen), len(set(seen)), runners.busy) == (20, 1, 0)
    gates = [Gate(), Gate()]
    for gate in gates:
        Inbox(runners).hand_off(gate, None)
    Inbox(runners).hand_off(lambda _: seen.append("a third inbox does not wait"), None)
    assert (runners.busy, len(seen)) == (2, 21)
    for gate in gates:
        gate.open()
    assert runners.busy == 0
    runners.close()
    assert runners.busy == 0


def test_idle_runners_are_kept_up_to_a_limit(runners: Runners) -> None:
    gates = [Gate() for _ in range(IDLE_RUNNERS + 3)]
    seen: list[Any] = []

    def call(gate: Gate) -> None:
        seen.append(getcurrent())
        gate()

    for gate in gates:
        Inbox(runners).hand_off(call, gate)
    for gate in gates:
        gate.open()
    assert len(set(seen)) == IDLE_RUNNERS + 3
    assert sum(not each.dead for each in seen) == IDLE_RUNNERS


def test_a_caller_goes_on_when_its_runner_is_not_kept(runners: Runners) -> None:
    gates = [Gate() for _ in range(IDLE_RUNNERS + 1)]
    log: list[str] = []
    for gate in gates[:-1]:
        Inbox(runners).hand_off(gate, None)

    def fill(_: Any) -> None:
        for gate in gates[:-1]:
            gate.open()

    def call(_: Any) -> None:
        Inbox(runners).hand_off(fill, None)
        log.append("inner")

    Inbox(runners).hand_off(call, None)
    turn()
    Inbox(runners).hand_off(log.append, "next")
    assert log == ["inner", "next"]


@pytest.mark.parametrize("error", [RuntimeError, CancelledError, gevent.Timeout])
def test_a_call_that_fails_is_logged_and_what_waits_goes_on(
    runners: Runners, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    log: list[str] = []
    gate = Gate()

    def fail(_: Any = None) -> None:
        if "after" in log:
            raise error("on purpose")

    inbox = Inbox(runners)
    inbox.hand_off(gate, None)
    for _ in range(3):
        inbox.put(log.append, "after")
        inbox.put(fail)
    gate.open()
    assert (log, inbox.running, runners.busy) == (["after"] * 3, False, 0)
    inbox.hand_off(log.append, "next")
    assert log[-1] == "next"
    assert {record.name for record in caplog.records} == {"flask_phoenix.channel"}
    runners.take().spawn(fail, None)
    turn()
    assert runners.busy == 0


def test_a_runner_that_is_killed_is_no_longer_counted(runners: Runners) -> None:
    log: list[str] = []
    inbox = Inbox(runners)
    runner = runners.take()
    runner.hand_off(lambda _: gevent.get_hub().switch(), None)
    assert runners.busy == 1
    gevent.get_hub().loop.run_callback(runner.greenlet.throw, gevent.GreenletExit)
    turn()
    assert runners.busy == 0
    inbox.hand_off(log.append, "next")
    assert log == ["next"]


def test_a_call_that_asks_for_the_end_of_the_process_is_heard_in_the_main_greenlet(inbox: Inbox) -> None:
    def leave(_: Any) -> None:
        raise KeyboardInterrupt

    inbox.put(leave)
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(DEADLINE)
    assert not inbox.running


# Order


def test_calls_run_one_at_a_time_and_in_order(runners: Runners) -> None:
    log: list[Any] = []
    inbox = Inbox(runners)
    gate = Gate()
    inbox.hand_off(gate, None)
    inbox.hand_off(log.append, 1)
    inbox.put(log.append, 2)
    inbox.put(lambda _: inbox.hand_off(log.append, 4))
    inbox.hand_off(log.append, 3)
    inbox.put_next(log.append, 0)
    turn()
    assert (log, len(inbox)) == ([], 5)
    gate.open()
    assert log == [0, 1, 2, 3, 4]
    inbox.put_next(log.append, 5)
    turn()
    assert log[5:] == [5]
    assert len(inbox) == 0


def test_what_is_put_runs_soon(inbox: Inbox) -> None:
    log: list[Any] = []
    inbox.put(log.append, 1)
    inbox.hand_off(log.append, 2)
    assert log == []
    turn()
    assert log == [1, 2]


def test_what_waits_can_be_dropped(inbox: Inbox) -> None:
    log: list[Any] = []
    gate = Gate()
    inbox.clear()
    inbox.hand_off(gate, None)
    inbox.put(log.append, "dropped")
    inbox.clear()
    inbox.put(log.append, "kept")
    gate.open()
    assert log == ["kept"]


# Room


@pytest.mark.parametrize("dropped", [True, False])
def test_waiting_ends_with_the_call_that_runs(inbox: Inbox, dropped: bool) -> None:
    gates = [Gate(), Gate()]
    for gate in gates:
        inbox.put(gate)
    for gate in gates:
        waiters = [gevent.spawn(inbox.wait), gevent.spawn(inbox.wait)]
        turn()
        assert not any(waiter.dead for waiter in waiters)
        if dropped:
            inbox.clear()
        else:
            gate.open()
        gevent.joinall(waiters, DEADLINE, raise_error=True)
        assert all(waiter.dead for waiter in waiters)
    gates[0].open()
