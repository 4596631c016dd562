"""JSON, read and written as strictly as Phoenix does, by whatever module does the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from json.encoder import encode_basestring
from typing import Any

import msgspec
import ujson

from ..exceptions import InvalidMessage, InvalidPayload
from ..payloads.writing import is_typed, plain
from .messages import Frame

#: Reads JSON and nothing but JSON.
_read = msgspec.json.Decoder().decode
_dumps = ujson.dumps

#: What nests, when it was read or is plain.
CONTAINERS = frozenset({dict, list, tuple})

#: Levels of arrays and objects that are read at most: fewer than are written, so that what a client sent may be sent on
#: inside a reply or a broadcast.
MAX_READ_DEPTH = 500
#: Keys and indices that are named at most, where something cannot be written.
MAX_SHOWN_WAY = 8
#: Levels that are written at most. JSON modules recurse, and manage these from any stack of less than 400 calls.
MAX_DEPTH = 512

_KEYS, _SCALARS = frozenset({str}), frozenset({str, int, float, bool, type(None)})


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
                if kind in _SCALARS:
                    continue
                if kind is dict:
                    for key in item:  # few, as a rule: a set of their types would cost more
                        if type(key) is not str:
                            return False
                    below.append(item.values())
                elif kind is list or kind is tuple:
                    below.append(item)
                else:
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
    for _ in range(limit - 1):
        # What is empty is left out: a client may send a third of a million of that.
        level = [item for each in level for item in _items(each) if item and type(item) in CONTAINERS]
        if not level:
            return True
    if any(type(item) in CONTAINERS for each in level for item in _items(each)):
        raise ValueError(f"it nests more than {limit} levels of arrays and objects")
    return True


def _items(container: Any) -> Iterable[Any]:
    return container.values() if type(container) is dict else container


def _strict(text: str, limit: int) -> Any:
    """Read JSON and nothing but JSON."""
    value = _read(text)
    # Said of few, at nearly no cost, before the levels are counted.
    if len(text) > 2 * limit and text.count("[") + text.count("{") > limit and isinstance(value, dict | list):
        _check_depth(value, limit)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("two keys of one dict are written alike (as 1 and '1' are)")
    return fields


class Json:
    """A JSON codec as strict as Phoenix's, whatever module does the work.

    msgspec reads, which takes JSON and nothing else. ujson writes plain values; what it would write in a way of its
    own goes through the standard library: other types (by way of ``default``), keys that are not strings.

    :param module: what reads and writes instead, anything with ``dumps`` and ``loads``; what it writes and reads is
        held to the same rules.
    :param default: makes a value of another type one that JSON has; the module writes plain values only.
    """

    def __init__(self, module: Any = None, default: Callable[[Any], Any] | None = None) -> None:
        self._module, self._default = module, default
        writer = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=self._make_plain)
        self._encode = writer.encode

    def dumps(self, value: Any) -> str:
        """Write a value as JSON text.

        :raises InvalidPayload: JSON has no such value.
        """
        try:
            if type(value) is dict:
                text = self._write(value)
            elif type(value) is str:
                text = encode_basestring(value)
            else:
                text = (
                    "null" if value is None else self._write(plain(value, self._default) if is_typed(value) else value)
                )
            if not text.isascii():
                text.encode()  # fails on a lone surrogate, which cannot leave in a text frame
        except Exception as error:
            remedy = "send dicts, lists, strings, finite numbers, booleans, None, or what the app's JSON provider knows"
            where = "".join(f"[{key!r:.40}]" for key in self._way_to_fault(value))
            at = f" (at {where})" if where else ""
            raise InvalidPayload(f"this cannot be written as JSON: {error}{at}; {remedy}") from error
        return text

    def loads(self, frame: Frame, max_depth: int = MAX_READ_DEPTH) -> Any:
        """Read JSON text, or the bytes of it.

        :param max_depth: levels of arrays and objects that it may nest.
        :raises InvalidMessage: it is not JSON, or not UTF-8, or nests deeper, or has an integer of more than 4,300
            digits.
        """
        try:
            # A str and no subclass of it, such as JsonText, which msgspec does not take.
            text = frame.decode() if isinstance(frame, bytes) else str(frame)
            value = _strict(text, max_depth)
            return value if self._module is None else self._module.loads(text)
        except Exception as error:
            raise InvalidMessage(f"expected JSON: {error}") from error

    def _way_to_fault(self, value: Any) -> Iterator[Any]:
        """Yield the keys and indices that lead to the innermost part that cannot be written."""
        for _ in range(MAX_SHOWN_WAY):
            items = (
                value.items()
                if isinstance(value, dict)
                else enumerate(value)
                if isinstance(value, list | tuple)
                else ()
            )
            fault = next(((key, part) for key, part in items if not self._can_write(part)), None)
            if fault is None:
                return
            key, value = fault
            yield key

    def _can_write(self, value: Any) -> bool:
        try:
            return bool(self._encode(value).encode())
        except Exception:
            return False

    def _make_plain(self, value: Any) -> Any:
        """Make a value of another type, which stands inside of the written one, a value that JSON has."""
        if is_typed(value):
            return plain(value, self._default)
        if self._default is None:
            raise TypeError(f"{type(value).__name__} is nothing that JSON has")
        return self._default(value)

    def _write(self, value: Any) -> str:
        try:
            if self._module is None:
                # By position, as keywords cost more than the work: no ensure_ascii, encode_html_chars,
                # escape_forward_slashes, sort_keys, indent, allow_nan. First, as a cycle would trap the look at types.
                text: str = _dumps(value, False, False, False, False, False, False)
                if _is_plain(value):
                    return text
                plain = False
            else:
                written: str | bytes = self._module.dumps(value)
                text = written if isinstance(written, str) else written.decode()
                plain = _is_plain(value)
        except Exception:  # the encoder below copes, or says what is wrong
            plain = False
        if not plain:
            text = self._encode(value)
        _strict(text, MAX_DEPTH)
        json.loads(text, object_pairs_hook=_distinct)
        return text
