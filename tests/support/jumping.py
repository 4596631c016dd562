"""A host whose clock jumps: ``python -m tests.support.jumping gunicorn ...`` runs a module in such a process.

``time.time()`` and the event loop's own time jump there, in it and in all processes that it forks; what counts seconds
since the machine has started (``time.monotonic()``, timers) does not, as on a machine whose clock is set.
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import sys
import time
from pathlib import Path

import gevent
from gevent.libev import corecext

#: Names the file that says by how many seconds the clock is wrong.
VARIABLE = "JUMPING_CLOCK"


class HostClock:
    """The clock of a host.

    :param folder: takes its file.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.environment = {VARIABLE: str(self._file)}
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Be wrong by so many seconds."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("d", seconds))


def run() -> None:
    """Run a module whose words are the command's."""
    with open(os.environ[VARIABLE], "rb") as file:
        wrong = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    system = time.time

    def jumped() -> float:
        offset: float = struct.unpack("d", wrong[:])[0]
        return system() + offset

    class Loop(corecext.loop):
        def now(self) -> float:
            return super().now() + jumped() - system()

    time.time = jumped
    gevent.config.loop = Loop  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run()
