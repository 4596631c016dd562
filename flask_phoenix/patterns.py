"""Topic patterns: ``room:lobby``, ``room:*``, and ``room:<room_id>`` with variables, as Flask's rules have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

from .exceptions import InvalidOption

#: What a variable stands for, and what makes its value: those of Flask's rules; a topic's parts are told by colons.
CONVERTERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "string": ("[^:]+", str),
    "int": ("[0-9]{1,100}", int),
    "float": (r"[0-9]{1,100}\.[0-9]{1,100}", float),
    "uuid": ("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", UUID),
    "path": (".+", str),
}
VARIABLE = re.compile(r"<(?:(\w+):)?([^\W\d]\w*)>")
#: Names that ``join`` needs for its own.
TAKEN = ("self", "payload")


EXPECTED = (
    "a pattern is a topic ('room:lobby'), a beginning and one star at its end ('room:*'), or has variables"
    " ('room:<room_id>', 'room:<int:room_id>')"
)


class Found(NamedTuple):
    """What stands in a topic that fits a pattern."""

    #: What the star stands for; empty without a star.
    subtopic: str
    variables: dict[str, Any]


class Pattern:
    """A topic pattern, taken apart.

    :raises InvalidOption: it cannot be one.
    """

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or "*" in text[:-1]:
            raise InvalidOption(f"{EXPECTED}; got {text!r}")
        if (braces := re.search(r"\{(\w*)\}", text)) is not None:
            raise InvalidOption(f"{text!r} would fit that one topic alone: a variable is written <{braces[1]}>")
        self._begin, self._star = text.removesuffix("*"), text.endswith("*")
        #: What makes the value of each variable, by its name.
        self.variables = _converters(text)
        self._compiled = re.compile(_expression(text), re.DOTALL) if self.variables else None

    def find(self, topic: str) -> Found | None:
        """Return what stands in a topic; None: it does not fit."""
        if self._compiled is not None:
            return self._find_variables(self._compiled.fullmatch(topic))
        if self._star:
            return Found(topic[len(self._begin) :], {}) if topic.startswith(self._begin) else None
        return Found("", {}) if topic == self._begin else None

    def _find_variables(self, match: re.Match[str] | None) -> Found | None:
        if match is None:
            return None
        values = {name: convert(match[name]) for name, convert in self.variables.items()}
        return Found(match[match.re.groups] if self._star else "", values)


def _converters(text: str) -> dict[str, Callable[[str], Any]]:
    """Return the names of a pattern's variables, and what makes their values."""
    found: dict[str, Callable[[str], Any]] = {}
    end = 0
    for match in VARIABLE.finditer(text):
        kind, name = match.groups()
        if kind and kind not in CONVERTERS:
            raise InvalidOption(f"{text!r} has a variable of the kind {kind!r}; there are {', '.join(CONVERTERS)}")
        if name in found or name in TAKEN:
            raise InvalidOption(f"{text!r} has a variable {name!r}, which is taken: give it another name")
        # So that no topic, whatever a client makes of it, can be taken apart in many ways, all of which are tried.
        if (found and ":" not in text[end : match.start()]) or (kind == "path" and match.end() < len(text)):
            raise InvalidOption(f"{text!r}: variables stand with a colon between them, and one of the kind path last")
        found[name] = CONVERTERS[kind or "string"][1]
        end = match.end()
    if re.search("[<>]", VARIABLE.sub("", text)):
        raise InvalidOption(f"{EXPECTED}; got {text!r}")
    return found


def _expression(text: str) -> str:
    """Return a pattern as a regular expression; the star is its last group."""
    pieces, end = [], 0
    for match in VARIABLE.finditer(text):
        kind, name = match.groups()
        pieces += [re.escape(text[end : match.start()]), f"(?P<{name}>{CONVERTERS[kind or 'string'][0]})"]
        end = match.end()
    rest = text[end:]
    return "".join(pieces) + (f"{re.escape(rest[:-1])}(.*)" if rest.endswith("*") else re.escape(rest))
