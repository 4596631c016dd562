"""What is typed to ``flask phoenix client``, at a terminal or not, and what is shown meanwhile."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import click


class Keyboard:
    """The standard input: at a terminal with the keys and the history of a shell; else its lines alone.

    A context manager, after which the terminal is as it was.
    """

    def __init__(self) -> None:
        self._readline: Any = None
        self._modes: list[Any] | None = None
        #: A line is being typed.
        self._typing = False

    def __enter__(self) -> Keyboard:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with suppress(ImportError):  # elsewhere than on Unix
                # Not at the top: it writes to the standard output, which may be read by a program.
                self._readline, self._termios = import_module("readline"), import_module("termios")
                self._modes = self._termios.tcgetattr(sys.stdin)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._modes is not None:  # whoever types is cut off
            self._termios.tcsetattr(sys.stdin, self._termios.TCSADRAIN, self._modes)

    def lines(self) -> Iterator[str]:
        """Yield the lines that are typed, until the end of the input."""
        if self._readline is None:
            yield from sys.stdin
            return
        with suppress(EOFError):
            while True:
                self._typing = True
                line = input()
                self._typing = False
                yield line

    def show(self, text: str) -> None:
        """Write a line; what was typed so far stands below it."""
        if self._readline is None or not self._typing:
            click.echo(text)
        else:
            click.echo(f"\r\x1b[K{text}\n{self._readline.get_line_buffer()}", nl=False)
