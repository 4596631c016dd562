"""Code in languages that no tool of the tests reads, shown beside ours: its brackets."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.pages import Block

PAIRS = {")": "(", "]": "[", "}": "{"}
#: What may hold a bracket of its own.
TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|#[^\n{]*$|//[^\n]*$', re.MULTILINE)


def complaints(block: Block, folder: Path) -> list[str]:
    """Return the bracket that closes nothing, or is not closed."""
    opened: list[str] = []
    for bracket in re.findall(r"[()\[\]{}]", TEXT.sub("", block.code)):
        if bracket not in PAIRS:
            opened.append(bracket)
        elif not opened or opened.pop() != PAIRS[bracket]:
            return [f"{bracket} closes nothing"]
    return [f"{bracket} is not closed" for bracket in opened]
