"""How values are written: JSON, as strict as Phoenix's, with whatever module does the work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring
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
_KEYS, _SCALARS = frozenset({str}), frozenset({str, int, float, bool, type(None)})


def _suspect(text: str) -> bool:
    """Whether ujson may read this text more kindly than JSON allows: then the strict reader has to look at it."""
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
    pending: list[Iterable[Any]] = [(value,)]
    for items in pending:
        for item in items:
            kind = type(item)
            if kind is dict and _KEYS.issuperset(map(type, item)):
                pending.append(item.values())
            elif kind in (list, tuple):
                pending.append(item)
            elif kind not in _SCALARS:
                return False
    return True


def _strict(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read JSON and nothing but JSON."""
    value = json.loads(text, object_pairs_hook=hook)
    _WRITER.encode(value).encode()  # fails on NaN, an infinity or a lone surrogate, which json has let in
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("two keys of one dict are written alike (as 1 and '1' are)")
    return fields


class Json:
    """A JSON codec as strict as Phoenix's, whatever module does the work.

    ujson writes plain values and reads ordinary text. What it would treat in a way of its own takes the strict road
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

    def loads(self, frame: Frame) -> Any:
        """Read JSON text, or the bytes of it.

        :raises InvalidMessage: it is not JSON, or not UTF-8.
        """
        try:
            text = frame if isinstance(frame, str) else frame.decode()
            if self._module is not ujson:
                _strict(text)
                return self._module.loads(text)
            return _strict(text) if _suspect(text) else ujson.loads(text)
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
