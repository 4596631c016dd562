"""Comparing a payload with what a test expects of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..payloads.writing import plain_value

#: As in .client.
__tracebackhide__ = __unittest = True


#: What a payload is to be: a function is told apart, so that type checkers know what it is given.
Expected = Callable[[Any], object] | Any


class Anything:
    """Stands for a payload of which nothing is expected."""

    def __repr__(self) -> str:
        return "any payload"


#: Any payload.
ANYTHING = Anything()


def difference(expected: Any, actual: Any, exact: bool = False, where: str = "payload") -> str | None:
    """Say what is wrong with a value first; None: nothing.

    A dict is expected to have these keys, and may have others; a list to have these items, and no others; a class to be
    the value's; a function to return something true for it; a record, an enum, a date and the like to be written so;
    anything else to be equal.

    :param exact: expect a dict to have no other keys.
    """
    if expected is ANYTHING:
        return None
    expected = _written(expected)
    if isinstance(expected, dict) and isinstance(actual, dict):
        return _difference_of_dicts(expected, actual, exact, where)
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return f"{where} has {len(actual)} items, not {len(expected)}"
        pairs = enumerate(zip(expected, actual, strict=True))
        return _first(difference(*pair, exact, f"{where}[{index}]") for index, pair in pairs)
    if isinstance(expected, type):
        return None if isinstance(actual, expected) else f"{where} is {actual!r}, no {expected.__name__}"
    if isinstance(expected, Callable):  # type: ignore[arg-type]
        return None if expected(actual) else f"{where} is {actual!r}, which {_name(expected)} does not take"
    return None if expected == actual else f"{where} is {actual!r}, not {expected!r}"


def _written(expected: Any) -> Any:
    """Return what is expected as a client reads it, where it is nothing that JSON has."""
    if isinstance(expected, type | dict | list | str | int | float | None):
        return expected
    try:
        return plain_value(expected)
    except TypeError:
        return expected


def _difference_of_dicts(expected: dict[Any, Any], actual: dict[Any, Any], exact: bool, where: str) -> str | None:
    for key in expected:
        if key not in actual:
            return f"{where} has no {key!r}"
    if exact and (more := [key for key in actual if key not in expected]):
        return f"{where} has {more[0]!r}, too"
    return _first(difference(value, actual[key], exact, f"{where}[{key!r}]") for key, value in expected.items())


def _first(differences: Any) -> str | None:
    return next((found for found in differences if found is not None), None)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))
