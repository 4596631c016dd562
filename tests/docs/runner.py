"""Runs the Python of pages, each in a fork of one process that has imported already what all of them import.

    python -m tests.docs.runner

Each line that comes in is ``{"folder", "modules", "tests"}``, and is answered by ``{"status", "output"}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

#: What pages import, the slowest of it.
COMMON = ("flask_phoenix.extension", "flask_phoenix.testing", "flask_login", "flask_wtf", "sqlalchemy.orm", "pydantic")
#: Our plugin alone: to load all that are installed takes longer than most tests.
PYTEST = ("-p", "flask_phoenix.pytest_plugin", "-p", "no:cacheprovider", "-q")
#: Seconds for a page.
WITHIN = 60


def work(modules: Sequence[str], tests: Sequence[str]) -> int:
    """Import modules, with warnings as errors, and let pytest run tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in modules:
            import_module(module)
    return int(pytest.main([*PYTEST, *tests])) if tests else 0


def perform(folder: str, modules: Sequence[str], tests: Sequence[str]) -> dict[str, Any]:
    """Do it in a fork, and return what came of it."""
    output = Path(folder) / "output"
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(WITHIN)
            os.dup2(os.open(output, os.O_CREAT | os.O_WRONLY), 1)
            os.dup2(1, 2)
            os.chdir(folder)
            sys.path.insert(0, folder)
            status = work(modules, tests)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    return {"status": ended, "output": output.read_text("utf-8")}


def main() -> None:
    """Answer each line."""
    for module in COMMON:
        import_module(module)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for line in sys.stdin:
        sys.stdout.write(json.dumps(perform(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
