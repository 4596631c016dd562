"""Broadcasts over Unix sockets: the adapter between the workers of one host, and the way in from outside.

Every worker listens in one directory and dials all the others: on the line that it has dialed it says which topics it
wants, and gets what that other worker publishes on them. So there are two lines for each pair, and nobody has to agree
with anybody on who dials. A newcomer listens first and looks around then: of any two, one finds the other there, and
whoever is greeted dials back. Until the other has said what it wants, all that is published is held for it. A line that
ends is dialed again; whoever refuses is dead, for no name is used twice.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from ...exceptions import NotPublished
from ..adapter import Adapter, Publisher
from ..hub import thread_id
from .meeting import (
    ASK,
    DATA,
    HELLO,
    UNWANT,
    WANT,
    YES,
    WorkersPublisher,
    directory_of_url,
    encode,
    leave,
    nodes_in,
    path_of,
    remove_leftovers,
)
from .peer import Line, Neighbour, listen

log = logging.getLogger(__name__)

#: Bytes that may wait for one worker.
LIMIT = 64 * 1024 * 1024
#: Seconds that a worker may take to confirm a topic: what it publishes later, before it does, is missed.
PATIENCE = 2.0
#: Seconds in which what was published last goes out when a worker stops.
GRACE = 1.0
#: Seconds until a worker that cannot be dialed, or does not answer, is tried again.
RETRY = 0.02


class WorkersAdapter(Adapter):
    """Carries broadcasts between the workers of one host, without any other service.

    A worker that takes nothing, because it is stopped or never yields, delays nobody: when more than ``limit`` bytes
    wait for it, all that waits is given up, counted in ``unpublished`` and logged, and so is what follows until it has
    dialed anew. Both sides know then that something was lost.

    :param directory: where they meet, or what returns that when the adapter starts.
    :param limit: bytes that may wait for one worker when more comes; one message may be larger.
    """

    def __init__(self, directory: str | Path | Callable[[], Path], limit: int = LIMIT) -> None:
        self._where = directory
        self._limit = limit
        self._running = False
        self._topics: set[str] = set()
        self._asked = 0
        self._neighbours: dict[str, Neighbour] = {}
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()

    @classmethod
    def from_url(cls, url: str) -> WorkersAdapter:
        """Make one for the directory that a URL such as ``workers:///run/myapp`` names.

        :raises InvalidOption: it names none.
        """
        return cls(directory_of_url(url))

    def publisher(self) -> Publisher:
        """Make what publishes to the workers from outside."""
        return WorkersPublisher(self._where() if callable(self._where) else self._where)

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Listen, and dial the others; return at once.

        :raises InvalidOption: the workers cannot meet in the directory.
        """
        self._node, self._receive, self._gone = node, receive, gone
        self._thread, self._loop = thread_id(), gevent.get_hub().loop
        self._directory = self._where() if callable(self._where) else Path(self._where)
        remove_leftovers(self._directory)
        self._greenlets = Pool()
        self._listener = listen(self._directory, node)
        self._server = StreamServer(self._listener, self._serve, spawn=self._greenlets)
        self._server.start()
        self._running = True
        os.register_at_fork(after_in_child=_calling(weakref.WeakMethod(self._abandon)))
        for name in nodes_in(self._directory):
            if name != node:
                self._meet(name)

    def stop(self) -> None:
        """End; what was published last goes out before, if it is taken in time."""
        if not self._running:
            return
        self._running = False
        patience = GRACE
        while (owed := sum(neighbour.owed for neighbour in self._neighbours.values())) and patience > 0:
            gevent.sleep(RETRY)
            patience -= RETRY
        if owed:
            self.unpublished += owed
            log.error("workers take nothing; %d messages are lost as this one stops", owed)
        leave(self._directory, self._node)
        self._server.close()
        self._greenlets.kill()
        self._neighbours.clear()

    def subscribe(self, topic: str) -> None:
        """Ask all others for a topic; return when they have heard it, have ended, or do not answer in time."""
        self._topics.add(topic)
        self._asked += 1
        frames = encode(WANT, topic) + encode(ASK, data=b"%d" % self._asked)
        asked = {}
        for neighbour in self._neighbours.values():
            neighbour.ask(frames)
            if not neighbour.late:
                asked[neighbour] = neighbour.confirmation(self._asked)
        gevent.wait(list(asked.values()), PATIENCE)
        for neighbour, confirmed in asked.items():
            if not confirmed.is_set() and not neighbour.late:
                neighbour.late = True
                log.error("worker %s does not answer; what it publishes is missed until it does", neighbour.name)

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more."""
        self._topics.discard(topic)
        for neighbour in self._neighbours.values():
            neighbour.ask(encode(UNWANT, topic))

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every other worker that asks for a topic.

        :raises NotPublished: the adapter does not run in this process.
        """
        if not self._running:
            raise NotPublished(f"the workers' adapter does not run in process {os.getpid()}; a WorkersPublisher may")
        if thread_id() == self._thread:
            self._publish(topic, data)
        else:
            self._loop.run_callback_threadsafe(self._publish, topic, data)

    def _publish(self, topic: str, data: bytes) -> None:
        frame = b""
        for neighbour in self._neighbours.values():
            if neighbour.topics is None or topic in neighbour.topics:
                frame = frame or encode(DATA, topic, data)
                if not neighbour.send(topic, frame, self._limit):
                    self._miss(neighbour)

    def _miss(self, neighbour: Neighbour) -> None:
        """Count a message that cannot wait for a worker."""
        if neighbour.topics is not None and neighbour.mouth is None and not neighbour.stuck:
            neighbour.missed += 1  # perhaps it has ended: that is seen when it is dialed
            return
        self.unpublished += 1 + neighbour.hang_up()
        if not neighbour.stuck:
            neighbour.stuck = True
            log.error("worker %s takes nothing; %d messages are lost by now", neighbour.name, self.unpublished)

    def _meet(self, name: str) -> Neighbour:
        if name not in self._neighbours:
            self._neighbours[name] = Neighbour(name)
            # In an empty context: greenlets inherit that of their maker, which may be a request's.
            Context().run(self._greenlets.spawn, self._attend, self._neighbours[name])
        return self._neighbours[name]

    def _attend(self, neighbour: Neighbour) -> None:
        """Listen to another worker until it has ended."""
        while (sock := self._dial(neighbour.name)) is not None:
            if not self._listen(neighbour, sock):
                gevent.sleep(RETRY)
        if self._neighbours.pop(neighbour.name, None) is not None:
            neighbour.confirm(None)
            if neighbour.met and self._running:
                self._gone(neighbour.name)

    def _dial(self, name: str) -> Any:
        """Connect to another worker; None if it has ended."""
        path = path_of(self._directory, name)
        while name in self._neighbours:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)  # it is done at once or not at all
            try:
                sock.connect(str(path))
                sock.setblocking(True)
                return sock
            except OSError as error:
                sock.close()
                if isinstance(error, ConnectionRefusedError | FileNotFoundError):
                    path.unlink(missing_ok=True)
                    return None
            gevent.sleep(RETRY)
        return None

    def _listen(self, neighbour: Neighbour, sock: Any) -> bool:
        """Say what is wanted, and deliver what comes, to the end of the line; return whether it was answered."""
        line = neighbour.ear = self._line(sock)
        wants = [encode(WANT, topic) for topic in self._topics]
        line.send(b"".join((encode(HELLO, self._node), *wants, encode(ASK, data=b"%d" % self._asked))))
        answered = False
        for frames in line.read():
            for kind, topic, data in frames:
                if kind == DATA:
                    self._deliver(topic, data)
                    continue
                answered = True
                neighbour.confirm(int(data))
                if neighbour.broken:
                    neighbour.broken = False
                    log.error("the line from worker %s broke; what it published meanwhile is lost", neighbour.name)
        neighbour.ear, neighbour.broken = None, answered or neighbour.broken
        return answered

    def _serve(self, sock: Any, _: Any) -> None:
        """Do what is said on a line that another worker, or somebody outside, has dialed."""
        line, wanted = self._line(sock), set[str]()
        neighbour, greeted = None, False
        for frames in line.read():
            for kind, topic, data in frames:
                if kind == DATA:
                    self._deliver(topic, data)
                elif kind == WANT:
                    wanted.add(topic)
                elif kind == UNWANT:
                    wanted.discard(topic)
                elif kind == HELLO:
                    neighbour = self._meet(topic)
            asked = [data for kind, _, data in frames if kind == ASK]
            if asked and neighbour is not None and not greeted:
                greeted = True
                self._greet(neighbour, line, wanted)
            if asked:
                line.send(encode(YES, data=asked[-1]))
        if neighbour is not None and neighbour.mouth is line:
            neighbour.missed += neighbour.hang_up()

    def _greet(self, neighbour: Neighbour, line: Line, wanted: set[str]) -> None:
        """Hear what another worker wants, all of it; if it had said so before, it may have missed something since."""
        missed, neighbour.missed = neighbour.missed + neighbour.hang_up(), 0
        if missed:
            self.unpublished += missed
            log.error("the line to worker %s broke; %d messages are lost", neighbour.name, missed)
        neighbour.greet(line, wanted)

    def _deliver(self, topic: str, data: bytes) -> None:
        if topic in self._topics and self._running:
            try:
                self._receive(topic, data)
            except Exception:
                log.exception("what another worker has published on %r is lost here", topic)

    def _line(self, sock: Any) -> Line:
        line = Line(sock, self._limit)
        self._lines.add(line)
        return line

    def _abandon(self) -> None:
        """Let go of all descriptors, in a process that was forked from this worker and is none itself.

        It would keep the lines open when this worker ends, and take what is meant for it.
        """
        if self._running:
            self._running = False
            self._neighbours.clear()
            self._server.stop_accepting()
            self._listener._sock.close()
            for line in self._lines:
                line.abandon()


def _calling(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Return a function that calls a method for as long as its object lives."""

    def call() -> None:
        if (living := method()) is not None:
            living()

    return call
