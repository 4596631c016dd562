"""What ``flask phoenix gen`` and ``new`` write: files made of templates, none in the place of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

TEMPLATES = Path(__file__).parent / "templates"
#: The official client for pages, as npm has it.
CLIENT = Path(__file__).parent.parent / "static" / "phoenix.mjs"


def filled(template: str, words: Mapping[str, str]) -> str:
    """Return the text of a template, with each ``__WORD__`` replaced."""
    text = (TEMPLATES / f"{template}.txt").read_text("utf-8")
    for word, value in words.items():
        text = text.replace(f"__{word}__", value)
    return text


def write_new(texts: Mapping[Path, str]) -> None:
    """Write files, and say so; all of them, or none.

    :raises click.ClickException: one is there already, or cannot be written.
    """
    for path in texts:
        if path.exists():
            raise click.ClickException(f"{path} is there already, and stays as it is: choose another name")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
        click.echo(f"wrote {path}")
