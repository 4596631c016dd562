"""Where an author's code stands, for messages: its file and line."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

#: How the files of this package begin.
PACKAGE = str(Path(__file__).parent)


def place_of(method: Any) -> str:
    """Return `` (/srv/app.py, line 12)`` of a function or method; empty for what has no such place, or stands here."""
    code = getattr(inspect.unwrap(getattr(method, "__func__", method)), "__code__", None)
    if code is None or code.co_filename.startswith(PACKAGE):
        return ""
    return f" ({code.co_filename}, line {code.co_firstlineno})"


def place_of_caller() -> str:
    """Return ``/srv/app.py, line 12``: where this package was called from."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}, line {frame.f_lineno}"
