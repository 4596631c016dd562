"""Figures as a table for a terminal, and as one for a document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Where the figures and the plot of the documents are.
FIGURES, PLOT = ROOT / "docs" / "bench.json", ROOT / "docs" / "bench.svg"
#: A table in a document: of a question, and of the columns that follow the colon, if not of all.
BLOCK = re.compile(r"(<!-- bench (\w+)(?:: ([^>]*?))? -->\n).*?(<!-- /bench -->)", re.DOTALL)


def short(value: float | None) -> str:
    """Write a figure with as many digits as it deserves."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    digits = 3 if abs(value) < 0.1 else 2 if abs(value) < 10 else 1
    return f"{value:.{digits}f}"


def columns_of(table: dict[str, dict[str, Any]]) -> list[str]:
    """Return the names of all columns, in order."""
    return list(dict.fromkeys(name for figures in table.values() for name in figures))


def text(table: dict[str, dict[str, Any]]) -> str:
    """Write a table for a terminal."""
    columns = columns_of(table)
    rows = [["", *columns]]
    rows += [[name, *(short(figures.get(column)) for column in columns)] for name, figures in table.items()]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [[row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))] for row in rows]
    return "\n".join("  ".join(line) for line in lines)


def markdown(table: dict[str, dict[str, Any]], columns: list[str]) -> str:
    """Write a table for a document."""
    lines = [["", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(short(figures.get(column)) for column in columns)] for name, figures in table.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill(page: str, results: dict[str, Any]) -> str:
    """Return a document with the figures of its tables."""

    def block(found: re.Match[str]) -> str:
        begin, question, chosen, end = found.groups()
        table = results[question]["table"]
        return begin + markdown(table, chosen.split("; ") if chosen else columns_of(table)) + end

    return BLOCK.sub(block, page)


def pages() -> Iterator[Path]:
    """Yield the documents that may have figures."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))
