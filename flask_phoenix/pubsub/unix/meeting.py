"""Where workers meet: a private directory of sockets, the frames spoken there, and the way in from outside."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...exceptions import InvalidOption, NotPublished
from ..adapter import Publisher

#: What a frame says. HELLO: my name is (the topic). WANT, UNWANT: of what you publish, let me have this topic, or no
#: more. ASK: answer with YES and the same data when all before this is done. DATA: published on this topic.
HELLO, WANT, UNWANT, ASK, YES, DATA = range(6)

Frame = tuple[int, str, bytes]

#: In front of each frame: its kind, and the sizes of its topic and its data.
HEADER = struct.Struct("!BII")

SUFFIX = ".sock"
PREFIX = "phoenix"
#: Seconds that a worker may take to take what is published from outside.
TIMEOUT = 5.0
REMEDY = "name a directory that this user alone may enter, as in workers:///run/myapp"


def encode(kind: int, topic: str = "", data: bytes = b"") -> bytes:
    """Write a frame."""
    name = topic.encode("utf-8", "surrogatepass")
    return b"".join((HEADER.pack(kind, len(name), len(data)), name, data))


class Decoder:
    """Reads frames out of a stream."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take more of the stream; return the frames that are whole now."""
        buffer, frames, start = self._buffer, [], 0
        buffer += data
        size = len(buffer)
        with memoryview(buffer) as view:
            while start + HEADER.size <= size:
                kind, topic_size, data_size = HEADER.unpack_from(view, start)
                middle = start + HEADER.size + topic_size
                end = middle + data_size
                if end > size:
                    break
                topic = str(view[middle - topic_size : middle], "utf-8", "surrogatepass")
                frames.append((kind, topic, bytes(view[middle:end])))
                start = end
        del buffer[:start]
        return frames


def directory_of_url(url: str) -> Path:
    """Return the directory that a URL such as ``workers:///run/myapp`` names.

    :raises InvalidOption: it names none.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "workers" or parts.netloc or parts.query or parts.fragment or not path.startswith("/"):
        raise InvalidOption(f"{url!r} names no directory for the workers of this server; {REMEDY}")
    return Path(path)


def directory_of_server(name: str) -> Path:
    """Return the directory for the workers of the server that has started this process, the same in all of them.

    It is told from other servers by the process that this one descends from; call it in a worker, behind the fork.

    :param name: tells apps of one server apart.
    """
    parent = os.getppid()
    app = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return _temporary() / f"{_kin()}{parent}-{_started(parent)}-{app}"


def make_private(directory: Path) -> None:
    """Make a directory that this user alone may enter; one that is there has to be such.

    :raises InvalidOption: it is not, or cannot be made.
    """
    try:
        directory.mkdir(0o700, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"cannot make the directory {directory}: {error.strerror}; {REMEDY}") from error
    check_private(directory)


def check_private(directory: Path) -> None:
    """See that a directory belongs to this user, and that nobody else may enter.

    :raises InvalidOption: it does not, they may, or there is none.
    """
    try:
        status = directory.lstat()
    except OSError as error:
        raise InvalidOption(f"cannot look at {directory}: {error.strerror}; {REMEDY}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidOption(f"{directory} is no directory; {REMEDY}")
    if status.st_uid != os.geteuid():
        raise InvalidOption(f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}; {REMEDY}")
    if status.st_mode & 0o077:
        raise InvalidOption(f"others may enter {directory}: chmod 700 {directory}, or {REMEDY}")


def path_of(directory: Path, node: str) -> Path:
    """Return where a worker listens."""
    return directory / f"{node}{SUFFIX}"


def nodes_in(directory: Path) -> list[str]:
    """Return the names of the workers that listen in a directory, or did; none if there is no directory."""
    with suppress(FileNotFoundError):
        return sorted(name[: -len(SUFFIX)] for name in os.listdir(directory) if name.endswith(SUFFIX))
    return []


def leave(directory: Path, node: str) -> None:
    """Remove a worker's socket, and the directory of a server with its last worker."""
    path_of(directory, node).unlink(missing_ok=True)
    if directory.name.startswith(_kin()):
        with suppress(OSError):  # others are there
            directory.rmdir()


def remove_leftovers(directory: Path) -> None:
    """Remove what servers of this user have left beside the directory of a server, when they are no more."""
    kin = _kin()
    if directory.name.startswith(kin):
        for other in directory.parent.glob(f"{kin}*-*-*"):
            parent, started = other.name[len(kin) :].split("-")[:2]
            if other != directory and not (parent.isdigit() and _runs(int(parent), started)):
                with suppress(OSError, InvalidOption):
                    _remove(other)


def _kin() -> str:
    """Return how the names of all directories of servers of this user begin."""
    return f"{PREFIX}-{os.geteuid()}-"


def _remove(directory: Path) -> None:
    """Remove a directory, unless somebody listens there: a server may be hidden, in a container of its own."""
    check_private(directory)
    for path in directory.iterdir():
        if path.is_socket() and _refuses(path):
            path.unlink()
    directory.rmdir()


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _temporary() -> Path:
    """Return the directory of this user for what lives while it runs, or the one for all."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK) and os.stat(runtime).st_uid == os.geteuid():
        return Path(runtime)
    return Path(tempfile.gettempdir())


def _started(pid: int) -> str:
    """Return when a process has started, in the system's ticks; "0" where the system does not tell."""
    with suppress(OSError):
        # The name of the program, in parentheses, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    return "0"


def _runs(pid: int, started: str) -> bool:
    if started != "0":
        return _started(pid) == started
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True


class WorkersPublisher(Publisher):
    """Publishes to the workers of this host from a process that is none of them, or from any thread of it.

    It needs no event loop, and dials when there is something to publish. A process that is forked dials for itself.

    :param directory: where the workers meet.
    :param timeout: seconds that a worker may take to take a message.
    """

    def __init__(self, directory: str | Path, timeout: float = TIMEOUT) -> None:
        self._directory = Path(directory)
        self._timeout = timeout
        self._begin()

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every worker; return when those that ask for the topic have it.

        :raises NotPublished: nobody is there, or somebody does not take it in time; the others have it then.
        :raises InvalidOption: the directory is not private.
        """
        if self._process != os.getpid():
            self._hang_up()
            self._begin()
        with self._lock:
            late: list[str] = []
            frames = encode(DATA, topic, data) + encode(ASK)
            there = [name for name in self._look() if self._try(name, self._connect, late)]
            told = [name for name in there if self._try(name, lambda name: self._lines[name].sendall(frames), late)]
            taken = [name for name in told if self._try(name, self._wait, late)]
        if late:
            raise NotPublished(f"worker {', '.join(late)} has not taken it within {self._timeout} s; is it stopped?")
        if not taken:
            raise NotPublished(
                f"no worker listens in {self._directory}: start the server, and have it meet there with"
                f" PHOENIX_PUBSUB_URL=workers://{self._directory}; a worker listens from its first client on"
            )

    def close(self) -> None:
        """Hang up; the next message dials anew."""
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        while self._lines:
            self._lines.popitem()[1].close()

    def _begin(self) -> None:
        self._lines: dict[str, socket.socket] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()  # a copy of one that a thread held at a fork would never be free

    def _look(self) -> list[str]:
        """Return who listens, or did; hang up on those who have ended."""
        nodes = nodes_in(self._directory)
        if nodes:
            check_private(self._directory)
        for name in self._lines.keys() - set(nodes):
            self._lines.pop(name).close()
        return nodes

    def _connect(self, name: str) -> None:
        """Dial a worker that has come."""
        if name not in self._lines:
            line = self._lines[name] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.settimeout(self._timeout)
            line.connect(str(path_of(self._directory, name)))

    def _wait(self, name: str) -> None:
        """Wait until a worker has done all that it was told."""
        decoder = Decoder()
        while not decoder.feed(data := self._lines[name].recv(HEADER.size)):
            if not data:
                raise ConnectionResetError

    def _try(self, name: str, step: Callable[[str], object], late: list[str]) -> bool:
        """Do something with a worker; hang up if it has ended, or is late."""
        try:
            step(name)
        except (TimeoutError, BlockingIOError):
            late.append(name)
        except OSError:
            pass
        else:
            return True
        self._lines.pop(name).close()
        return False
