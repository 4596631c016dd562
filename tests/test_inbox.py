"""When an author's code runs: hand-offs, order, and room."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import getcurrent

from flask_phoenix.runtime.inbox import PARKED, Inbox, Runners
from tests.processes import DEADLINE
from tests.roads import turn


@pytest.fixture
def runners() -> Runners:
    return Runners()


@pytest.fixture
def inbox(runners: Runners) -> Inbox:
    return Inbox(runners)


class Gate:
    """A call that blocks until it is opened."""

    def __init__(self) -> None:
        self.entered, self.gate, self.passed = Event(), Event(), Event()

    def __call__(self, argument: Any = None) -> None:
        self.entered.set()
        assert self.gate.wait(DEADLINE)
        self.passed.set()

    def open(self) -> None:
        """Let the call go on, and wait until it has ended."""
        self.gate.set()
        assert self.passed.wait(DEADLINE)


# The hand-off


def test_a_call_that_never_blocks_costs_no_pass_of_the_loop(inbox: Inbox) -> None:
    log: list[str] = []
    gevent.get_hub().loop.run_callback(log.append, "loop")
    inbox.hand_off(log.append, "call")
    log.append("back")
    assert log == ["call", "back"]
    turn()
    assert log == ["call", "back", "loop"]


def test_a_call_that_blocks_lets_its_caller_go_on(inbox: Inbox) -> None:
    gate = Gate()
    inbox.hand_off(gate, None)
    assert gate.entered.is_set()
    assert not gate.passed.is_set()
    assert inbox.running
    gate.open()
    assert not inbox.running


def test_its_caller_goes_on_before_anything_that_is_due_later(inbox: Inbox) -> None:
    log: list[str] = []
    gate = Gate()

    def call(argument: Any) -> None:
        gevent.get_hub().loop.run_callback(log.append, "later")
        gate(argument)

    inbox.hand_off(call, None)
    log.append("back")
    gate.open()
    turn()
    assert log == ["back", "later"]


def test_a_call_runs_in_a_greenlet_of_its_own(inbox: Inbox) -> None:
    seen: list[Any] = []
    inbox.hand_off(lambda _: seen.append(getcurrent()), None)
    assert seen[0] is not getcurrent()


def test_one_worker_does_what_does_not_block(runners: Runners) -> None:
    seen: list[Any] = []
    for _ in range(10):
        Inbox(runners).hand_off(lambda _: seen.append(getcurrent()), None)
        Inbox(runners).put(lambda _: seen.append(getcurrent()))
        turn()
    assert len(seen) == 20
    assert len(set(seen)) == 1


def test_a_worker_that_blocked_is_used_again(runners: Runners) -> None:
    seen: list[Any] = []
    gate = Gate()

    def call(gate: Gate) -> None:
        seen.append(getcurrent())
        gate()

    Inbox(runners).hand_off(call, gate)
    Inbox(runners).hand_off(lambda _: seen.append(getcurrent()), None)
    gate.open()
    turn()
    for _ in range(2):
        gate = Gate()
        Inbox(runners).hand_off(call, gate)
        gate.open()
        turn()
    assert seen[0] is not seen[1]
    assert set(seen[2:]) <= set(seen[:2])


def test_workers_beyond_the_parking_end(runners: Runners) -> None:
    gates = [Gate() for _ in range(PARKED + 3)]
    seen: list[Any] = []

    def call(gate: Gate) -> None:
        seen.append(getcurrent())
        gate()

    for gate in gates:
        Inbox(runners).hand_off(call, gate)
    for gate in gates:
        gate.open()
    turn()
    assert len(set(seen)) == PARKED + 3
    assert sum(not greenlet.dead for greenlet in seen) == PARKED


def test_a_caller_goes_on_when_its_worker_finds_no_parking(runners: Runners) -> None:
    gates = [Gate() for _ in range(PARKED + 1)]
    log: list[str] = []
    for gate in gates[:-1]:
        Inbox(runners).hand_off(gate, None)

    def fill_the_parking(_: Any) -> None:
        for gate in gates[:-1]:
            gate.open()
        turn()

    def call(_: Any) -> None:
        Inbox(runners).hand_off(fill_the_parking, None)
        log.append("inner")

    Inbox(runners).hand_off(call, None)
    turn()
    assert log == ["inner"]
    Inbox(runners).hand_off(log.append, "next")
    assert log == ["inner", "next"]


def test_a_hand_off_inside_a_hand_off(runners: Runners) -> None:
    log: list[str] = []

    def outer(argument: Any) -> None:
        log.append("outer begins")
        Inbox(runners).hand_off(log.append, "inner")
        log.append("outer ends")

    Inbox(runners).hand_off(outer, None)
    log.append("back")
    assert log == ["outer begins", "inner", "outer ends", "back"]


def test_a_caller_that_is_killed_while_its_call_blocks(inbox: Inbox) -> None:
    gate = Gate()
    log: list[str] = []

    def read() -> None:
        inbox.hand_off(gate, None)
        log.append("back")
        gevent.get_hub().switch()

    reader = gevent.spawn(read)
    assert gate.entered.wait(DEADLINE)
    turn()
    reader.kill()
    gate.open()
    assert (log, reader.dead, inbox.running) == (["back"], True, False)


def test_a_caller_that_is_killed_before_it_comes_back(inbox: Inbox) -> None:
    gate = Gate()
    log: list[str] = []

    def read() -> None:
        inbox.hand_off(strike, None)
        log.append("back")

    def strike(argument: Any) -> None:
        reader.kill(block=False)
        gate(argument)

    reader = gevent.spawn(read)
    assert gate.entered.wait(DEADLINE)
    reader.join(DEADLINE)
    gate.open()
    assert reader.dead
    inbox.hand_off(log.append, "next")
    assert log[-1] == "next"


def test_an_exception_is_reported_and_harms_nobody(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []

    def fail(_: Any) -> None:
        raise RuntimeError("broken")

    inbox.hand_off(fail, None)
    inbox.put(fail)
    turn()
    assert not inbox.running
    inbox.hand_off(log.append, "next")
    assert log == ["next"]
    assert capsys.readouterr().err.count("RuntimeError: broken") == 2


def test_an_exception_behind_a_wait_is_reported_too(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate()

    def fail(_: Any) -> None:
        gate()
        raise RuntimeError("broken")

    inbox.hand_off(fail, None)
    gate.open()
    turn()
    assert "RuntimeError: broken" in capsys.readouterr().err
    assert not inbox.running


# Order


def test_calls_are_done_in_order_and_one_at_a_time(inbox: Inbox) -> None:
    log: list[Any] = []
    gate = Gate()
    inbox.hand_off(gate, None)
    inbox.hand_off(log.append, 1)
    inbox.put(log.append, 2)
    inbox.hand_off(log.append, 3)
    turn()
    assert log == []
    assert len(inbox) == 3
    gate.open()
    turn()
    assert log == [1, 2, 3]
    assert len(inbox) == 0


def test_what_is_put_runs_soon_and_in_order(inbox: Inbox) -> None:
    log: list[Any] = []
    inbox.put(log.append, 1)
    inbox.put(log.append, 2)
    inbox.hand_off(log.append, 3)
    assert log == []
    turn()
    assert log == [1, 2, 3]


def test_a_call_may_queue_another(inbox: Inbox) -> None:
    log: list[Any] = []

    def first(_: Any) -> None:
        inbox.put(log.append, "third")
        inbox.hand_off(log.append, "fourth")
        log.append("first")

    inbox.hand_off(first, None)
    assert log == ["first", "third", "fourth"]


def test_something_is_done_behind_each_call(runners: Runners) -> None:
    log: list[Any] = []
    inbox = Inbox(runners, lambda: log.append("after"))
    inbox.hand_off(log.append, 1)
    inbox.put(log.append, 2)
    inbox.put(log.append, 3)
    turn()
    assert log == [1, "after", 2, "after", 3, "after"]


def test_inboxes_do_not_wait_for_each_other(runners: Runners) -> None:
    log: list[str] = []
    gates = [Gate(), Gate()]
    for gate in gates:
        Inbox(runners).hand_off(gate, None)
    Inbox(runners).hand_off(log.append, "third")
    assert log == ["third"]
    for gate in gates:
        gate.open()


def test_what_waits_can_be_forgotten(inbox: Inbox) -> None:
    log: list[Any] = []
    gate = Gate()
    inbox.hand_off(gate, None)
    inbox.put(log.append, "forgotten")
    inbox.clear()
    inbox.put(log.append, "kept")
    assert len(inbox) == 1
    gate.open()
    turn()
    assert log == ["kept"]
    inbox.clear()
    assert len(inbox) == 0


# Room


def test_waiting_ends_with_the_call_that_runs(inbox: Inbox) -> None:
    log: list[str] = []
    first, second = Gate(), Gate()
    inbox.hand_off(first, None)
    inbox.put(second)

    def wait() -> None:
        inbox.wait()
        log.append("room")

    waiters = [gevent.spawn(wait), gevent.spawn(wait)]
    turn()
    assert log == []
    first.open()
    assert second.entered.wait(DEADLINE)
    gevent.joinall(waiters, DEADLINE)
    assert log == ["room", "room"]
    waiter = gevent.spawn(wait)
    turn()
    second.open()
    waiter.join(DEADLINE)
    assert log == ["room"] * 3


def test_waiting_ends_with_a_call_that_fails(inbox: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate()

    def fail(_: Any) -> None:
        gate()
        raise RuntimeError("broken")

    inbox.hand_off(fail, None)
    waiter = gevent.spawn(inbox.wait)
    turn()
    gate.open()
    waiter.join(DEADLINE)
    assert waiter.successful()
    assert "broken" in capsys.readouterr().err
