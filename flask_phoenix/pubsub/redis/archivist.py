"""The thread in which a node has Redis keep and read, and how greenlets wait for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import Timeout
from gevent.event import AsyncResult

from ...exceptions import NotPublished
from .client import Command
from .threads import Threads

#: Commands that are carried out in one go.
BATCH = 1000
#: Seconds that a node waits for what Redis keeps.
ANSWER_TIMEOUT = 10.0


class Archivist:
    """Carries out commands for greenlets, in a thread that blocks: all that wait, in one go.

    :param execute: as that of the archive; blocks.
    """

    def __init__(self, threads: Threads, execute: Callable[[list[Command]], list[Any]]) -> None:
        self._threads = threads
        self._execute = execute
        self._queue: deque[tuple[Command, AsyncResult[Any]]] = deque()
        self._work = threading.Event()
        self._stopped = False
        self._thread: Any = None

    def execute(self, commands: list[Command]) -> list[Any]:
        """Have commands carried out, and wait for their answers.

        :raises NotPublished: they are not there in time, or the adapter is stopped.
        """
        if self._stopped:
            raise NotPublished("the adapter of Redis has just been stopped")
        if self._thread is None:
            self._thread = self._threads.spawn(self._run)
        results: list[AsyncResult[Any]] = [AsyncResult() for _ in commands]
        self._queue.extend(zip(commands, results, strict=True))
        self._threads.set(self._work)
        try:
            return [result.get(timeout=ANSWER_TIMEOUT) for result in results]
        except Timeout as error:
            raise NotPublished(f"Redis has not answered within {ANSWER_TIMEOUT:.0f} s") from error

    def stop(self) -> None:
        """End; who still waits is answered."""
        self._stopped = True
        self._threads.set(self._work)

    def _run(self) -> None:
        while not self._stopped or self._queue:
            if not self._queue:
                self._work.wait()
                self._work.clear()
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if batch:
                self._answer([result for _, result in batch], self._try([command for command, _ in batch]))

    def _try(self, commands: list[Command]) -> list[Any]:
        try:
            return self._execute(commands)
        except Exception as error:  # a connection that another thread has closed raises whatever it stumbles on
            return [error] * len(commands)

    def _answer(self, results: list[AsyncResult[Any]], answers: list[Any]) -> None:
        for result, answer in zip(results, answers, strict=True):
            self._threads.call(result.set, answer)
