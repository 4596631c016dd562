"""What clients send: a payload is made a value of its declared type, or is refused with what is wrong in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Union, get_args, get_origin

from ..exceptions import InvalidOption
from .annotations import annotation_of_parameter, bare, parts_of, resolve, shown_type
from .errors import NO_JSON, Errors, errors_of
from .models import has_model, model_converter
from .structs import is_object, struct_converter

#: Makes a value of a payload.
Reader = Callable[[Any], Any]

_ANYTHING = (Any, object)
_MAPPINGS = (dict, Mapping, MutableMapping)


def reader_of_parameter(function: Any, position: int, where: str, strict: bool = True) -> Reader | None:
    """Return what makes the value of a function's parameter of a payload; None: it takes whatever comes.

    An annotation that names what is not defined yet is looked at again with the first payload.

    :param position: of the parameter.
    :param strict: a string is no number; a client's parameters, which are strings all of them, are read otherwise.
    :raises InvalidOption: nothing can be read into the annotation.
    """
    found = annotation_of_parameter(function, position)
    if found is None:
        return None
    name, annotation = found
    where = f"{where}, whose {name} is annotated with {shown_type(annotation)},"
    try:
        return reader_of(resolve(annotation, function), where, strict)
    except NameError:
        return _Late(annotation, function, where, strict)


class _Late:
    """A reader whose annotation can be evaluated later only."""

    def __init__(self, annotation: Any, function: Any, where: str, strict: bool) -> None:
        self._declared = annotation, function, where, strict
        self._read: Reader | None = None

    def __call__(self, payload: Any) -> Any:
        if self._read is None:
            annotation, function, where, strict = self._declared
            try:
                self._read = reader_of(resolve(annotation, function), where, strict) or _same
            except NameError as error:
                raise InvalidOption(
                    f"{where} cannot be called: {error}. Define it or import it at the top of {function.__module__},"
                    " not in a function, and not for type checkers alone"
                ) from error
        return self._read(payload)


def _same(payload: Any) -> Any:
    return payload


def reader_of(annotation: Any, where: str, strict: bool = True) -> Reader | None:
    """Return what makes a value of a type of a payload; None: the type takes whatever comes.

    The reader raises :exc:`Errors`.

    :param where: names who asks, in a message.
    :raises InvalidOption: nothing can be read into the type.
    :raises NameError: the type names what is not there.
    """
    parts = list(parts_of(annotation))
    if any(_takes_anything(part) for part in parts):
        return None
    if any(bare(part) in (bytearray, memoryview) for part in parts):
        raise InvalidOption(f"{where} cannot be given a payload: a binary one is of bytes; say bytes")
    binary = [part for part in parts if bare(part) is bytes]
    text = [part for part in parts if bare(part) is not bytes]
    read_text = _text_converter(Union[tuple(text)] if binary else annotation, where, strict) if text else None  # noqa: UP007
    read_bytes = _checked(binary[0], where, strict) if binary else None
    if read_text is not None and not binary and is_object(annotation):
        return read_text  # no such type is read from bytes

    def read(payload: Any) -> Any:
        if isinstance(payload, bytes):
            if read_bytes is None:
                raise errors_of(("", NO_JSON))
            return read_bytes(payload)
        if read_text is None:
            raise errors_of(("", "Expected a binary payload, got JSON"))
        return read_text(payload)

    return read


def _takes_anything(annotation: Any) -> bool:
    if annotation in (*_ANYTHING, *_MAPPINGS):
        return True
    return get_origin(annotation) in _MAPPINGS and get_args(annotation)[1] in _ANYTHING


def _checked(annotation: Any, where: str, strict: bool) -> Reader:
    """Return what reads bytes, which are looked at where there are constraints."""
    return _same if annotation is bytes else _text_converter(annotation, where, strict)


def _text_converter(annotation: Any, where: str, strict: bool) -> Reader:
    if has_model(annotation):
        return model_converter(annotation, where)
    return struct_converter(annotation, where, strict)


class Declared:
    """A type of payloads that the app sends."""

    def __init__(self, annotation: Any, where: str) -> None:
        self.annotation = annotation
        self._where = where
        self._read: Reader | None = None
        self._looked_at = False

    def look(self) -> None:
        """See that there can be such payloads.

        :raises InvalidOption: nothing can be read into the type.
        :raises NameError: the type names what is not there yet.
        """
        if not self._looked_at:
            self._read, self._looked_at = reader_of(self.annotation, self._where), True

    def check(self, payload: Any, written: Any) -> None:
        """See that a payload is one of this type.

        :param written: the payload as clients read it; a model may be written otherwise than it is read.
        :raises Errors: it is not.
        """
        self.look()
        if self._read is not None and not (has_model(self.annotation) and self._takes(payload)):
            self._read(written)

    def _takes(self, payload: Any) -> bool:
        assert self._read is not None
        try:
            self._read(payload)
        except Errors:
            return False
        return True
