"""What the app says: instances of declared types are made plain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, ClassVar, Protocol

import msgspec

from .models import is_model

#: Classes of which it is remembered how their instances are written.
KNOWN_TYPES = 1024


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[Any]


class _Struct(Protocol):
    __struct_fields__: ClassVar[Any]


class _Model(Protocol):
    __pydantic_validator__: ClassVar[Any]


#: An object that is written as a JSON object.
Record = Mapping[str, Any] | _Dataclass | _Struct | _Model


def is_typed(value: Any) -> bool:
    """Tell whether this is an instance of a dataclass, of a Struct or of a model."""
    kind: Any = type(value)
    return bool(_way_of(kind))


def is_record(value: Any) -> bool:
    """Tell whether this is such an instance, and is written as a JSON object."""
    kind: Any = type(value)
    return _way_of(kind).endswith("record")


@lru_cache(maxsize=KNOWN_TYPES)
def _way_of(kind: type) -> str:
    """Return how instances of a class are written; nothing: they are not of our kinds."""
    if is_model(kind):
        return "model" if getattr(kind, "__pydantic_root_model__", False) else "model record"
    if issubclass(kind, msgspec.Struct):
        return "array" if kind.__struct_config__.array_like else "record"
    return "record" if hasattr(kind, "__dataclass_fields__") else ""


def plain(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Make a record one of dicts and lists; what is inside is written as JSON writes it: times in ISO 8601.

    :param default: makes a value of another type one that JSON has.
    """
    if is_model(type(value)):
        return _write(default, value)
    return msgspec.to_builtins(value, str_keys=True, enc_hook=partial(_write, default))


def _write(default: Callable[[Any], Any] | None, value: Any) -> Any:
    """Make plain what msgspec does not know."""
    kind: Any = type(value)
    if is_model(kind):
        return kind.__pydantic_serializer__.to_python(value, mode="json", by_alias=True)
    if default is None:
        raise TypeError(f"{kind.__name__} is nothing that JSON has")
    return default(value)


def plain_value(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Make a value that JSON has not one that it has, as in a field of a record: an enum, a date, a UUID, a set.

    Bytes are refused: they are a payload, and are nothing inside of one.

    :param default: as that of :func:`plain`.
    :raises TypeError: there is no such value.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} is nothing that JSON has")
    return plain(value, default)
