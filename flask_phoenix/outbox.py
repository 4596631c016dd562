"""The one way out to a socket: written at once, or queued within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.ssl import SSLSocket


class Outbox:
    """The one way out to a socket: written at once while the kernel takes it, queued within bounds while it does not.

    :param limit: bytes that may wait.
    :param overflow: called when more waits.
    """

    __slots__ = ("_flusher", "_limit", "_overflow", "_overflowed", "_queue", "_send", "_size", "_sock", "shut")

    def __init__(self, sock: Any, limit: int, overflow: Callable[[], None]) -> None:
        self._sock = sock
        self._limit = limit
        self._overflow = overflow
        # A TLS record cannot be half written: there everything goes through the queue. Elsewhere the system call is
        # made on gevent's own non-blocking socket, past a wrapper that costs a tenth of each delivery.
        self._send: Callable[[bytes], int] | None = None if isinstance(sock, SSLSocket) else sock._sock.send
        self._queue: deque[bytes] | None = None
        self._flusher: gevent.Greenlet[..., None] | None = None
        self._size = 0
        self._overflowed = False
        #: Nothing more is taken: the close frame is out, or the socket is broken.
        self.shut = False

    def write(self, data: bytes) -> None:
        """Write or queue bytes; never block, never raise."""
        if self.shut:
            return
        if self._queue is None and self._send is not None:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.shut = True
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._enqueue(data)

    def join(self) -> None:
        """Wait until nothing waits any more, or the socket is broken."""
        if self._flusher is not None:
            self._flusher.join()

    def _enqueue(self, data: bytes) -> None:
        self._size += len(data)
        if self._queue is None:
            self._queue = deque((data,))
            self._flusher = gevent.spawn(self._flush, self._queue)
        else:
            self._queue.append(data)
        if self._size > self._limit and not self._overflowed:
            self._overflowed = True
            self._overflow()

    def _flush(self, queue: deque[bytes]) -> None:
        try:
            while queue:
                self._sock.sendall(queue[0])
                self._size -= len(queue.popleft())
        except OSError:
            self.shut = True
        self._queue = self._flusher = None
