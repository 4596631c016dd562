"""The outbox of a client: bytes are written to its socket at once, or queued within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.ssl import SSLSocket


class Outbox:
    """Writes to one socket while the kernel takes what is written, and queues within bounds while it does not.

    :param limit: bytes that may wait when more comes; one message may be larger.
    :param overflow: called once, when more comes while that much waits.
    """

    __slots__ = ("_flusher", "_limit", "_overflow", "_queue", "_send", "_size", "_sock", "ready")

    def __init__(self, sock: Any, limit: int, overflow: Callable[[], None]) -> None:
        self._sock = sock
        self._limit = limit
        self._overflow: Callable[[], None] | None = overflow
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._flusher: gevent.Greenlet[..., None] | None = None
        # A TLS record cannot be half written: there everything is queued. Elsewhere the system call is made on the
        # non-blocking socket inside gevent's, whose own send costs a tenth of each delivery.
        self._send: Callable[[bytes], int] = self._enqueue if isinstance(sock, SSLSocket) else sock._sock.send
        #: Takes bytes and returns how many it took: the system call, or what replaces it.
        self.ready = self._send

    @property
    def shut(self) -> bool:
        """Whether nothing more is taken: the outbox was closed, or the socket is broken."""
        return self.ready == self._drop

    def close(self) -> None:
        """Take nothing more; what waits is still written."""
        self.ready = self._drop

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
            self.rest(data[sent:])

    __call__ = write

    def rest(self, data: bytes) -> None:
        """Queue what the kernel did not take."""
        self.ready = self._enqueue
        self._enqueue(data)

    def join(self) -> None:
        """Wait until nothing waits any more, or the socket is broken."""
        if self._flusher is not None:
            self._flusher.join()

    def _drop(self, data: bytes) -> int:
        return len(data)

    def _enqueue(self, data: bytes) -> int:
        if self._size >= self._limit and self._overflow is not None:
            overflow, self._overflow = self._overflow, None
            overflow()
            if self.shut:
                return len(data)  # nothing follows the close frame
        self._queue.append(data)
        self._size += len(data)
        if self._flusher is None:
            self._flusher = gevent.spawn(self._flush)
        return len(data)

    def _flush(self) -> None:
        try:
            while self._queue:
                self._sock.sendall(self._queue[0])
                self._size -= len(self._queue.popleft())
        except OSError:
            self._queue.clear()
            self.close()
        self._flusher = None
        if not self.shut:
            self.ready = self._send


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
            outbox.rest(data[sent:])
