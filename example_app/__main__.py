"""Start everything: ``python -m example_app --port 4000`` runs the workers, and the trams beside them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from subprocess import Popen
from tempfile import TemporaryDirectory

import click

HOST = "127.0.0.1"


@click.command()
@click.option("--port", default=4000, show_default=True, help=f"Where to listen on {HOST}.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="How many processes serve; one does without gunicorn.",
)
@click.option("--trams", default=300, show_default=True, help="How many run through the map.")
def main(port: int, workers: int, trams: int) -> None:
    """Serve the example: its chat, its live map and its game."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # whichever comes, it is Ctrl-C
    check_free(port)
    # Unix sockets are to live there, whose paths have 107 bytes at most: a $TMPDIR could be too long for that.
    with suppress(KeyboardInterrupt), TemporaryDirectory(prefix="hearth-", dir="/tmp") as folder, ExitStack() as stack:
        # What joins the processes, and what all of them remember. Another way, from outside, goes first: with
        # PHOENIX_PUBSUB_URL=redis://localhost they meet over Redis.
        os.environ.setdefault("PHOENIX_PUBSUB_URL", f"workers://{folder}")
        os.environ.setdefault("FLASK_DATABASE", f"{folder}/chat.db")
        code = os.environ.setdefault("FLASK_STAFF_CODE", "ember")
        commands = [server(port, workers), ["-m", "example_app.trams", "--trams", str(trams)]]
        processes = [stack.enter_context(running(command)) for command in commands]
        url, told = f"http://{HOST}:{port}/", False
        while all(process.poll() is None for process in processes):
            if not told and answers(port):
                click.echo(
                    f"The chat, the map and the game are at {url} (or at {url}chat, {url}map and {url}game) - the code"
                    f" of the staff room is {code!r}"
                )
                told = True
            time.sleep(0.1)
        raise click.ClickException("one of the processes has ended; so do the others")


def server(port: int, workers: int) -> list[str]:
    """The command that serves."""
    if workers == 1:
        return ["-m", "example_app.serve", "--port", str(port)]
    gunicorn = ["-m", "gunicorn", "--worker-class", "gevent", "--workers", str(workers), "--bind", f"{HOST}:{port}"]
    return [*gunicorn, "--no-control-socket", "example_app:create_app()"]


def check_free(port: int) -> None:
    """See that nobody else serves there.

    :raises ClickException: somebody does.
    """
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise click.ClickException(f"cannot listen on {HOST}:{port}: {error.strerror}") from error


@contextmanager
def running(command: list[str]) -> Iterator[Popen[bytes]]:
    """A process that runs a command of Python's, and ends with the block."""
    # In a group of its own: Ctrl-C comes here alone, and from here as a SIGTERM, at which the server lets its clients
    # go in good order.
    process = Popen([sys.executable, *command], start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait()
        except KeyboardInterrupt:  # a second one: that takes too long
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(port: int) -> bool:
    """Tell whether the server has begun to serve."""
    with suppress(OSError, HTTPException), closing(HTTPConnection(HOST, port)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().status == HTTPStatus.OK
    return False


if __name__ == "__main__":
    main()
