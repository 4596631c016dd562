"""The pages as they are written: their blocks of code, their tables, and the prose between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.processes import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
#: What stands beside the folder of the pages, and refers to them.
BESIDE = ["../CHANGELOG.md", "../README.md"]

#: A block of code may stand in a list, and is indented then.
FENCE = re.compile(r"^( *)```([\w{}-]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A piece of code in a page."""

    page: str
    language: str
    line: int
    code: str

    @property
    def filename(self) -> str:
        """The name in the first line, if there is one."""
        named = re.match(r"(?:#|//|<!--) ([\w/.-]+\.\w+)(?: -->)?\n", self.code)
        return named[1] if named else f"block_{self.line}.py"

    @property
    def place(self) -> str:
        """Where a reader finds it."""
        return f"{self.page}:{self.line}"


def read(page: str) -> str:
    """Return a page as it is written."""
    return (DOCS / page).read_text("utf-8")


def blocks(page: str, *languages: str) -> Iterator[Block]:
    """Yield the pieces of code in some languages, or in all."""
    text = read(page)
    for match in FENCE.finditer(text):
        indent, language, code = match.groups()
        if not languages or language in languages:
            lines = code.splitlines(keepends=True)
            code = "".join(line.removeprefix(indent) for line in lines)
            yield Block(page, language, text.count("\n", 0, match.start()) + 2, code)


def prose(page: str) -> str:
    """Return a page without its pieces of code."""
    return FENCE.sub("", read(page))


def rows(page: str, *header: str) -> list[list[str]]:
    """Return the rows of the table with this header; backticks are taken off."""
    start = f"| {' | '.join(header)} |\n"
    assert read(page).count(start) == 1
    lines = read(page).partition(start)[2].splitlines()[1:]
    table = lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in table]


def cells(page: str, first: str) -> list[list[str]]:
    """Return the rows of the table whose first column has this name, as they are written."""
    table = read(page).partition(f"| {first} | ")[2].partition("\n\n")[0]
    return [line[2:-2].split(" | ") for line in table.splitlines()[2:]]


#: Numbers that are written as words.
WORDS = {"two": 2, "fourth": 4}


def stated(page: str, pattern: str) -> list[float]:
    """Return the numbers that a page states where a pattern finds them."""
    return [
        float(WORDS.get(number, 0) or number.replace(",", ""))
        for number in re.findall(pattern, " ".join(prose(page).split()))
    ]
