"""A command at a terminal, as somebody types to it."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import termios
from typing import Any

from .processes import DEADLINE, ROOT, START, wait_until


class Terminal:
    """Starts a command at a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._ours, self._its = os.openpty()
        self._said = ""
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm"},
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def modes(self) -> list[Any]:
        """Return how the terminal is set."""
        return termios.tcgetattr(self._its)

    def type(self, keys: str, until: str = "") -> None:
        """Press keys, and wait until a text is shown after that."""
        self._said = ""
        os.write(self._ours, keys.encode())
        assert wait_until(lambda: until in self._said, self._read, START), self._said

    def ended(self) -> int:
        """Wait for the end of the command, and return its status."""
        assert wait_until(lambda: self._process.poll() is not None, self._read, DEADLINE), self._said
        return self._process.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait(DEADLINE)
        os.close(self._ours)
        os.close(self._its)

    def _read(self) -> None:
        if select.select([self._ours], [], [], 0.05)[0]:
            self._said += os.read(self._ours, 65536).decode("utf-8", "replace")
