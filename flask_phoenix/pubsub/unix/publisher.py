"""Publishing to the workers of one host from outside: from a process that is none of them, without an event loop."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from ...exceptions import NotPublished
from ..adapter import Publisher, sharing_key
from ..envelope import pack_kept
from ..history import History, Position
from .archive import KeepsInDirectory, WorkersArchive
from .directory import check_private, directory_of_url, nodes_in, path_of
from .frames import HEADER, PUBLISH, SYNC, FrameDecoder, encode_frame

#: Seconds that the workers may take to take what is published.
TAKE_TIMEOUT = 5.0


class WorkersPublisher(KeepsInDirectory, Publisher):
    """Publishes to the workers of this host from a process that is none of them, or from any thread of it.

    It needs no event loop, and connects when there is something to publish. A process that is forked connects for
    itself. A worker that takes nothing is waited for once: until it answers, what follows goes to the others alone, at
    once.

    :param directory: where the workers listen.
    :param timeout: seconds that the workers, all together, may take to take a message.
    """

    def __init__(self, directory: str | Path, timeout: float = TAKE_TIMEOUT) -> None:
        self._directory = Path(directory)
        self._timeout = timeout
        self._process = os.getpid()
        self._crews: dict[int, _Crew] = {}
        self._archive = WorkersArchive(self._directory)

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
        if self._process != os.getpid():  # the connections, and the locks, are the parent's
            crews, self._process, self._crews = self._crews, os.getpid(), {}
            for inherited in crews.values():
                inherited.close()
        key = sharing_key()
        crew = self._crews.get(key) or self._crews.setdefault(key, _Crew(self._directory))
        with crew.lock:
            taken, late = crew.publish(encode_frame(PUBLISH, topic, data) + encode_frame(SYNC), self._timeout)
        if late:
            raise NotPublished(
                f"worker {', '.join(late)} takes nothing, for {self._timeout} s or since an earlier message; is it"
                f" stopped? {taken} others have it"
            )
        if not taken:
            raise NotPublished(
                f"no worker listens in {self._directory}: start the server, and have it listen there with"
                f" PHOENIX_PUBSUB_URL=workers://{self._directory}; a worker listens from its first client on"
            )

    def keep(self, topic: str, history: History, entry: bytes, key: str) -> tuple[Position, bool]:
        """Keep an entry in the directory, and hand it to the workers; who does not take it now finds it there.

        :raises InvalidPayload: it is larger than what the topic may keep.
        :raises NotPublished: it is not kept.
        """
        position, new = self._archive.append(topic, history, entry, key)
        if new:
            with suppress(NotPublished):
                self.publish(topic, pack_kept(position, entry))
        return position, new

    def close(self) -> None:
        """Close the connections; the next message makes new ones."""
        self._archive.close()
        for crew in list(self._crews.values()):
            with crew.lock:
                crew.close()


class _Crew:
    """The workers of a directory, and a connection to each."""

    def __init__(self, directory: Path) -> None:
        self.lock = threading.Lock()
        self._directory = directory
        self._connections: dict[str, _Connection] = {}

    def publish(self, frames: bytes, timeout: float) -> tuple[int, list[str]]:
        """Hand frames to all; return how many have taken them, and the names of those that take nothing."""
        late, due = self._connect(), dict[str, _Connection]()
        for name, connection in self._connections.items():
            connection.step()
            if not connection.settled:
                late.append(name)
            elif not connection.ended:
                connection.send(frames)
                due[name] = connection
        wait([*due.values()], time.monotonic() + timeout)
        late += [name for name, connection in due.items() if not connection.settled]
        taken = sum(not connection.ended for connection in due.values()) - len(due.keys() & late)
        for name in [name for name, connection in self._connections.items() if connection.ended]:
            self._connections.pop(name).socket.close()
        return taken, late

    def close(self) -> None:
        """Close the connections."""
        while self._connections:
            self._connections.popitem()[1].socket.close()

    def _connect(self) -> list[str]:
        """Connect to those that have come, and let go of those that have ended; return who accepts no connection."""
        nodes, late = nodes_in(self._directory), []
        if nodes:
            check_private(self._directory)
        for name in self._connections.keys() - set(nodes):
            self._connections.pop(name).socket.close()
        for name in [name for name in nodes if name not in self._connections]:
            connection = _Connection()
            try:
                connection.socket.connect(str(path_of(self._directory, name)))
                self._connections[name] = connection
            except OSError as error:
                connection.socket.close()
                if isinstance(error, BlockingIOError):  # else it has ended
                    late.append(name)
        return late


class _Connection:
    """A connection to a worker, on which nothing waits."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        #: The worker has.
        self.ended = False
        self._unsent = memoryview(b"")
        self._answered = True
        self._decoder = FrameDecoder()

    @property
    def settled(self) -> bool:
        """True when nothing more is to be expected: it has taken all that it was sent, or has ended."""
        return self._answered or self.ended

    @property
    def events(self) -> int:
        """What to wait for."""
        return select.POLLIN | select.POLLOUT if self._unsent else select.POLLIN

    def send(self, frames: bytes) -> None:
        """Begin to send frames, the last of which is answered."""
        self._unsent, self._answered = memoryview(frames), False
        self.step()

    def step(self) -> None:
        """Send, and hear the answer, as far as can be done at once."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            data = self.socket.recv(HEADER.size)
            self.ended = not data
            self._answered = bool(self._decoder.feed(data)) or self._answered
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True


def wait(connections: list[_Connection], deadline: float) -> None:
    """Go on with connections until all are settled, or the time is over."""
    while (due := [connection for connection in connections if not connection.settled]) and (
        left := deadline - time.monotonic()
    ) > 0:
        poll = select.poll()
        for connection in due:
            poll.register(connection.socket, connection.events)
        poll.poll(left * 1000)
        for connection in due:
            connection.step()
