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
    """Make a small chat in a new folder NAME: server, page, test, README. It runs at once, and needs no npm."""
    folder = Path(name)
    if not re.fullmatch(r"[A-Za-z][\w-]*", folder.name, re.ASCII):
        raise click.BadParameter(f"{name!r}: a letter, then letters, digits, _ and -", param_hint="NAME")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise click.ClickException(f"{folder} is there already, and stays as it is: choose another name")
    texts = {folder / file: filled(f"new/{template}", {"NAME": folder.name}) for file, template in FILES.items()}
    write_new({**texts, folder / "static" / "phoenix.mjs": CLIENT.read_text("utf-8")})
    click.echo(
        f"\ncd {folder}\nflask run\n\nThen open http://127.0.0.1:5000 in two windows; python -m pytest runs the test."
    )
