"""JSON, read and written as strictly as Phoenix does, by whatever module does the work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring
from math import isinf
from typing import Any

import ujson

from ..exceptions import InvalidMessage, InvalidPayload
from .messages import Frame

_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# What ujson reads though JSON has it not: "-", "01", "1.", NaN, Infinity, 1e400 (any exponent is suspect). Looked for
# outside strings only, where each is rare. Every branch begins with a literal: that lets the search skip ahead.
_ODD_NUMBER = re.compile(r"-(?![0-9])|\.(?![0-9])|N|I|0(?<![0-9.]0)(?=[0-9])|e(?<=[0-9.]e)|E").search
# 309 digits overflow a float; of every hundredth character they are three in a row.
_LONG_NUMBER = re.compile(r"[0-9]{3}").search

#: Levels of arrays and objects that are read at most: fewer than are written, so that what a client sent may be sent on
#: inside a reply or a broadcast.
MAX_READ_DEPTH = 500
#: Levels that are written at most. Every JSON module manages these, however deep the stack is that it starts from.
MAX_DEPTH = 512

_KEYS, _SCALARS = frozenset({str}), frozenset({str, int, float, bool, type(None)})


def _suspect(text: str) -> bool:
    """Whether ujson may read this text more kindly than JSON allows: the strict reader has to look at it then."""
    escaped = "\\" in text
    if not text.isprintable() or (escaped and ("\\ud" in text or "\\uD" in text)):  # control characters, surrogates
        return True
    bare = text.replace("\\\\", "").replace('\\"', "") if escaped else text
    outside = " ".join(bare.split('"')[::2])
    return bool(_ODD_NUMBER(outside)) or (len(outside) > 300 and bool(_LONG_NUMBER(outside[::100])))


def _is_plain(value: Any) -> bool:
    """Whether ujson writes this value exactly as meant: keys are strings, and no type is one it has ideas about."""
    if type(value) is dict and _KEYS.issuperset(map(type, value)) and _SCALARS.issuperset(map(type, value.values())):
        return True  # the ordinary payload, at half the cost
    level: list[Iterable[Any]] = [(value,)]
    for _ in range(MAX_DEPTH + 1):
        below: list[Iterable[Any]] = []
        for items in level:
            for item in items:
                kind = type(item)
                if kind is dict and _KEYS.issuperset(map(type, item)):
                    below.append(item.values())
                elif kind in (list, tuple):
                    below.append(item)
                elif kind not in _SCALARS:
                    return False
        if not below:
            return True
        level = below
    return _check_depth(value, MAX_DEPTH)


def _check_depth(value: Any, limit: int) -> bool:
    """Return True.

    :raises ValueError: the value nests more than so many lists and dicts.
    """
    level = [value]
    for _ in range(limit):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list | tuple)
        ]
        if not level:
            return True
    raise ValueError(f"it nests more than {limit} levels of arrays and objects")


def _may_be_deeper(text: str, limit: int) -> bool:
    """Whether a text could nest more levels than that: said of few, at nearly no cost."""
    return len(text) > 2 * limit and text.count("[") + text.count("{") > limit


def _strict(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None, limit: int = MAX_DEPTH) -> Any:
    """Read JSON and nothing but JSON."""
    value = json.loads(
        text, object_pairs_hook=hook or _last_wins, parse_constant=_refuse_constant, parse_float=_read_float
    )
    if isinstance(value, dict | list) and _may_be_deeper(text, limit):
        _check_depth(value, limit)
    _WRITER.encode(value).encode()  # fails on a lone surrogate, which json has let in
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _read_float(text: str) -> float:
    if isinf(value := float(text)):
        raise ValueError(f"a number that no float can hold: {text:.40}")
    return value


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        _WRITER.encode([value for _, value in pairs]).encode()  # also those that are overwritten have to be JSON
    return fields


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("two keys of one dict are written alike (as 1 and '1' are)")
    return fields


class Json:
    """A JSON codec as strict as Phoenix's, whatever module does the work.

    ujson writes plain values and reads ordinary text. What it would treat in a way of its own goes
    through the standard library: other types (by way of ``default``), keys that are not strings, exponents, surrogates.

    :param module: anything with ``dumps`` and ``loads``; what it writes and reads is held to the same rules.
    :param default: makes a value of another type one that JSON has; the module writes plain values only.
    """

    def __init__(self, module: Any = ujson, default: Callable[[Any], Any] | None = None) -> None:
        self._module = module
        writer = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default)
        self._encode = writer.encode

    def dumps(self, value: Any) -> str:
        """Write a value as JSON text.

        :raises InvalidPayload: JSON has no such value.
        """
        try:
            text = encode_basestring(value) if type(value) is str else "null" if value is None else self._write(value)
            if not text.isascii():
                text.encode()  # fails on a lone surrogate, which cannot leave in a text frame
        except Exception as error:
            remedy = "send dicts, lists, strings, finite numbers, booleans, None, or what the app's JSON provider knows"
            raise InvalidPayload(f"this cannot be written as JSON: {error}; {remedy}") from error
        return text

    def loads(self, frame: Frame, max_depth: int = MAX_READ_DEPTH) -> Any:
        """Read JSON text, or the bytes of it.

        :param max_depth: levels of arrays and objects that it may nest.
        :raises InvalidMessage: it is not JSON, or not UTF-8, or nests deeper, or has an integer that Python does not
            read (of more than 4,300 digits, unless ``sys.set_int_max_str_digits`` says otherwise).
        """
        try:
            text = frame if isinstance(frame, str) else frame.decode()
            if self._module is not ujson:
                _strict(text, limit=max_depth)
                return self._module.loads(text)
            if _suspect(text):
                return _strict(text, limit=max_depth)
            value = ujson.loads(text)
            if _may_be_deeper(text, max_depth) and isinstance(value, dict | list):
                _check_depth(value, max_depth)
            return value
        except Exception as error:
            raise InvalidMessage(f"expected JSON: {error}") from error

    def _write(self, value: Any) -> str:
        try:
            if self._module is ujson:
                # By position, as keywords cost more than the work: no ensure_ascii, encode_html_chars,
                # escape_forward_slashes, sort_keys, indent, allow_nan. First, as a cycle would trap the look at types.
                text: str = ujson.dumps(value, False, False, False, False, False, False)
            else:
                written: str | bytes = self._module.dumps(value)
                text = written if isinstance(written, str) else written.decode()
            plain = _is_plain(value)
        except Exception:  # the encoder below copes, or says what is wrong
            plain = False
        if plain and self._module is ujson:
            return text
        if not plain:
            text = self._encode(value)
        _strict(text, _distinct)
        return text
