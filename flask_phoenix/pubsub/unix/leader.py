"""Who leads among the workers of one host: who holds a lock on a file of their directory, which ends with its process.

There is no moment in which two lead. A leader that is stopped (SIGSTOP) still leads.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import gevent

from .directory import LEADER

#: Seconds between two looks at whether the leader has ended.
LOOK = 0.1


class Lock:
    """A lock between processes. A process that is forked from the one that has it does not have it."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / f"{LEADER}{sha256(name.encode()).hexdigest()[:16]}"
        self._descriptor = -1

    def acquire(self) -> None:
        """Wait for it; other greenlets run meanwhile."""
        while not self._try():
            gevent.sleep(LOOK)

    def release(self) -> None:
        """Give it up, and remove its file first: who has opened that meanwhile sees that it is gone."""
        if self._descriptor >= 0:
            with suppress(OSError):
                self._path.unlink()
            self.forget()

    def forget(self) -> None:
        """Close the file: in a forked process, whose copy would hold the lock for longer than its parent lives."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _try(self) -> bool:
        with suppress(OSError):  # somebody has it, or no descriptor is left
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    descriptor, self._descriptor = -1, descriptor
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return self._descriptor >= 0
