"""The private directory in which the workers of one host find each other."""

from __future__ import annotations

import errno
import os
import socket
import stat
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ...exceptions import InvalidOption

#: How the names of sockets end, and those of directories begin.
SUFFIX = ".sock"
PREFIX = "phoenix"
#: The system takes about a hundred bytes, and the name of a worker some of them.
LONGEST = 80
#: What leads to the file of what the workers keep, by the number of its tables' form; the file's name begins so.
HISTORY = "history-2"
#: How the names of the locks begin by which workers agree on who leads.
LEADER = "leader-"
REMEDY = "name a directory that this user alone may enter, as in workers:///run/myapp"


def directory_of_url(url: str) -> Path:
    """Return the directory that a URL such as ``workers:///run/myapp`` names.

    :raises InvalidOption: it names none, or one that is too long.
    """
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.scheme != "workers" or parts.netloc or parts.query or parts.fragment or not path.startswith("/"):
        raise InvalidOption(f"{url!r} names no directory for the workers of this server; {REMEDY}")
    if len(os.fsencode(path)) > LONGEST:
        raise InvalidOption(f"{path} is too long for a Unix socket, at more than {LONGEST} bytes; {REMEDY}")
    return Path(path)


def directory_of_server(name: str) -> Path:
    """Return the directory for the workers of the server that has started this process, the same in all of them.

    It is told from other servers by the process that this one descends from; call it in a worker, after the fork.

    :param name: tells apps of one server apart.
    :raises InvalidOption: there is no place for it.
    """
    parent = os.getppid()
    app = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return _temporary() / f"{_prefix()}{parent}-{_started(parent)}-{app}"


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
    with suppress(OSError):  # it may have become another's, or read-only
        path_of(directory, node).unlink(missing_ok=True)
        if directory.name.startswith(_prefix()):
            directory.rmdir()  # unless others are there


def remove_leftovers(directory: Path) -> None:
    """Remove what servers of this user have left beside the directory of a server, when they are no more."""
    prefix = _prefix()
    if directory.name.startswith(prefix):
        for other in directory.parent.glob(f"{prefix}*-*-*"):
            parent, started = other.name[len(prefix) :].split("-")[:2]
            if other != directory and not (parent.isdigit() and _runs(int(parent), started)):
                with suppress(OSError, InvalidOption):
                    _remove(other)


def _prefix() -> str:
    """Return how the names of all directories of servers of this user begin."""
    return f"{PREFIX}-{os.geteuid()}-"


def _remove(directory: Path) -> None:
    """Remove a directory, unless somebody listens there: a server may be hidden, in a container of its own."""
    check_private(directory)
    for path in directory.iterdir():
        if path.is_socket() and _refuses(path):
            path.unlink()
    if not nodes_in(directory):
        for path in (*directory.glob("history*"), *directory.glob(f"{LEADER}*")):
            path.unlink()
    directory.rmdir()


def _refuses(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED


def _temporary() -> Path:
    """Return the directory of this user for what lives while it runs, or the one for all.

    :raises InvalidOption: there is none that can be written to.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK) and os.stat(runtime).st_uid == os.geteuid():
        return Path(runtime)
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise InvalidOption(
            f"there is no directory for temporary files, and so none for sockets: {error}; {REMEDY}"
        ) from error


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
