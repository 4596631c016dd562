"""Values that the tests of the ground share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NUMBERS = ["-", "+", "0", "1", "05", ".", "e", "E", "e5", "1e400", "-0.0", "NaN", "Infinity", "9" * 200, "1" * 310]
STRINGS = ['"', '""', '"a":', "\\", r"\ud800", r"\ude00", r"\u00e9", r'"\""', '"\\', '"12:05"', "é", "\ud800", "'"]
MARKS = ["[", "]", "{", "}", "{}", "[]", ",", ":", " ", "\n", "\x00", "\ufeff", "true", "null", "//"]
PIECES = st.sampled_from([*NUMBERS, *STRINGS, *MARKS])
ALMOST_JSON = st.lists(PIECES, max_size=10).map("".join)
ANY_TEXT = st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def exactly(value: Any) -> str:
    """Tell values apart that Python calls equal: 1, 1.0 and True, 0.0 and -0.0."""
    return repr(value)
