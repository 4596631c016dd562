"""How a test drives the scripts beside this file: one JSON value a line, each way."""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.child import Child
from tests.support.processes import HOST, START, Server

FOLDER = Path(__file__).parent
#: The environment of a server in which no warning passes.
STRICT = {"PYTHONWARNINGS": "error"}

#: What a script may ask for, and what then is done.
Helpers = Mapping[str, Callable[[], object]]


class Script:
    """A running Node script.

    :param words: the script's name and its arguments.
    """

    def __init__(self, *words: str) -> None:
        self._words = words
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._noise: list[str] = []
        self._child = Child(("node", *words), FOLDER, self._sort, self._end, subprocess.STDOUT)

    def tell(self, value: object) -> None:
        """Write one line to the script."""
        self._child.tell(json.dumps(value))

    def hear(self) -> Any:
        """Return the script's next value.

        :raises AssertionError: it ended, or said nothing until the deadline.
        """
        try:
            line = self._lines.get(timeout=START)
        except queue.Empty:
            line = None
        assert line is not None, f"{self._words} says nothing more; before:\n{''.join(self._noise)}"
        return json.loads(line)

    def result(self, helpers: Helpers | None = None) -> dict[str, Any]:
        """Return the script's result, and help wherever it asks on the way."""
        heard: dict[str, Any] = self.hear()
        while "ask" in heard:
            (helpers or {})[heard["ask"]]()
            self.tell("done")
            heard = self.hear()
        return heard

    def close(self) -> int:
        """End the script with its input, and return its exit status."""
        return self._child.close()

    def _sort(self, line: str) -> None:
        if line.startswith(("{", "[")):
            self._lines.put(line)
        else:
            self._noise.append(line)

    def _end(self) -> None:
        self._lines.put(None)


def play(player: Script, server: str, story: str, *, helpers: Helpers | None = None, **options: str) -> None:
    """Play one story.

    :param player: ``stories.mjs`` or ``browser.mjs``.
    :param options: the ``client``, the ``vsn``, the ``transport``; in a browser the ``origin`` of the page.
    :raises AssertionError: the story ended badly.
    """
    player.tell({"url": server, "story": story, **options})
    assert_good(player.result(helpers))


def assert_good(result: Mapping[str, Any]) -> None:
    """Fail with what a story tells of its bad end."""
    assert result["ok"], "\n".join([result["story"], result["error"], *result.get("log", ())])


class Keeper:
    """Stops a server, and starts it again on its port, whenever a script asks for that."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.statuses: list[int] = []

    @property
    def helpers(self) -> Helpers:
        """What a script may ask for."""
        return {"stop": self.stop, "start": self.start, "restart": self.restart}

    def stop(self) -> None:
        """End the server."""
        self.statuses.append(self.server.stop())

    def start(self) -> None:
        """Start it again."""
        self.server = _Successor(self.server)
        self.server.wait_ready()

    def restart(self) -> None:
        """Do both."""
        self.stop()
        self.start()


class _Successor(Server):
    """A server with the command and on the port of one that was stopped."""

    def __init__(self, older: Server) -> None:
        super().__init__(tuple(older.command), older.log.with_suffix(".again.log"), older.environment)
        self.port = older.port


def base(server: Server, scheme: str = "http") -> str:
    """Return a server's address without a path."""
    return f"{scheme}://{HOST}:{server.port}"
