"""Erlang's external term format, as far as a token needs it: what JSON has, and bytes, tuples and atoms."""

from __future__ import annotations

from math import isfinite
from struct import Struct, error, pack
from typing import Any

VERSION = 131

#: The tags (ERTS user's guide, "External Term Format").
NEW_FLOAT = 70
SMALL_INTEGER, INTEGER, SMALL_TUPLE, LARGE_TUPLE, NIL, STRING, LIST, BINARY = 97, 98, 104, 105, 106, 107, 108, 109
SMALL_BIG, LARGE_BIG, ATOM, SMALL_ATOM, MAP, ATOM_UTF8, SMALL_ATOM_UTF8 = 110, 111, 100, 115, 116, 118, 119

#: How a number of so many bytes is read.
LENGTHS = {size: Struct(code) for size, code in ((1, ">B"), (2, ">H"), (4, ">I"))}

NAMED = {"true": True, "false": False, "nil": None}
NAMES = {value: name for name, value in NAMED.items()}


class Atom(str):
    """An atom that is none of true, false and nil."""

    __slots__ = ()


def write_term(value: Any) -> bytes:
    """Write a value: None, a bool, an int, a float, a str, bytes, or a list, a tuple or a dict of such.

    :raises ValueError: it is or holds something else, or is too deep.
    """
    try:
        return bytes((VERSION,)) + _write(value)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_term(data: bytes) -> Any:
    """Read a value. Binaries that are UTF-8 become str, and others bytes.

    :raises ValueError: it is no term, or holds one of another kind, such as a process or a function.
    """
    if data[:1] != bytes((VERSION,)):
        raise ValueError("it is no term")
    reader = _Reader(data)
    try:
        value = reader.term()
    except (IndexError, TypeError, RecursionError, error) as failure:
        raise ValueError(f"it cannot be read: {failure}") from None
    if reader.place != len(data):
        raise ValueError("something follows the term")
    return value


def _write(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return _counted(SMALL_ATOM_UTF8, ">B", NAMES[value].encode())
    if isinstance(value, Atom):
        return _counted(SMALL_ATOM_UTF8, ">B", value.encode())
    if isinstance(value, int):
        return _write_integer(value)
    if isinstance(value, float) and isfinite(value):
        return pack(">Bd", NEW_FLOAT, value)
    if isinstance(value, str | bytes):
        return _counted(BINARY, ">I", value.encode() if isinstance(value, str) else value)
    if isinstance(value, dict):
        parts = [part for item in value.items() for part in item]
        return pack(">BI", MAP, len(value)) + _write_all(parts)
    if isinstance(value, tuple):
        head = pack(">BB", SMALL_TUPLE, len(value)) if len(value) < 256 else pack(">BI", LARGE_TUPLE, len(value))
        return head + _write_all(value)
    if isinstance(value, list):
        return (pack(">BI", LIST, len(value)) + _write_all(value) if value else b"") + bytes((NIL,))
    raise ValueError(f"there is no term for {value!r:.200}")


def _write_all(values: Any) -> bytes:
    return b"".join(map(_write, values))


def _counted(tag: int, code: str, data: bytes) -> bytes:
    return bytes((tag,)) + pack(code, len(data)) + data


def _write_integer(value: int) -> bytes:
    if 0 <= value < 256:
        return bytes((SMALL_INTEGER, value))
    if -(1 << 31) <= value < 1 << 31:
        return pack(">Bi", INTEGER, value)
    digits = abs(value).to_bytes((value.bit_length() + 7) // 8, "little")
    head = pack(">BB", SMALL_BIG, len(digits)) if len(digits) < 256 else pack(">BI", LARGE_BIG, len(digits))
    return head + bytes((value < 0,)) + digits


class _Reader:
    """Reads terms one after another."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 1

    def term(self) -> Any:
        """Read the next term."""
        tag = self.number(1)
        if tag == SMALL_INTEGER:
            return self.number(1)
        if tag == INTEGER:
            return int.from_bytes(self.take(4), "big", signed=True)
        if tag in (SMALL_BIG, LARGE_BIG):
            return self.big(self.number(1 if tag == SMALL_BIG else 4))
        if tag == NEW_FLOAT:
            return Struct(">d").unpack(self.take(8))[0]
        if tag in (ATOM, SMALL_ATOM, ATOM_UTF8, SMALL_ATOM_UTF8):
            name = self.take(self.number(1 if tag in (SMALL_ATOM, SMALL_ATOM_UTF8) else 2))
            text = name.decode("utf-8" if tag in (ATOM_UTF8, SMALL_ATOM_UTF8) else "latin-1")
            return NAMED[text] if text in NAMED else Atom(text)
        if tag == BINARY:
            return _text_or_bytes(self.take(self.number(4)))
        return self.container(tag)

    def container(self, tag: int) -> Any:
        """Read what holds other terms."""
        if tag == NIL:
            return []
        if tag == STRING:  # a list of bytes
            return list(self.take(self.number(2)))
        if tag == LIST:
            values = self.terms(self.number(4))
            if self.term() != []:
                raise ValueError("it holds an improper list")
            return values
        if tag in (SMALL_TUPLE, LARGE_TUPLE):
            return tuple(self.terms(self.number(1 if tag == SMALL_TUPLE else 4)))
        if tag == MAP:
            return {self.term(): self.term() for _ in range(self.number(4))}
        raise ValueError(f"it holds a term of another kind (tag {tag})")

    def terms(self, count: int) -> list[Any]:
        """Read so many terms."""
        return [self.term() for _ in range(count)]

    def big(self, size: int) -> int:
        """Read a large integer."""
        sign = self.number(1)
        value = int.from_bytes(self.take(size), "little")
        return -value if sign else value

    def number(self, size: int) -> int:
        """Read an unsigned number of so many bytes."""
        value: int = LENGTHS[size].unpack(self.take(size))[0]
        return value

    def take(self, size: int) -> bytes:
        """Take so many bytes."""
        data = self.data[self.place : self.place + size]
        if len(data) != size:
            raise ValueError("it breaks off")
        self.place += size
        return data


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
