"""The server's code that the start page shows, as it stands in the files at work."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parent

#: What is shown beside each of the three: files, and names of classes and functions in them.
PARTS = {
    "chat": [("channels.py", "RoomChannel")],
    "map": [("channels.py", "LineChannel"), ("channels.py", "MapChannel"), ("trams.py", "tell")],
    "game": [("game/channel.py", "GameChannel"), ("game/channel.py", "tick")],
}


class Line(NamedTuple):
    """A line of code: its HTML, and by how many characters it is indented."""

    html: Markup
    indent: int


class Excerpt(NamedTuple):
    """Lines that stand together in one file, from one number to another."""

    file: str
    first: int
    last: int
    lines: list[Line]


@cache
def code(name: str) -> list[Excerpt]:
    """The code of one of the three, highlighted."""
    return [_excerpt(file, part) for file, part in PARTS[name]]


def _excerpt(file: str, name: str) -> Excerpt:
    source = (ROOT / file).read_text(encoding="utf-8")
    first, last = _place(source, name)
    lines = source.splitlines()[first - 1 : last]
    # A line at a time has tags of its own, so that a narrow page can wrap it below its own beginning.
    coloured = highlight("\n".join(lines), PythonLexer(), HtmlFormatter(nowrap=True)).splitlines()
    indents = [len(line) - len(line.lstrip(" ")) for line in lines]
    shown = [Line(Markup(html), indent) for html, indent in zip(coloured, indents, strict=True)]
    return Excerpt(f"{ROOT.name}/{file}", first, last, shown)


def _place(source: str, name: str) -> tuple[int, int]:
    """The first and the last line of what has that name, with its decorators."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name and node.end_lineno:
            return min(each.lineno for each in (node, *node.decorator_list)), node.end_lineno
    raise LookupError(name)
