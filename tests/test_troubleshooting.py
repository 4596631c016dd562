"""Troubleshooting quotes what is really said: each line of ours is in the code, each finding and metric exists."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from flask_phoenix.doctor.findings import KINDS
from tests.docs.pages import blocks, prose, read
from tests.support.processes import ROOT

PAGE = "troubleshooting/symptoms.md"
#: What stands for whatever differs, in the page and in the code.
GAP = re.compile(r"…|%[sd.\dg]+f?")
QUOTES = [block.code.strip() for block in blocks(PAGE, "text")]
QUOTES += list(re.findall(r"`(a client of [^`]*)`", prose(PAGE)))


@cache
def literals() -> list[list[str]]:
    """Return the texts of the package, each as the pieces between what is put into it."""
    found = []
    for path in (ROOT / "flask_phoenix").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(GAP.split(node.value))
            elif isinstance(node, ast.JoinedStr):
                found.append([part.value for part in node.values if isinstance(part, ast.Constant)])
    return found


@pytest.mark.parametrize("quote", QUOTES)
def test_quotes_are_what_is_logged(quote: str) -> None:
    """A line may be put together from several texts of the code."""
    for piece in filter(None, (part.strip(" :") for part in GAP.split(quote))):
        assert any(piece in part for text in literals() for part in text), piece


def test_findings_and_metrics_exist() -> None:
    text = read(PAGE)
    metrics = set(re.findall(r"`(phoenix_\w+)`", text))
    reference = read("reference/telemetry.md")
    assert [name for name in metrics if f"`{name}`" not in reference] == []
    named = re.findall(r"(?:finding (?:is )?|findings: |redis-unreachable`, )`([\w-]+)`", text)
    assert len(named) >= 6
    assert [name for name in named if name not in KINDS] == []
