"""Another worker of this host, and the two lines to and from it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import gevent
from gevent import monkey, socket
from gevent.event import Event

from ...exceptions import InvalidOption
from .directory import REMEDY, make_private, path_of
from .frames import PUBLISH, FrameDecoder, PeerFrame

#: Sockets of the system: nothing that gevent would wait for.
socketpair = monkey.get_original("_socket", "socketpair")

#: Bytes that are read at once, and frames that are written at once.
READ_SIZE = 64 * 1024
WRITE_FRAMES = 1000

#: Connections that may wait to be accepted.
BACKLOG = 1024

#: What libev calls the two things to wait for.
READ, WRITE = 1, 2


def listen(directory: Path, node: str) -> Any:
    """Make the socket of a worker: from the moment that it is seen, others can connect.

    :raises InvalidOption: it cannot be made.
    """
    path, early = path_of(directory, node), path_of(directory, node).with_suffix(".soon")
    for attempt in (1, 2, 3):
        make_private(directory)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(early))
            sock.listen(BACKLOG)
            early.rename(path)
            return sock
        except OSError as error:
            sock.close()
            # Another server may just have taken the directory, still empty, for one that is left over.
            if not isinstance(error, FileNotFoundError) or attempt == 3:
                raise InvalidOption(f"no socket can be made at {path}: {error}; {REMEDY}") from error


class Line:
    """A connection to another worker: frames in, and frames out, those of one turn of the event loop in one write."""

    def __init__(self, sock: Any, limit: int) -> None:
        self._sock = sock
        self._limit = limit
        self._loop: Any = gevent.get_hub().loop
        self._writable = self._loop.io(sock.fileno(), WRITE)
        self._due = False
        self._watching = False
        self._size = 0
        self._open = True
        #: What the kernel has not taken yet.
        self.waiting: deque[bytes | memoryview] = deque()

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False when too much waits already. Never blocks."""
        if self._size >= self._limit:
            return False
        self.waiting.append(frame)
        self._size += len(frame)
        if not self._due:
            self._due = True
            self._loop.run_callback(self._flush)
        return True

    def read(self) -> Iterator[list[PeerFrame]]:
        """Yield the frames that come, until either side ends; then the line is closed."""
        hub, decoder = gevent.get_hub(), FrameDecoder()
        readable = self._loop.io(self._sock.fileno(), READ)
        try:
            while True:
                # Even when there is something to read: others have their turn.
                hub.wait(readable)
                data = self._sock.recv(READ_SIZE)
                if not data:
                    return
                yield decoder.feed(data)
        except OSError:
            return
        finally:
            self._open = False
            readable.close()
            self._writable.close()
            self._sock.close()

    def close(self) -> None:
        """End; whoever reads, here and there, comes to the end too."""
        if self._open:
            self._open = False
            self._writable.stop()
            with suppress(OSError):  # the other side was first
                self._sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """Let the connection go without a word to anybody, in a process that has got it by a fork."""
        abandon(self._sock)

    def _flush(self) -> None:
        if not self._open:
            return
        try:
            # The system call itself: gevent's socket would wait.
            sent = self._sock._sock.sendmsg(list(islice(self.waiting, WRITE_FRAMES))) if self.waiting else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._size -= sent
        while sent > 0:
            sent -= len(self.waiting[0])
            if sent >= 0:
                self.waiting.popleft()
        if sent < 0:
            self.waiting[0] = memoryview(self.waiting[0])[sent:]
        self._watch(bool(self.waiting))

    def _watch(self, due: bool) -> None:
        """Write on when the kernel takes more, or wait for the next frame."""
        self._due = due
        if due and not self._watching:
            self._writable.start(self._flush)
        elif self._watching and not due:
            self._writable.stop()
        self._watching = due


class Peer:
    """Another worker, as this one knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: It has answered, or asked.
        self.seen = False
        #: The line that this worker has opened, on which it hears the peer.
        self.incoming: Line | None = None
        #: The line that the peer has opened, on which it hears this worker.
        self.outgoing: Line | None = None
        #: The topics that it wants; None until it has said so.
        self.topics: set[str] | None = None
        #: It has been heard on a line that has ended.
        self.broken = False
        #: It has been given up for now: it took nothing for too long.
        self.stuck = False
        #: Messages that it has missed, if it lives.
        self.missed = 0
        #: It does not confirm topics in time; nobody waits for it any more until it does.
        self.late = False
        self._held: list[tuple[str, bytes]] = []
        self._held_size = 0
        self._unconfirmed: deque[tuple[int, Event]] = deque()

    @property
    def waiting(self) -> int:
        """How many frames wait for it."""
        return len(self._held) + (len(self.outgoing.waiting) if self.outgoing is not None else 0)

    def publish(self, topic: str, frame: bytes, limit: int) -> bool:
        """Queue a frame, until it has said what it wants; False when too much waits, or there is no line."""
        if self.topics is None:
            if self._held_size >= limit:
                return False
            self._held.append((topic, frame))
            self._held_size += len(frame)
            return True
        return self.outgoing is not None and self.outgoing.send(frame)

    def greet(self, line: Line, topics: set[str]) -> None:
        """Take what it wants, and the line on which it wants it."""
        self.seen, self.stuck, self.outgoing, self.topics = True, False, line, topics
        for topic, frame in self._held:
            if topic in topics:
                line.send(frame)
        self._held, self._held_size = [], 0

    def close_outgoing(self) -> int:
        """Close the line on which it hears this worker; return how many messages are lost with it."""
        line, self.outgoing = self.outgoing, None
        if line is None:
            return 0
        line.close()
        return sum(isinstance(frame, memoryview) or frame[0] == PUBLISH for frame in line.waiting)

    def ask(self, frames: bytes) -> None:
        """Tell it what is wanted; while there is no line, that waits for the next one, which begins with all of it."""
        if self.incoming is not None and not self.incoming.send(frames):
            self.incoming.close()

    def confirmation(self, number: int) -> Event:
        """Return what is set when it has confirmed all up to a number, or has ended."""
        event = Event()
        self._unconfirmed.append((number, event))
        return event

    def confirm(self, number: int | None) -> None:
        """Take its confirmation of all up to a number; None stands for its end."""
        self.late = False
        while self._unconfirmed and (number is None or self._unconfirmed[0][0] <= number):
            self._unconfirmed.popleft()[1].set()

    def give_up(self) -> None:
        """Let nobody wait for its confirmations any more, until it gives one."""
        self.confirm(None)
        self.late = True


def abandon(sock: Any) -> None:
    """Let a gevent socket go, in a process that has got it by a fork.

    The descriptor stays open, on a connection that has ended: the event loop of this process still watches it.
    """
    ours, theirs = socketpair()
    os.dup2(ours.fileno(), sock._sock.fileno())
    ours.close()
    theirs.close()
