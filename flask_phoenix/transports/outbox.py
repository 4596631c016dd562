"""The outbox of a client: bytes are written to its socket at once, or queued within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.ssl import SSLSocket

from ..pubsub.conflation import FindKey, frames_of


def _drop(data: bytes) -> int:
    """Take bytes of which nobody wants to know."""
    return len(data)


class Outbox:
    """Writes to one socket while the kernel takes what is written, and queues within bounds while it does not.

    Of queued frames with equal keys the newest alone is kept, in its own place in the order.

    :param limit: bytes that may wait when more comes; one message may be larger.
    :param timeout: seconds in which the client has to take some of what waits; None: no limit.
    :param reached: called with ``"outbox_limit"``, ``"outbox_timeout"`` or ``"conflate"``, once with each, when more
        comes while so many bytes wait, when the client has taken nothing for so long, and when a frame is replaced.
    """

    __slots__ = (
        "_flusher",
        "_limit",
        "_number",
        "_queue",
        "_reached",
        "_send",
        "_sock",
        "_timeout",
        "_told",
        "ready",
        "size",
    )

    def __init__(self, sock: Any, limit: int, timeout: float | None, reached: Callable[[str], None]) -> None:
        self._sock = sock
        self._limit = limit
        self._timeout = timeout
        self._reached = reached
        self._told: tuple[str, ...] = ()
        #: What waits, by its key, or by a number where it has none.
        self._queue: OrderedDict[Any, bytes] | None = None
        self._number = 0
        #: Bytes that wait.
        self.size = 0
        self._flusher: gevent.Greenlet[..., None] | None = None
        # A TLS record cannot be half written: there everything is queued. Elsewhere the system call is made on the
        # non-blocking socket inside gevent's, whose own send costs a tenth of each delivery.
        self._send: Callable[[bytes], int] = self._enqueue if isinstance(sock, SSLSocket) else sock._sock.send
        #: Takes bytes and returns how many it took: the system call, or what replaces it.
        self.ready = self._send

    @property
    def shut(self) -> bool:
        """Whether nothing more is taken: the outbox was closed, or the socket is broken."""
        return self.ready is _drop

    def close(self) -> None:
        """Take nothing more; what waits is still written."""
        self.ready = _drop

    def let_go(self) -> None:
        """Refer no more to who made this: it is closed, and nothing waits."""
        self._send = _drop
        del self._reached

    def write(self, data: bytes) -> None:
        """Write or queue bytes; never block, never raise."""
        try:
            sent = self.ready(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent != len(data):
            self.rest(data, sent)

    __call__ = write

    def rest(self, data: bytes, sent: int) -> None:
        """Queue what the kernel did not take of some bytes."""
        self.ready = self._enqueue
        self._enqueue(data, sent)

    def join(self) -> None:
        """Wait until nothing waits any more, or the socket is broken."""
        if self._flusher is not None:
            self._flusher.join()

    def _enqueue(self, data: bytes, sent: int = 0) -> int:
        skip = sent
        for find_key, frame in frames_of(data):
            if skip < len(frame) and not self.shut:  # nothing follows the close frame
                # A frame that is half sent has to be sent to its end.
                self._append(None if skip else find_key, frame[skip:])
            skip = max(0, skip - len(frame))
        return len(data)

    def _append(self, find_key: FindKey | None, frame: bytes) -> None:
        queue = self._queue = self._queue if self._queue is not None else OrderedDict()
        key = None if find_key is None else find_key()
        if key in queue:
            self.size -= len(queue.pop(key))
            self._reach("conflate")
        if self.size >= self._limit:
            self._reach("outbox_limit")
            if self.shut:
                return
        self._number += 1
        queue[self._number if key is None else key] = frame
        self.size += len(frame)
        if self._flusher is None:
            self._flusher = gevent.spawn(self._flush, queue)

    def _reach(self, what: str) -> None:
        if what not in self._told:
            self._told += (what,)
            self._reached(what)

    def _flush(self, queue: OrderedDict[Any, bytes]) -> None:
        try:
            while queue:
                _, data = queue.popitem(last=False)
                self._write_whole(data)
                self.size -= len(data)
        except OSError:
            queue.clear()
            self.close()
        self._flusher = None
        if not self.shut:
            self.ready = self._send

    def _write_whole(self, data: bytes) -> None:
        """Write bytes, for as long as it takes a client that takes some now and then."""
        left = memoryview(data)
        while left:
            taken = False
            with gevent.Timeout(self._timeout, False):  # type: ignore[arg-type]  # which its stubs do not know
                left = left[self._sock.send(left) :]
                taken = True
            if not taken:
                self._reach("outbox_timeout")


def write_each(outboxes: Iterable[Outbox], data: bytes) -> None:
    """Write the same bytes to many outboxes: the innermost loop of a broadcast."""
    size = len(data)
    for outbox in outboxes:
        try:
            sent = outbox.ready(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            outbox.close()
            continue
        if sent != size:
            outbox.rest(data, sent)
