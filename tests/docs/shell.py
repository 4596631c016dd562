"""What a reader types into a shell: its syntax, and that our commands, extras and targets are there as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from importlib.metadata import metadata
from pathlib import Path
from unittest.mock import patch

import click
from gunicorn.config import Config

from flask_phoenix.cli.commands import phoenix
from flask_phoenix.cli.run import run
from tests.docs.pages import Block
from tests.support.processes import DEADLINE, ROOT

TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
EXTRAS = set(metadata("flask_phoenix").get_all("Provides-Extra") or ())
#: What may stand before a command on its line.
BEFORE = re.compile(r"^(?:\w+=\S*|sudo|exec)$")
#: What stands between commands, or after one.
CHAINING = {"&&", "||", "|", ";", "&", "(", ")", ">", ">>", "<"}
#: What a file that the page speaks of is, here.
MISSING = "does not exist"


def typed(block: Block) -> str:
    """Return what is typed: of a session, the lines that begin with ``$``, and those that go on with one."""
    if block.language != "console" and not block.code.startswith("$ "):
        return block.code
    lines = re.findall(r"^\$ (.*(?:\\\n.*)*)$", block.code, re.MULTILINE)
    return "\n".join(lines) + "\n"


def complaints(block: Block, folder: Path) -> list[str]:
    """Return what is wrong with what is typed."""
    said = bash(typed(block), folder)
    return said or [wrong for words in commands(typed(block)) if (wrong := complaint(words))]


def bash(script: str, folder: Path) -> list[str]:
    """Let the shell read a script, without running it."""
    (folder / "script").write_text(script)
    command, language = ("bash", "-n", folder / "script"), {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(command, env=language, capture_output=True, text=True, timeout=DEADLINE, check=False)
    return done.stderr.splitlines()


def commands(script: str) -> list[list[str]]:
    """Return the words of each command that stands on a line of its own, or in a chain of them."""
    found: list[list[str]] = []
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quote that another line closes
            continue
        found.append([])
        for word in words:
            if word in CHAINING:
                found.append([])
            elif found[-1] or not BEFORE.match(word):
                found[-1].append(word)
    return [[Path(words[0]).name, *words[1:]] for words in found if words]


def complaint(words: list[str]) -> str | None:
    """Return what is wrong with a command, if it is one that we know."""
    name, *arguments = words
    if name in ("python", "python3") and arguments[:1] == ["-m"]:
        return complaint(arguments[1:])
    return KNOWN[name](arguments) if name in KNOWN else None


def flask(arguments: list[str]) -> str | None:
    """Read the arguments of ``flask run`` and ``flask phoenix`` as they would; run nothing."""
    ours, _, served = " ".join(map(shlex.quote, arguments)).partition(" -- ")
    words = shlex.split(ours)
    start = next((place for place, word in enumerate(words) if word in ("phoenix", "run")), None)
    if start is None:
        return None
    command: click.Command | None = run
    if words[start] == "phoenix":
        start += 1
        command = phoenix.get_command(click.Context(phoenix), words[start])
    if command is None:
        return f"there is no flask phoenix {words[start]}"
    try:
        with patch.dict(os.environ):  # which --debug changes
            command.make_context(words[start], words[start + 1 :])
    except click.ClickException as error:
        return None if MISSING in error.format_message() else error.format_message()
    return complaint(shlex.split(served)) if served else None


def gunicorn(arguments: list[str]) -> str | None:
    """Read the arguments of ``gunicorn`` as it would."""
    try:
        _, unknown = Config().parser().parse_known_args(arguments)
    except SystemExit:
        return f"gunicorn does not take {arguments}"
    return f"gunicorn has no {unknown}" if unknown else None


def make(arguments: list[str]) -> str | None:
    """Look for the targets in the Makefile."""
    unknown = {word for word in arguments if "=" not in word and not word.startswith("-")} - TARGETS
    return f"make has no {unknown}" if unknown else None


def pip(arguments: list[str]) -> str | None:
    """Look for the extras in the package's metadata."""
    named = {extra for word in arguments for extra in re.findall(r"flask_phoenix\[([\w,]+)\]", word)}
    unknown = {name for names in named for name in names.split(",")} - EXTRAS
    return f"there are no extras {unknown}" if unknown else None


KNOWN = {"flask": flask, "gunicorn": gunicorn, "make": make, "pip": pip, "pip3": pip}
