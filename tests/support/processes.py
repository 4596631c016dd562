"""Servers in processes of their own: started on a free port, waited for, and ended by their own process ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
#: A server's log is read while it runs, and gunicorn's control socket would be one for all, in the home folder.
ENVIRONMENT = {
    "GUNICORN_CMD_ARGS": "--no-control-socket --config python:tests.clients.gunicorn_ready",
    "PYTHONUNBUFFERED": "1",
}
#: The unit of all waiting: seconds after which what has not happened counts as lost. A slow machine stretches it.
DEADLINE = 10 * float(os.environ.get("PHOENIX_TEST_STRETCH", "1"))
#: The same where processes start: each takes a second of its own, and more beside others.
START = 5 * DEADLINE
#: The same for the end of a server, whose processes each take their time. A worker that gunicorn has not told to end
#: would take 30 seconds.
END = 2 * DEADLINE


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_until(condition: Callable[[], bool], tick: Callable[[], object], within: float = DEADLINE) -> bool:
    """Ask again after each tick until the condition holds; return whether it did before the deadline.

    :param tick: lets a moment pass: an event waited for with a short limit, or one turn of a loop.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        tick()
    return True


class Server:
    """A command that serves on a port; ``{port}`` in its words stands for that port."""

    def __init__(self, command: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
        self.port = free_port()
        self.command = [word.format(port=self.port) for word in command]
        self.log = log
        self.environment = environment
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **ENVIRONMENT, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process that was started; what it starts in turn belongs to its group."""
        return self.process.pid

    def url(self, path: str = "/", scheme: str = "http") -> str:
        """Return the address of a path of this server."""
        return f"{scheme}://{HOST}:{self.port}{path}"

    def logs(self) -> str:
        """Return all that the server has written so far."""
        return self.log.read_text("utf-8", "replace")

    def wait_ready(self) -> None:
        """Return once somebody accepts connections on the port, and all workers serve, if it is gunicorn's.

        :raises AssertionError: the process ended instead, or the deadline passed.
        """
        assert wait_until(self._accepts, self._wait_briefly, START), self._failure("accepts no connection")
        self.wait_for_workers()

    def wait_for_workers(self) -> None:
        """Return once gunicorn has all its workers, and each hears signals.

        A worker that boots while gunicorn is stopped is not told so, and gunicorn waits 30 s for it.

        :raises AssertionError: the deadline passed.
        """
        if "gunicorn" in self.command:
            assert wait_until(self._all_hear, self._wait_briefly, START), self._failure("has workers that hear nothing")

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Return once the server has written a text so many times.

        :raises AssertionError: it did not before the deadline.
        """
        assert wait_until(lambda: self.logs().count(text) >= times, self._wait_briefly, START), self._failure(
            f"does not write {text!r}"
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the process to end, and return its exit status; whatever is left of its group is killed.

        :raises subprocess.TimeoutExpired: it did not end before the deadline.
        """
        try:
            self.wait_for_workers()
            self.process.send_signal(number)  # which does nothing if it has ended
            return self.process.wait(END)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE)

    def _accepts(self) -> bool:
        status = self.process.poll()
        assert status is None, self._failure(f"ended with status {status}")
        with contextlib.suppress(ConnectionError), socket.create_connection((HOST, self.port), DEADLINE):
            return True
        return False

    def _all_hear(self) -> bool:
        if self.process.poll() is not None:
            return True
        workers = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        expected = int(self.command[self.command.index("-w") + 1]) if "-w" in self.command else 1
        logs = self.logs()
        return len(workers) >= expected and all(f"worker {pid} hears signals" in logs for pid in workers)

    def _failure(self, what: str) -> str:
        return f"{' '.join(self.command)} {what}; it wrote:\n{self.logs()}"

    def _wait_briefly(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.02)


class Servers:
    """The servers of one test.

    :param folder: takes one log file for each.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[Server] = []

    def start(self, *command: str, **environment: str) -> Server:
        """Start a command and return its server once it accepts connections."""
        server = Server(command, self._folder / f"server-{len(self._servers)}.log", environment)
        self._servers.append(server)
        server.wait_ready()
        return server

    def stop(self) -> None:
        """End those that still run, the youngest first.

        :raises subprocess.TimeoutExpired: one of them had to be killed.
        """
        with contextlib.ExitStack() as stack:
            for server in self._servers:
                stack.callback(server.stop)
