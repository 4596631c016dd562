"""The adapter between the workers of one host, over Unix sockets.

Every worker listens in one directory and connects to all the others: on the line that it has opened it says which
topics it wants, and gets what that other worker publishes on them. So there are two lines for each pair, and nobody has
to agree with anybody on who connects. A newcomer listens first and looks around then: of any two, one finds the other
there, and whoever is greeted connects back. Until the other has said what it wants, all that is published is held for
it. A line that ends is opened again; a worker that refuses is dead, for no name is used twice.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from pathlib import Path
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool

from ...exceptions import NotPublished, PhoenixError
from ..adapter import RUNS_ALREADY, WRONG_THREAD, Adapter, Publisher
from ..envelope import pack_kept
from ..failures import log_failure
from ..history import History, Position
from ..hub import thread_id
from .archive import KeepsInDirectory, WorkersArchive
from .directory import directory_of_url, leave, nodes_in, path_of, remove_leftovers
from .frames import HELLO, PUBLISH, SUBSCRIBE, SYNC, SYNCED, UNSUBSCRIBE, PeerFrame, encode_frame
from .leader import Lock
from .peer import Line, Peer, abandon, listen
from .publisher import WorkersPublisher

log = logging.getLogger("flask_phoenix.workers")

#: Bytes that may wait for one worker.
QUEUE_LIMIT = 64 * 1024 * 1024
#: Seconds that a worker may take to confirm a topic: what it publishes later, before it does, is missed.
CONFIRM_TIMEOUT = 2.0
#: Seconds in which what was published last goes out when a worker stops.
STOP_GRACE = 1.0
#: Seconds until a worker that cannot be reached, or does not answer, is tried again.
RETRY = 0.02
#: Seconds until a worker that cannot accept connections, for it has no descriptor left, tries again.
ACCEPT_RETRY = 0.5


class WorkersAdapter(KeepsInDirectory, Adapter):
    """Carries broadcasts between the workers of one host, without any other service.

    A worker that takes nothing, because it is stopped or never yields, delays nobody: when more than ``limit`` bytes
    wait for it, all that waits is given up, counted in ``unpublished`` and logged, and so is what follows until it has
    connected anew. Both sides know then that something was lost.

    :param directory: where they listen, or what returns that when the adapter starts.
    :param limit: bytes that may wait for one worker when more comes; one message may be larger.
    """

    meets = True
    subscribe_timeout = CONFIRM_TIMEOUT

    def __init__(self, directory: str | Path | Callable[[], Path], limit: int = QUEUE_LIMIT) -> None:
        self._where = directory
        self._limit = limit
        self._running = False
        self._topics: set[str] = set()
        self._asked = 0
        self._peers: dict[str, Peer] = {}
        self._lines: weakref.WeakSet[Line] = weakref.WeakSet()
        self._locks: weakref.WeakSet[Lock] = weakref.WeakSet()

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
        """Listen, and connect to the others; return at once.

        :raises InvalidOption: the workers cannot use the directory.
        """
        if self._running:
            raise PhoenixError(RUNS_ALREADY)
        self._directory = self._where() if callable(self._where) else Path(self._where)
        remove_leftovers(self._directory)
        self._node, self._receive, self._gone = node, receive, gone
        self._thread, self._loop = thread_id(), gevent.get_hub().loop
        self._greenlets = Pool()
        self._listener = listen(self._directory, node)
        self._archive = WorkersArchive(self._directory, self.history_total, self.history_reached, gevent.sleep)
        self._running, self._forked = True, False
        self._spawn(self._accept)
        os.register_at_fork(after_in_child=_calling(weakref.WeakMethod(self._abandon)))
        for name in nodes_in(self._directory):
            if name != node:
                self._add(name)

    def stop(self) -> None:
        """End; what was published last goes out before, if it is taken in time."""
        if not self._running:
            return
        self._running = False
        deadline = time.monotonic() + STOP_GRACE
        while (waiting := sum(peer.waiting for peer in self._peers.values())) and time.monotonic() < deadline:
            gevent.sleep(RETRY)
        if waiting:
            self.unpublished += waiting
            log.error("workers take nothing; %d messages are lost as this one stops", waiting)
        self._archive.close()
        leave(self._directory, self._node)
        self._greenlets.kill()
        self._listener.close()
        for peer in self._peers.values():
            peer.confirm(None)
        self._peers.clear()
        self._topics.clear()

    def lead(self, name: str, lost: Callable[[], None]) -> Callable[[], None]:
        """Wait until no other worker leads. Who leads is certain of it until its process ends."""
        lock = Lock(self._directory, name)
        self._locks.add(lock)
        lock.acquire()
        return lock.release

    def subscribe(self, topic: str) -> None:
        """Ask all others for a topic; return when they have heard it, have ended, or do not answer in time.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        while self._running:
            self._topics.add(topic)
            self._ask(encode_frame(SUBSCRIBE, topic))
            if topic in self._topics:  # else it has been unsubscribed from meanwhile
                return

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        self._topics.discard(topic)
        for peer in self._peers.values():
            peer.ask(encode_frame(UNSUBSCRIBE, topic))

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

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry in the directory, and hand it to the other workers that ask for its topic.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: it is not kept.
        """
        position, new = self._archive.append(topic, history, entry, key)
        if new:
            self.publish(topic, pack_kept(position, entry))
        return position, new

    def _check_thread(self) -> None:
        if self._running and thread_id() != self._thread:
            raise PhoenixError(WRONG_THREAD)

    def _ask(self, frames: bytes) -> None:
        """Tell all others something; return when they have heard it, have ended, or do not answer in time."""
        self._asked += 1
        frames += encode_frame(SYNC, data=b"%d" % self._asked)
        asked = {}
        for peer in self._peers.values():
            peer.ask(frames)
            if not peer.late:
                asked[peer] = peer.confirmation(self._asked)
        gevent.wait(list(asked.values()), CONFIRM_TIMEOUT)
        for peer, confirmed in asked.items():
            if not confirmed.is_set():
                peer.give_up()
                log.error("worker %s does not answer; what it publishes is missed until it does", peer.name)

    def _publish(self, topic: str, data: bytes) -> None:
        frame = b""
        for peer in self._peers.values():
            if peer.topics is None or topic in peer.topics:
                frame = frame or encode_frame(PUBLISH, topic, data)
                if not peer.publish(topic, frame, self._limit):
                    self._lose(peer)

    def _lose(self, peer: Peer) -> None:
        """Count a message that cannot wait for a worker."""
        if peer.topics is not None and peer.outgoing is None and not peer.stuck:
            peer.missed += 1  # perhaps it has ended: that is seen when it is connected to
            return
        self.unpublished += 1 + peer.close_outgoing()
        if not peer.stuck:
            peer.stuck = True
            log.error("worker %s takes nothing; %d messages are lost by now", peer.name, self.unpublished)

    def _add(self, name: str) -> Peer:
        """Know another worker from now on, and hear it until it has ended."""
        if name not in self._peers:
            self._peers[name] = Peer(name)
            self._spawn(self._run, self._peers[name])
        return self._peers[name]

    def _spawn(self, function: Callable[..., None], *args: Any) -> None:
        # In an empty context: greenlets inherit that of their maker, which may be a request's.
        Context().run(self._greenlets.spawn, function, *args)

    def _run(self, peer: Peer) -> None:
        """Hear another worker until it has ended, whatever fails meanwhile."""
        failure = ""
        while peer.name in self._peers:
            answered = False
            try:
                sock = self._connect(peer.name)
                if sock is None:
                    break
                answered = self._hear(peer, sock)
                failure = ""
            except Exception as error:
                if repr(error) != failure:  # a line for each failure, not for each attempt
                    failure = repr(error)
                    log.exception("the line to worker %s failed, and is opened again", peer.name)
            if not answered:
                gevent.sleep(RETRY)
        if self._peers.pop(peer.name, None) is not None:
            peer.confirm(None)
            if peer.seen and self._running:
                self._tell_gone(peer.name)

    def _connect(self, name: str) -> Any:
        """Connect to another worker, at once or not at all; None if it has ended.

        :raises OSError: neither can be told.
        """
        path = path_of(self._directory, name)
        while name in self._peers:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.connect(str(path))
                sock.setblocking(True)
                return sock
            except (ConnectionRefusedError, FileNotFoundError):
                sock.close()
                with suppress(OSError):
                    path.unlink(missing_ok=True)
                return None
            except OSError as error:
                sock.close()
                if not isinstance(error, BlockingIOError):  # more wait there than it can hold
                    raise
            gevent.sleep(RETRY)
        return None

    def _hear(self, peer: Peer, sock: Any) -> bool:
        """Say what is wanted, and deliver what comes, until the line ends; return whether it was answered."""
        line = peer.incoming = self._line(sock)
        wanted = [encode_frame(SUBSCRIBE, topic) for topic in self._topics]
        line.send(b"".join((encode_frame(HELLO, self._node), *wanted, encode_frame(SYNC, data=b"%d" % self._asked))))
        answered = False
        for frames in line.read():
            for kind, topic, data in frames:
                if kind == PUBLISH:
                    self._deliver(topic, data)
                    continue
                answered, late = True, peer.late
                peer.confirm(int(data))
                if late:
                    self.restored()
                if peer.broken:
                    peer.broken = False
                    log.error("the line from worker %s broke; what it published meanwhile is lost", peer.name)
                    self.restored()
        peer.incoming, peer.broken = None, answered or peer.broken
        return answered

    def _accept(self) -> None:
        """Serve whoever connects, to the very end: what was published last waits for those who just come."""
        failing = False
        while not self._forked:
            try:
                sock, _ = self._listener.accept()
                failing = False
                self._greenlets.spawn(self._serve, sock)
            except OSError as error:
                if not failing and not self._forked:
                    failing = True
                    log.error("other workers cannot connect to this one until it is mended: %s", error)
                gevent.sleep(ACCEPT_RETRY)

    def _serve(self, sock: Any) -> None:
        """Do what is said on a line that another worker, or a publisher outside, has opened."""
        line = self._line(sock)
        guest = _Guest()
        try:
            for frames in line.read():
                self._obey(guest, line, frames)
        except Exception:
            log.exception("a line is closed, for what came on it cannot be understood")
        finally:
            line.close()
            if guest.peer is not None and guest.peer.outgoing is line:
                guest.peer.missed += guest.peer.close_outgoing()

    def _obey(self, guest: _Guest, line: Line, frames: list[PeerFrame]) -> None:
        synced: bytes | None = None
        for kind, topic, data in frames:
            if kind == PUBLISH:
                self._deliver(topic, data)
            elif kind == SUBSCRIBE:
                guest.topics.add(topic)
            elif kind == UNSUBSCRIBE:
                guest.topics.discard(topic)
            elif kind == HELLO:
                guest.peer = self._add(topic)
            elif kind == SYNC:
                synced = data
        if synced is not None:
            if guest.peer is not None and not guest.greeted:
                guest.greeted = True
                met = not guest.peer.seen
                self._greet(guest.peer, line, guest.topics)
                if met:
                    self.joined(guest.peer.name)
            line.send(encode_frame(SYNCED, data=synced))

    def _greet(self, peer: Peer, line: Line, wanted: set[str]) -> None:
        """Take all that another worker wants; if it had said so before, it may have missed something since."""
        missed, peer.missed = peer.missed + peer.close_outgoing(), 0
        if missed:
            self.unpublished += missed
            log.error("the line to worker %s broke; %d messages are lost", peer.name, missed)
        peer.greet(line, wanted)

    def _deliver(self, topic: str, data: bytes) -> None:
        if topic in self._topics and self._running:
            try:
                self._receive(topic, data)
            except gevent.GreenletExit:
                raise
            except BaseException:
                log_failure(log, "what another worker has published on %r is lost here", topic)

    def _tell_gone(self, name: str) -> None:
        try:
            self._gone(name)
        except Exception:
            log.exception("the end of worker %s is not known everywhere", name)

    def _line(self, sock: Any) -> Line:
        line = Line(sock, self._limit)
        self._lines.add(line)
        return line

    def _abandon(self) -> None:
        """Let go of all descriptors, in a process that was forked from this worker and is none itself.

        It would keep the lines open when this worker ends, and take what is meant for it.
        """
        if self._running:
            self._running, self._forked = False, True
            self._peers.clear()
            abandon(self._listener)
            for lock in self._locks:
                lock.forget()
            for line in self._lines:
                line.abandon()


class _Guest:
    """Who has opened a line: another worker, as soon as it has said so, and what it wants."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.topics: set[str] = set()
        #: What it wants has been heard whole.
        self.greeted = False


def _calling(method: weakref.WeakMethod[Callable[[], None]]) -> Callable[[], None]:
    """Return a function that calls a method for as long as its object lives."""

    def call() -> None:
        if (living := method()) is not None:
            living()

    return call
