"""Proxies that are not set up well: each hands on what it hears, and spoils some of it."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from tests.support.processes import HOST

PIECE = 1 << 16


def as_it_is(data: bytes) -> bytes:
    """Spoil nothing."""
    return data


def without_upgrade(data: bytes) -> bytes:
    """Drop the headers that are for one hop alone, as proxies do unless they are told otherwise."""
    return re.sub(rb"(?i)\r\n(?:upgrade|connection):[^\r]*", b"", data)


def with_own_host(data: bytes) -> bytes:
    """Ask for the host behind the proxy, not for that of the site."""
    return re.sub(rb"(?i)\r\nhost:[^\r]*", b"\r\nHost: inner", data)


def without_frames(data: bytes) -> bytes:
    """Swallow all but the heads of requests."""
    return data if b" HTTP/1.1\r\n" in data else b""


class Relay:
    """Listens, and hands on to a port of this host, until it is closed.

    :param up: what becomes of the bytes of clients.
    :param patience: seconds of the server's silence after which a connection is cut.
    :param hold: seconds for which replies of channels are held back.
    """

    def __init__(
        self, port: int, up: Callable[[bytes], bytes] = as_it_is, patience: float | None = None, hold: float = 0
    ) -> None:
        self._target, self._up, self._patience, self._hold = port, up, patience, hold
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections, and every thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for each in self._sockets:
            _end(each)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((HOST, self._target))
                far.settimeout(self._patience)
                self._sockets += [near, far]
                for words in ((near, far, self._up, 0.0), (far, near, as_it_is, self._hold)):
                    self._threads.append(threading.Thread(target=_pump, args=words))
                    self._threads[-1].start()


def _pump(source: socket.socket, target: socket.socket, spoil: Callable[[bytes], bytes], hold: float) -> None:
    with suppress(OSError):
        while data := source.recv(PIECE):
            if b"phx_reply" in data:
                time.sleep(hold)
            target.sendall(spoil(data))
    _end(source)
    _end(target)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
