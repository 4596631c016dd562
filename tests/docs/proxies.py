"""Configuration of proxies that no library reads: their own check where they are installed, else their brackets."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.docs.pages import Block
from tests.support.processes import DEADLINE


def checked_by(*command: str) -> Callable[[Block, Path], list[str]]:
    """Make a check of a command, whose last word will be the file."""

    def complaints(block: Block, folder: Path) -> list[str]:
        if block.code.count("{") != block.code.count("}"):
            return ["a bracket is open"]
        if not shutil.which(command[0]):
            return []
        (folder / "config").write_text(block.code)
        done = subprocess.run(
            (*command, folder / "config"), capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()

    return complaints


haproxy = checked_by("haproxy", "-c", "-f")
caddy = checked_by("caddy", "validate", "--adapter", "caddyfile", "--config")
