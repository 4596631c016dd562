"""Python: a process that runs what it is told, each piece in a fork of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import DEADLINE, ROOT


class Runner:
    """The other end of :mod:`tests.docs.runner`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.docs.runner"),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, modules: Sequence[str], tests: Sequence[str]) -> str:
        """Import modules of a folder, and run its tests; return what is written.

        :raises AssertionError: one of them fails.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"folder": str(folder), "modules": modules, "tests": tests}) + "\n")
        self._process.stdin.flush()
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert result["status"] == 0, result["output"]
        return str(result["output"])

    def close(self) -> None:
        """End the process."""
        with self._process:
            assert self._process.stdin
            self._process.stdin.close()
            self._process.wait(DEADLINE)
