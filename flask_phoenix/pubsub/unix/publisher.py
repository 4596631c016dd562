"""Publishing to the workers of one host from outside: from a process that is none of them, without an event loop."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from ...exceptions import NotPublished
from ..adapter import Publisher
from .directory import check_private, directory_of_url, nodes_in, path_of
from .frames import HEADER, PUBLISH, SYNC, FrameDecoder, encode_frame

#: Seconds that a worker may take to take what is published.
TAKE_TIMEOUT = 5.0


class WorkersPublisher(Publisher):
    """Publishes to the workers of this host from a process that is none of them, or from any thread of it.

    It needs no event loop, and connects when there is something to publish. A process that is forked connects for
    itself.

    :param directory: where the workers listen.
    :param timeout: seconds that a worker may take to take a message.
    """

    def __init__(self, directory: str | Path, timeout: float = TAKE_TIMEOUT) -> None:
        self._directory = Path(directory)
        self._timeout = timeout
        self._begin()

    @classmethod
    def from_url(cls, url: str) -> WorkersPublisher:
        """Make one for the directory that a URL such as ``workers:///run/myapp`` names.

        :raises InvalidOption: it names none.
        """
        return cls(directory_of_url(url))

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every worker; return when those that ask for the topic have it.

        :raises NotPublished: no worker is there, or one does not take it in time; the others have it then.
        :raises InvalidOption: the directory is not private.
        """
        if self._process != os.getpid():
            self._close_all()
            self._begin()
        with self._lock:
            late: list[str] = []
            frames = encode_frame(PUBLISH, topic, data) + encode_frame(SYNC)
            there = [name for name in self._find() if self._try(name, self._connect, late)]
            sent = [name for name in there if self._try(name, lambda name: self._sockets[name].sendall(frames), late)]
            taken = [name for name in sent if self._try(name, self._wait, late)]
        if late:
            raise NotPublished(f"worker {', '.join(late)} has not taken it within {self._timeout} s; is it stopped?")
        if not taken:
            raise NotPublished(
                f"no worker listens in {self._directory}: start the server, and have it listen there with"
                f" PHOENIX_PUBSUB_URL=workers://{self._directory}; a worker listens from its first client on"
            )

    def close(self) -> None:
        """Close the connections; the next message makes new ones."""
        with self._lock:
            self._close_all()

    def _close_all(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def _begin(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()  # a copy of one that a thread held at a fork would never be free

    def _find(self) -> list[str]:
        """Return the workers that listen, or did; close the connections to those that have ended."""
        nodes = nodes_in(self._directory)
        if nodes:
            check_private(self._directory)
        for name in self._sockets.keys() - set(nodes):
            self._sockets.pop(name).close()
        return nodes

    def _connect(self, name: str) -> None:
        """Connect to a worker, unless that is done."""
        if name not in self._sockets:
            connection = self._sockets[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._timeout)
            connection.connect(str(path_of(self._directory, name)))

    def _wait(self, name: str) -> None:
        """Wait until a worker has done all that it was sent."""
        decoder = FrameDecoder()
        while not decoder.feed(data := self._sockets[name].recv(HEADER.size)):
            if not data:
                raise ConnectionResetError

    def _try(self, name: str, step: Callable[[str], object], late: list[str]) -> bool:
        """Take a step with a worker; close the connection if it has ended, or is late."""
        try:
            step(name)
        except (TimeoutError, BlockingIOError):
            late.append(name)
        except OSError:
            pass
        else:
            return True
        self._sockets.pop(name).close()
        return False
