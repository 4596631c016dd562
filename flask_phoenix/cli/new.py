"""``flask phoenix new``: a small app with a chat page, which runs at once."""

from __future__ import annotations

import re
from pathlib import Path

import click

from .files import CLIENT, filled, write_new

#: What is written, and of which template.
FILES = {
    "app.py": "app.py",
    "test_app.py": "test_app.py",
    "templates/chat.html": "chat.html",
    "static/chat.mjs": "chat.mjs",
    "static/chat.css": "chat.css",
    "requirements.txt": "requirements.txt",
    "README.md": "README.md",
}


@click.command("new")
@click.argument("name")
def new(name: str) -> None:
    """Make a small chat in a new folder NAME: server, page, test, README. It runs at once, and needs no npm.

    A dot as NAME is this folder, which may have a virtual environment and hidden files, and nothing else.
    """
    folder = Path(name)
    title = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z][\w-]*", title, re.ASCII):
        raise click.BadParameter(f"{title!r}: a letter, then letters, digits, _ and -", param_hint="NAME")
    if (other := _what_is_there(folder)) is not None:
        raise click.ClickException(f"{other} is there already, and stays as it is: choose another name")
    texts = {folder / file: filled(f"new/{template}", {"NAME": title}) for file, template in FILES.items()}
    write_new({**texts, folder / "static" / "phoenix.mjs": CLIENT.read_text("utf-8")})
    there = "" if folder.resolve() == Path.cwd() else f"cd {folder}\n"
    click.echo(f"\n{there}flask run\n\nThen open http://127.0.0.1:5000 in two windows; python -m pytest runs the test.")


def _what_is_there(folder: Path) -> Path | None:
    """Return what an app would get mixed up with."""
    if not folder.is_dir():
        return folder if folder.exists() else None
    harmless = (path for path in folder.iterdir() if path.name[0] == "." or (path / "pyvenv.cfg").exists())
    return next(iter(set(folder.iterdir()) - set(harmless)), None)
