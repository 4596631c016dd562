"""Another worker, and the lines to it: real sockets, on both ends of which this process sits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import socket
from gevent.queue import Queue

from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.pubsub.unix.meeting import DATA, YES, Frame, encode
from flask_phoenix.pubsub.unix.peer import MANY, Line, Peer, listen
from tests.contract import LARGE
from tests.processes import DEADLINE

LIMIT = 1024 * 1024


class Ends:
    """Both ends of a line; the far one is read from the first time that something is taken there."""

    def __init__(self) -> None:
        near, far = socket.socketpair()
        self.near, self.far = Line(near, LIMIT), Line(far, LIMIT)
        self._taken: Queue[Frame] = Queue()
        self.near_reader = gevent.spawn(list, self.near.read())
        self._far_reader: gevent.Greenlet[[], None] | None = None

    def take(self, number: int) -> list[Frame]:
        """Take so many frames at the far end."""
        if self._far_reader is None:
            self._far_reader = gevent.spawn(self._read)
        return [self._taken.get(timeout=DEADLINE) for _ in range(number)]

    def close(self) -> None:
        self.take(0)
        self.near.close()
        self.near_reader.join(DEADLINE)
        if self._far_reader is not None:
            self._far_reader.join(DEADLINE)

    def _read(self) -> None:
        for frames in self.far.read():
            for frame in frames:
                self._taken.put(frame)


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    gevent.sleep(0)
    yield ends
    ends.close()


def data(number: int) -> bytes:
    return encode(DATA, "t", b"%d" % number)


def test_frames_of_one_turn_go_together(ends: Ends) -> None:
    for number in range(3):
        assert ends.near.send(data(number))
    assert len(ends.near.waiting) == 3
    gevent.sleep(0)
    assert len(ends.near.waiting) == 0
    assert ends.take(3) == [(DATA, "t", b"%d" % number) for number in range(3)]


def test_many_frames_go_in_order(ends: Ends) -> None:
    sizes = [0, 300_000]
    frames = [encode(DATA, "t", LARGE[:size]) for size in sizes]
    for frame in frames:
        ends.near.send(frame)
    for number in range(3 * MANY):
        ends.near.send(data(number))
    taken = ends.take(3 * MANY + 2)
    assert [len(content) for _, _, content in taken[:2]] == sizes[:2]
    assert [content for _, _, content in taken[2:]] == [b"%d" % number for number in range(3 * MANY)]


def test_a_large_frame_passes_in_pieces(ends: Ends) -> None:
    assert ends.near.send(encode(DATA, "t", LARGE))
    assert not ends.near.send(data(1))  # so much waits already
    assert ends.take(1) == [(DATA, "t", LARGE)]
    assert not ends.near.waiting


def test_a_line_has_an_end(ends: Ends) -> None:
    ends.far.close()
    ends.far.close()
    ends.near_reader.join(DEADLINE)
    assert ends.near_reader.value == []
    ends.near.send(data(1))
    gevent.sleep(0)
    assert len(ends.near.waiting) == 1


def test_a_write_finds_out_that_the_other_side_has_gone(ends: Ends) -> None:
    ends.far.close()
    ends.near.send(data(1))
    ends.near_reader.join(DEADLINE)
    assert len(ends.near.waiting) == 1


# The other worker


@pytest.fixture
def peer() -> Peer:
    return Peer("next door")


def test_what_is_published_is_held_until_it_has_said_what_it_wants(peer: Peer, ends: Ends) -> None:
    for number in range(4):
        assert peer.send("t" if number % 2 else "u", data(number), LIMIT)
    assert peer.owed == 4
    peer.greet(ends.near, {"t"})
    assert peer.owed == 2
    assert [content for _, _, content in ends.take(2)] == [b"1", b"3"]
    assert peer.owed == 0


def test_it_is_held_within_bounds(peer: Peer, ends: Ends) -> None:
    assert peer.send("t", encode(DATA, "t", LARGE), LIMIT)
    assert not peer.send("t", data(1), LIMIT)
    peer.greet(ends.near, set())
    assert peer.send("t", data(2), LIMIT)
    assert ends.take(1) == [(DATA, "t", b"2")]


def test_messages_that_are_lost_with_a_line_are_counted(peer: Peer, ends: Ends) -> None:
    peer.greet(ends.near, {"t"})
    ends.near.send(encode(DATA, "t", LARGE))
    gevent.sleep(0)
    ends.near.send(encode(YES, data=b"1"))
    assert peer.hang_up() == 1
    assert peer.hang_up() == 0
    assert not peer.send("t", data(2), LIMIT)
    assert peer.owed == 0


def test_confirmations(peer: Peer, ends: Ends) -> None:
    peer.ask(b"nobody to tell")
    peer.incoming = ends.near
    peer.ask(data(1))
    assert ends.take(1) == [(DATA, "t", b"1")]
    events = [peer.confirmation(number) for number in (1, 2, 3, 4)]
    peer.late = True
    peer.confirm(2)
    assert [event.is_set() for event in events] == [True, True, False, False]
    assert not peer.late
    peer.confirm(None)
    assert all(event.is_set() for event in events)


def test_one_that_is_told_too_much_is_dialed_anew(peer: Peer, ends: Ends) -> None:
    peer.incoming = ends.near
    peer.ask(encode(DATA, "t", LARGE))
    peer.ask(data(1))
    ends.near_reader.join(DEADLINE)
    assert ends.near_reader.ready()


# Listening


def test_a_socket_can_be_dialed_as_soon_as_it_is_seen(short_path: Path) -> None:
    listener = listen(short_path / "workers", "node")
    assert [path.name for path in (short_path / "workers").iterdir()] == ["node.sock"]
    with socket.socket(socket.AF_UNIX) as dialing:
        dialing.connect(str(short_path / "workers" / "node.sock"))
    listener.close()


def test_where_no_socket_can_be(short_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"AF_UNIX path too long.*workers:///run/myapp"):
        listen(short_path, "x" * 200)
    short_path.chmod(0o700)
    (short_path / "node.sock").mkdir()
    with pytest.raises(InvalidOption, match=r"no socket can be made at .*node\.sock.*workers:///run/myapp"):
        listen(short_path, "node")
