"""The command that serves: its server, its settings, and how the app is loaded by it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .findings import KINDS, Finding, found
from .probe import __name__ as PROBE

#: Seconds in which an app has to be loaded.
LOADING_TIMEOUT = 60.0
#: Files that a process opens beside those of its clients.
OTHER_FILES = 20
#: Seconds that clients and handlers have when a process ends.
DRAIN_TIME = 15
#: Servers of scripts that have an event loop of gevent's.
WITH_EVENT_LOOP = ("phoenix.run", "gevent")
#: How many names a finding lists.
LISTED = 5
#: Characters of what a command has written that are shown.
SHOWN_OUTPUT = 500


def read_command(command: list[str]) -> tuple[str, list[str]]:
    """Return what serves (``gunicorn``, ``python``, ``flask``, or another program), and the words after that."""
    words = list(command)
    name = os.path.basename(words.pop(0))
    if name.startswith("python"):
        name = "python"
        while words and words[0].startswith("-") and words[0] != "-m":
            del words[: 2 if words[0] in ("-W", "-X") else 1]
        if words[:1] == ["-m"] and words[1:2] in (["gunicorn"], ["flask"]):
            name, words = words[1], words[2:]
    return name, words


def look(command: list[str]) -> dict[str, Any]:
    """Load the app as the command would, in a process of its own, and return what was seen there."""
    kind, words = read_command(command)
    if kind not in ("gunicorn", "python") or not words:
        return {"server": kind, "settings": {}, "error": ""}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        probe = [sys.executable, "-m", PROBE, str(report), kind, *words]
        try:
            done = subprocess.run(
                probe, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LOADING_TIMEOUT
            )
        except subprocess.TimeoutExpired:
            return {"server": "", "settings": {}, "error": f"it is not loaded within {LOADING_TIMEOUT:g} s"}
        facts: dict[str, Any] = {"server": "", "settings": {}, "error": f"it ends with status {done.returncode}"}
        if report.exists():
            facts = json.loads(report.read_text("utf-8"))
    if facts["error"]:
        facts["error"] += f"\n{done.stderr.strip()[-SHOWN_OUTPUT:]}" if done.stderr.strip() else ""
    return facts


def check(facts: dict[str, Any]) -> Iterator[Finding]:
    """Look at what was seen."""
    server, settings = facts["server"], facts["settings"]
    if facts["error"]:
        yield found("app", f"the app is not loaded by that command: {facts['error']}")
    elif server == "gunicorn" and not facts.get("gevent"):
        yield found("server", f"gunicorn's worker class is {settings['worker_class_str']!r}")
    elif server in ("gunicorn", "flask", *WITH_EVENT_LOOP):
        yield from _check_patching(facts)
    else:
        yield found("server", f"{server or 'nothing that is known'} serves the app by that command")
    if "graceful_timeout" in settings and settings["graceful_timeout"] < DRAIN_TIME:
        yield found("graceful-timeout", f"it is {settings['graceful_timeout']} s")
    if facts.get("master_patched"):
        yield found(
            "patching",
            "what gunicorn loads first patches gunicorn's own process, which then notices no worker that dies",
            "leave monkey.patch_all() out of it: -k gevent patches in each worker",
        )
    if facts.get("gevent"):
        yield from check_descriptors(settings["worker_connections"], "--worker-connections")


def _check_patching(facts: dict[str, Any]) -> Iterator[Finding]:
    held = [f"{module} holds {', '.join(names)}" for module, names in facts.get("holders", {}).items()]
    if facts.get("unpatched"):
        yield found("patching", f"these modules are not patched: {', '.join(facts['unpatched'])}")
    elif facts["server"] in WITH_EVENT_LOOP and facts["before"]:
        first, *others = facts["before"]
        also = f" (then {', '.join(others[:LISTED])})" if others else ""
        kept = f"; {'; '.join(held[:LISTED])}" if held else ""
        yield found("patching", f"the import of {first}{also} comes before monkey.patch_all(){kept}")
    elif held:
        when = " with --preload" if facts["settings"].get("preload_app") else ""
        yield found(
            "patching", f"imported before gevent patches{when}, what waits there stops all: {'; '.join(held[:LISTED])}"
        )


def check_descriptors(clients: float, setting: str) -> Iterator[Finding]:
    """See that as many files can be opened as there may be clients."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < clients + OTHER_FILES:
        yield found("descriptors", f"a process may open {limit} files, and {setting} is {clients:g}")


def check_drivers(names: list[str]) -> Iterator[Finding]:
    """Tell of drivers that wait on their own."""
    for name in names:
        own = "register psycogreen's wait callback, or take psycopg 3; or " if name == "psycopg2" else ""
        yield found("driver", f"{name} is loaded, and waits on its own", own + KINDS["driver"].remedy)
