"""A child process that is told lines, and says lines."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.processes import DEADLINE


class Child:
    """A running command, which ends with its input.

    :param hear: called with each line that it says, in a thread of its own.
    :param end: called when it says nothing more.
    :param stderr: where else than to our own its errors go, as for :class:`subprocess.Popen`.
    """

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        hear: Callable[[str], None],
        end: Callable[[], None] = lambda: None,
        stderr: int | None = None,
    ) -> None:
        self._hear = hear
        self._end = end
        self._process = subprocess.Popen(
            words, cwd=folder, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, line: str) -> None:
        """Say a line to it."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def close(self) -> int:
        """End it, and return its exit status."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            return self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join(DEADLINE)
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._hear(line)
        self._end()
