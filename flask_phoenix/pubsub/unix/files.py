"""Which file the histories of the workers are in: one that all of them have open, until it is deleted or damaged."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .directory import HISTORY

#: What SQLite puts beside its file. Where one of them is gone, others would read and write something else.
BESIDE = ("-wal", "-shm")


def find_file(directory: Path) -> Path:
    """Return the file that the workers have agreed on; where there is none, begin one."""
    link = directory / HISTORY
    while True:
        try:
            file = directory / os.readlink(link)
            if file.exists():
                return file
            leave_file(directory, file)
        except FileNotFoundError:
            with suppress(FileExistsError):  # another one has been quicker
                link.symlink_to(_make(directory).name)


def leave_file(directory: Path, file: Path) -> None:
    """Have all workers use another file, unless they do so already.

    Its name is one that none had before: SQLite removes by name what is beside a file that is closed.
    """
    link = directory / HISTORY
    if os.readlink(link) == file.name:
        new = _make(directory)
        new_link = Path(f"{new}-link")
        new_link.symlink_to(new.name)
        new_link.replace(link)
    for suffix in ("", *BESIDE):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def watched(directory: Path, file: Path) -> list[str]:
    """Return the paths that lead to the file that the workers have agreed on, and to what is beside one of them."""
    return [str(directory / HISTORY), *(f"{file}{suffix}" for suffix in BESIDE)]


def identify(paths: list[str]) -> list[int]:
    """Return by what files are known; nothing, if one is not there."""
    try:
        return [os.stat(path).st_ino for path in paths]
    except FileNotFoundError:
        return []


def _make(directory: Path) -> Path:
    file = directory / f"{HISTORY}-{secrets.token_hex(4)}.db"
    file.touch(0o600)
    return file
