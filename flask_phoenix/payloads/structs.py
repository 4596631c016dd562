"""What msgspec reads: Structs, dataclasses, TypedDicts, and what is built of them and of Python's own types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, get_origin, get_type_hints

import msgspec
from msgspec.inspect import AnyType, CustomType, DataclassType, type_info

from ..exceptions import InvalidOption
from .annotations import shown_type, walk
from .errors import NO_JSON, REMEDY, Errors, errors_of
from .models import is_foreign, is_model, read_model

#: Where msgspec says that it was, at the end of its message, and what is missing or too much there.
_PLACE = re.compile(r" - at `(?:key` in `)?\$([^`]*)`\Z")
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`")

#: What marks a class that is read from objects, and one that has fields.
_OBJECTS = ("__struct_fields__", "__dataclass_fields__", "__required_keys__")
_FIELDS = (*_OBJECTS, "_fields")


def struct_converter(annotation: Any, where: str, strict: bool) -> Callable[[Any], Any]:
    """Return what makes a value of a type, and raises :exc:`Errors`.

    :param where: names who asks, in a message.
    :param strict: a string is no number.
    :raises InvalidOption: msgspec cannot read into the type.
    :raises NameError: the type names what is not there.
    """
    infos = _check(annotation, where)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        read = _of_struct(annotation, strict)
    else:
        read = _of_other(annotation, strict)
    if not any(map(_defaults_of, infos)):
        return read

    def read_and_fill(payload: Any) -> Any:
        value = read(payload)
        _fill(value)
        return value

    return read_and_fill


def _of_struct(kind: type, strict: bool) -> Callable[[Any], Any]:
    convert = msgspec.convert

    def read(payload: Any) -> Any:
        try:
            return convert(payload, kind, strict=strict, str_keys=True, dec_hook=read_model)
        except (msgspec.ValidationError, RecursionError) as error:
            raise _errors(error, payload, "") from error

    return read


def _of_other(annotation: Any, strict: bool) -> Callable[[Any], Any]:
    """Wrap it: a Struct knows how it is read, and of other types msgspec would find that out each time."""
    convert, kind = msgspec.convert, msgspec.defstruct("Payload", [("payload", annotation)])
    of_objects = is_object(annotation)

    def read(payload: Any) -> Any:
        try:
            wrapped: Any = convert({"payload": payload}, kind, strict=strict, str_keys=True, dec_hook=read_model)
        except (msgspec.ValidationError, RecursionError) as error:
            raise _errors(error, payload if of_objects else None, ".payload") from error
        return wrapped.payload

    return read


def _errors(error: Exception, payload: Any, root: str) -> Errors:
    """Return what msgspec has found first."""
    if isinstance(error, RecursionError):
        return errors_of(("", "It nests too deep"))
    if isinstance(payload, bytes):
        return errors_of(("", NO_JSON))
    text = str(error)
    place = _PLACE.search(text)
    path = place[1].removeprefix(root).removeprefix(".") if place else ""
    if isinstance(error.__cause__, Errors):  # of a model inside
        inner = ((each["path"], each["message"]) for each in error.__cause__.errors)
        return errors_of(*((_joined(path, place), message) for place, message in inner))
    message = text[: place.start()] if place else text
    field = _FIELD.match(message)
    return errors_of((_joined(path, field[1]) if field else path, message))


def _joined(path: str, inner: str) -> str:
    return f"{path}{'' if not inner or inner.startswith('[') else '.'}{inner}".removeprefix(".")


# Whether msgspec reads a type as it is meant.


def is_object(annotation: Any) -> bool:
    """Tell whether msgspec reads a type from JSON objects alone."""
    kind = _origin(annotation)
    return isinstance(kind, type) and not is_model(kind) and any(hasattr(kind, name) for name in _OBJECTS)


def _check(annotation: Any, where: str) -> list[Any]:
    """See that msgspec can read into a type, and looks at all that stands in it; return what it knows of it.

    :raises InvalidOption: it cannot, or does not.
    """
    try:
        infos = list(infos_of(type_info(annotation)))
        foreign = next(_foreign(annotation, set()), None)
    except NameError:
        raise
    except Exception as error:
        raise InvalidOption(f"{where} cannot be given a payload: {error}; {REMEDY}") from error
    unknown = [info.cls for info in infos if isinstance(info, CustomType) and not is_model(info.cls)]
    if unknown:
        raise InvalidOption(f"{where} cannot be given a payload: {shown_type(unknown[0])} is no type of JSON; {REMEDY}")
    if foreign is not None:
        raise InvalidOption(
            f"{where} cannot be given a payload: msgspec reads it, and would not look at {foreign!r:.200}. Write a"
            " msgspec.Meta, as in Annotated[int, msgspec.Meta(ge=0)], or a model (or a dataclass) of pydantic's"
        )
    return infos


def infos_of(info: Any) -> Iterator[Any]:
    """Return what msgspec knows of a type and of those inside."""
    waiting, seen = [info], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, (list, tuple)):
            waiting.extend(each)
        elif isinstance(each, msgspec.Struct) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting.extend(getattr(each, name) for name in each.__struct_fields__ if name not in ("default", "cls"))


def _foreign(annotation: Any, seen: set[Any]) -> Iterator[Any]:
    """Return the constraints inside of a type that msgspec does not look at."""
    for part in walk(annotation):
        if is_foreign(part):
            yield part
        kind = _origin(part)
        if (
            isinstance(kind, type)
            and not is_model(kind)
            and kind not in seen
            and any(hasattr(kind, name) for name in _FIELDS)
        ):
            seen.add(kind)
            for field in get_type_hints(kind, include_extras=True).values():
                yield from _foreign(field, seen)


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


# Dataclasses.


def _fill(value: Any) -> None:
    """Give dataclasses their defaults, which msgspec leaves to their classes, where vars() does not see them."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind is list or kind is tuple or kind is set or kind is frozenset:
            waiting.extend(each)
        elif kind is dict:
            waiting.extend(each.values())
        else:
            defaults, inner = _unfilled(kind)  # type: ignore[arg-type]  # a class is hashable
            if defaults:
                fields = vars(each)
                for name, default in defaults:
                    fields.setdefault(name, default)
            if inner:
                waiting.extend([getattr(each, name) for name in inner])


@lru_cache(maxsize=1024)
def _unfilled(kind: Any) -> tuple[list[tuple[str, Any]], list[str]]:
    """Return the defaults of a class that msgspec leaves to it, and the fields in which there may be such a class."""
    info: Any = type_info(kind)
    fields = getattr(info, "fields", ())
    return _defaults_of(info), [field.name for field in fields if _may_be_unfilled(field.type)]


def _may_be_unfilled(info: Any) -> bool:
    """Tell whether there may be a dataclass in a type whose defaults msgspec leaves to the class."""
    return any(isinstance(each, AnyType) or _defaults_of(each) for each in infos_of(info))


def _defaults_of(info: Any) -> list[tuple[str, Any]]:
    if not isinstance(info, DataclassType) or "__slots__" in vars(_origin(info.cls)):
        return []
    return [(field.name, field.default) for field in info.fields if field.default is not msgspec.NODEFAULT]
