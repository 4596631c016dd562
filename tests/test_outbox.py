"""The way out, over real socket pairs: at once, in order, within bounds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
from gevent import socket
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_phoenix.transports.outbox import Outbox, write_each
from tests.processes import DEADLINE
from tests.wire import Wire, fill, tls_pair

LIMIT = 1 << 20


class Pair(NamedTuple):
    """The two ends of a stream."""

    ours: Any
    theirs: Wire


def never() -> None:
    pytest.fail("an overflow where everything fits")


@contextmanager
def connected() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Pair(ours, Wire(theirs))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connected() as pair:
        yield pair


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Pair]:
    ours, theirs = tls_pair(tmp_path)
    with ours, theirs:
        yield Pair(ours, Wire(theirs))


def test_writes_at_once(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    outbox.write(b"hello")
    pair.theirs.sock.settimeout(0.0)  # nobody else has run since
    assert pair.theirs.take(5) == b"hello"


def test_nothing_to_wait_for(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    outbox.join()
    outbox.write(b"hello")
    outbox.join()
    assert not outbox.shut


def test_what_the_kernel_refuses_waits(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    filled = fill(pair.ours)
    outbox.write(b"first")
    outbox.write(b"second")
    assert pair.theirs.take(filled) == b"-" * filled
    assert pair.theirs.take(11) == b"firstsecond"
    outbox.join()


def test_half_of_a_write_waits(pair: Pair) -> None:
    large = random.Random(1).randbytes(3 * LIMIT)
    outbox = Outbox(pair.ours, 4 * LIMIT, never)
    outbox.write(large)
    outbox.write(b"behind")
    assert pair.theirs.take(len(large)) == large
    assert pair.theirs.take(6) == b"behind"


def test_writes_at_once_again_when_nothing_waits(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    filled = fill(pair.ours)
    outbox.write(b"waits")
    pair.theirs.take(filled + 5)
    outbox.join()
    outbox.write(b"at once")
    pair.theirs.sock.settimeout(0.0)
    assert pair.theirs.take(7) == b"at once"


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 400_000), max_size=10), st.integers())
def test_order_is_kept(sizes: list[int], seed: int) -> None:
    dice = random.Random(seed)
    with connected() as pair:
        outbox, wire = Outbox(pair.ours, 10 * LIMIT, never), pair.theirs
        pieces = [dice.randbytes(size) for size in sizes]
        whole = b"".join(pieces)
        reader = gevent.spawn(wire.take, len(whole))
        for piece in pieces:
            outbox.write(piece)
            if dice.random() < 0.3:
                gevent.idle()
        assert reader.get(timeout=DEADLINE) == whole


def test_one_message_may_be_larger_than_the_bound(pair: Pair) -> None:
    outbox = Outbox(pair.ours, 1000, never)
    filled = fill(pair.ours)
    outbox.write(b"x" * 5000)
    assert pair.theirs.take(filled + 5000)[-5000:] == b"x" * 5000


def test_bound(pair: Pair) -> None:
    overflows: list[int] = []
    outbox = Outbox(pair.ours, 1000, lambda: overflows.append(1))
    filled = fill(pair.ours)
    outbox.write(b"x" * 600)
    outbox.write(b"x" * 400)
    assert not overflows
    outbox.write(b"y")
    assert overflows == [1]
    # Nothing is dropped in silence: whoever is told decides.
    assert pair.theirs.take(filled + 1001).endswith(b"x" * 1000 + b"y")
    outbox.join()


def test_what_was_taken_counts_no_more(pair: Pair) -> None:
    outbox = Outbox(pair.ours, 1000, never)
    for _ in range(3):
        filled = fill(pair.ours)
        outbox.write(b"x" * 1000)
        pair.theirs.take(filled + 1000)
        outbox.join()


def test_overflow_may_write_a_last_word(pair: Pair) -> None:
    def overflow() -> None:
        outbox.write(b"last word")
        outbox.close()

    outbox = Outbox(pair.ours, 10, overflow)
    filled = fill(pair.ours)
    outbox.write(b"x" * 11)
    outbox.write(b"never sent")
    assert outbox.shut
    assert pair.theirs.take(filled + 20).endswith(b"x" * 11 + b"last word")
    outbox.join()
    assert outbox.shut
    pair.ours.shutdown(socket.SHUT_WR)
    pair.theirs.ended()


def test_closed_outbox_takes_nothing(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    outbox.close()
    outbox.write(b"late")
    pair.ours.shutdown(socket.SHUT_WR)
    pair.theirs.ended()


def test_closed_outbox_still_writes_what_waits(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    filled = fill(pair.ours)
    outbox.write(b"waits")
    outbox.close()
    outbox.write(b"late")
    assert pair.theirs.take(filled + 5).endswith(b"waits")
    outbox.join()
    pair.ours.shutdown(socket.SHUT_WR)
    pair.theirs.ended()


def test_many_at_once() -> None:
    """One that is full, one that is broken and one that is closed are nobody else's business."""
    overflows: list[str] = []
    with ExitStack() as stack:
        pairs = {name: stack.enter_context(connected()) for name in ("first", "full", "broken", "closed", "last")}
        outboxes = {name: Outbox(pair.ours, 3, lambda: overflows.append("full")) for name, pair in pairs.items()}
        wires = {name: pair.theirs for name, pair in pairs.items()}
        filled = fill(pairs["full"].ours)
        wires["broken"].sock.close()
        outboxes["closed"].close()
        for data in (b"one", b"two"):
            write_each(outboxes.values(), data)
        assert overflows == ["full"]
        assert [wires[name].take(6) for name in ("first", "last")] == [b"onetwo"] * 2
        assert wires["full"].take(filled + 6).endswith(b"onetwo")
        outboxes["full"].join()
        assert [name for name, outbox in outboxes.items() if outbox.shut] == ["broken", "closed"]


def test_broken_socket(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    pair.theirs.sock.close()
    outbox.write(b"into the void")
    assert outbox.shut
    outbox.write(b"more of it")


def test_socket_that_breaks_while_something_waits(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    fill(pair.ours)
    outbox.write(b"waits")
    pair.theirs.sock.close()
    outbox.join()
    assert outbox.shut


def test_closed_socket(pair: Pair) -> None:
    outbox = Outbox(pair.ours, LIMIT, never)
    pair.ours.close()
    outbox.write(b"late")
    assert outbox.shut


def test_tls_goes_through_the_queue(tls: Pair) -> None:
    outbox = Outbox(tls.ours, 4 * LIMIT, never)
    large = random.Random(2).randbytes(2 * LIMIT)
    outbox.write(b"before")
    outbox.write(large)
    outbox.write(b"behind")
    assert tls.theirs.take(6) == b"before"
    assert tls.theirs.take(len(large)) == large
    assert tls.theirs.take(6) == b"behind"
    outbox.join()


def test_tls_is_bounded(tls: Pair) -> None:
    overflows: list[int] = []
    outbox = Outbox(tls.ours, LIMIT, lambda: overflows.append(1))
    outbox.write(b"x" * LIMIT)
    assert not overflows
    outbox.write(b"x")
    assert overflows == [1]
    assert len(tls.theirs.take(LIMIT + 1)) == LIMIT + 1
    outbox.join()
