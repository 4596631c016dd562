"""Payloads of declared types: what clients send is checked and converted, what the app says is made plain.

A type is a dataclass, a TypedDict, a ``msgspec.Struct``, a model of pydantic, or what is built of those. pydantic is
not imported: a model that stands in an annotation brings it along.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec.inspect import CustomType, type_info

from .exceptions import InvalidOption, Refused

if sys.version_info >= (3, 14):
    import annotationlib

#: Makes a value of a payload.
Reader = Callable[[Any], Any]

#: The reason of the error reply to a payload of another type than the declared one.
INVALID = "invalid payload"
#: Errors that are told of one payload, and characters of each: a client is to be told less than it has sent.
MAX_ERRORS, MAX_TEXT = 20, 200

#: Classes of which it is remembered how their instances are written.
KNOWN_TYPES = 1024

_ANYTHING = (Any, object)
_MAPPINGS = (dict, Mapping, MutableMapping)
#: Where msgspec says that it was, at the end of its message, and what is missing or too much there.
_PLACE = re.compile(r" - at `(?:key` in `)?\$([^`]*)`\Z")
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `([^`]*)`")

REMEDY = (
    "use a dataclass, a TypedDict, a msgspec.Struct, a model of pydantic, or what Python has for JSON; or say Any, and"
    " look at the payload in the method"
)


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[Any]


class _Struct(Protocol):
    __struct_fields__: ClassVar[Any]


class _Model(Protocol):
    __pydantic_validator__: ClassVar[Any]


#: An object that is written as a JSON object.
Record = Mapping[str, Any] | _Dataclass | _Struct | _Model


class Errors(ValueError):
    """A payload is not of its declared type."""

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{each['path'] or 'the payload'}: {each['message']}" for each in errors))
        #: The places, such as ``items[2].name``, and what is wrong there.
        self.errors = errors


# What the app says.


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
    if _is_model(kind):
        return "model" if getattr(kind, "__pydantic_root_model__", False) else "model record"
    if issubclass(kind, msgspec.Struct):
        return "array" if kind.__struct_config__.array_like else "record"
    return "record" if hasattr(kind, "__dataclass_fields__") else ""


def plain(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Make a record one of dicts and lists; what is inside is written as JSON writes it: times in ISO 8601.

    :param default: makes a value of another type one that JSON has.
    """

    def convert(inner: Any) -> Any:
        kind: Any = type(inner)
        if _is_model(kind):
            return kind.__pydantic_serializer__.to_python(inner, mode="json", by_alias=True)
        if default is None:
            raise TypeError(f"{type(inner).__name__} is nothing that JSON has")
        return default(inner)

    return convert(value) if _is_model(type(value)) else msgspec.to_builtins(value, str_keys=True, enc_hook=convert)


# What clients send.


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


def annotation_of_parameter(function: Any, position: int) -> tuple[str, Any] | None:
    """Return the name and the annotation of a parameter that is given by its position, if it has one."""
    code, annotations = getattr(inspect.unwrap(function), "__code__", None), annotations_of(function)
    if code is None or position >= code.co_argcount:
        return None
    name = code.co_varnames[position]
    return (name, annotations[name]) if name in annotations else None


def annotations_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a function; those that cannot be evaluated yet as they are written."""
    function = inspect.unwrap(function)
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    annotations: dict[str, Any] = getattr(function, "__annotations__", {})
    return annotations


def resolve(annotation: Any, function: Any) -> Any:
    """Evaluate an annotation where its function was defined.

    :raises NameError: it names what is not there.
    :raises InvalidOption: it is no type.
    """
    holder: Any = SimpleNamespace(__annotations__={"payload": annotation})
    try:
        names = getattr(inspect.unwrap(function), "__globals__", {})
        return get_type_hints(holder, globalns=names, include_extras=True)["payload"]
    except NameError:
        raise
    except Exception as error:
        raise InvalidOption(f"{shown_type(annotation)} is no type: {error}; {REMEDY}") from error


def shown_type(annotation: Any) -> str:
    """Return an annotation as it is put into a message."""
    if isinstance(annotation, str):
        return annotation
    return annotation.__qualname__ if isinstance(annotation, type) and not get_args(annotation) else repr(annotation)


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

    The reader raises Refused with the errors.

    :param where: names who asks, in a message.
    :raises InvalidOption: nothing can be read into the type.
    :raises NameError: the type names what is not there.
    """
    convert = converter_of(annotation, where, strict)
    if convert is None:
        return None

    def read(payload: Any) -> Any:
        try:
            return convert(payload)
        except Errors as error:
            raise Refused({"reason": INVALID, "errors": error.errors}) from error

    return read


def converter_of(annotation: Any, where: str, strict: bool = True) -> Reader | None:
    """Return what makes a value of a type; as :func:`reader_of`, but that it raises :exc:`Errors`."""
    parts = list(parts_of(annotation))
    if any(_takes_anything(part) for part in parts):
        return None
    binary = [part for part in parts if bare(part) is bytes]
    text = [part for part in parts if bare(part) is not bytes]
    read_text = _text_converter(Union[tuple(text)] if binary else annotation, where, strict) if text else None  # noqa: UP007
    read_bytes = _checked(binary[0], where, strict) if binary else None

    def convert(payload: Any) -> Any:
        if isinstance(payload, bytes):
            if read_bytes is None:
                raise Errors([{"path": "", "message": "Expected JSON, got a binary payload"}])
            return read_bytes(payload)
        if read_text is None:
            raise Errors([{"path": "", "message": "Expected a binary payload, got JSON"}])
        return read_text(payload)

    return convert


def parts_of(annotation: Any) -> Iterator[Any]:
    """Take a union apart."""
    if isinstance(annotation, TypeVar):
        constraints = annotation.__constraints__
        annotation = Union[constraints] if constraints else annotation.__bound__ or Any  # noqa: UP007
    if get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from parts_of(part)
    elif hasattr(annotation, "__value__"):  # type Message = ...
        yield from parts_of(annotation.__value__)
    else:
        yield annotation


def bare(annotation: Any) -> Any:
    """Take the constraints away."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _takes_anything(annotation: Any) -> bool:
    if annotation in (*_ANYTHING, *_MAPPINGS):
        return True
    return get_origin(annotation) in _MAPPINGS and get_args(annotation)[1] in _ANYTHING


def _checked(annotation: Any, where: str, strict: bool) -> Reader:
    """Return what reads bytes, which are looked at where there are constraints."""
    return _same if annotation is bytes else _text_converter(annotation, where, strict)


def _text_converter(annotation: Any, where: str, strict: bool) -> Reader:
    if has_model(annotation):
        return _model_converter(annotation)
    _check_type(annotation, where)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return _msgspec_converter(annotation, strict)  # it knows how it is read
    # Of other types msgspec would find out each time.
    read = _msgspec_converter(msgspec.defstruct("Payload", [("payload", annotation)]), strict, ".payload")
    return lambda payload: read({"payload": payload}).payload


def _msgspec_converter(kind: type, strict: bool, root: str = "") -> Reader:
    convert = msgspec.convert

    def read(payload: Any) -> Any:
        try:
            return convert(payload, kind, strict=strict, str_keys=True, dec_hook=_read_model)
        except msgspec.ValidationError as error:
            raise Errors(_errors_of_msgspec(error, root)) from error
        except RecursionError as error:
            raise Errors([{"path": "", "message": "It nests too deep"}]) from error

    return read


def has_model(annotation: Any) -> bool:
    """Tell whether a model of pydantic is written in a type: then pydantic reads it."""
    return any(_is_model(part) for part in _walk(annotation))


def _walk(annotation: Any) -> Iterator[Any]:
    """Return a type, and the types that are written in it; not those of its fields."""
    yield annotation
    for argument in get_args(annotation):
        yield from _walk(argument)


def _check_type(annotation: Any, where: str) -> None:
    """See that msgspec can read into a type.

    :raises InvalidOption: it cannot.
    """
    try:
        unknown = next((kind for kind in _custom_types(type_info(annotation)) if not _is_model(kind)), None)
    except NameError:
        raise
    except Exception as error:
        raise InvalidOption(f"{where} cannot be given a payload: {error}; {REMEDY}") from error
    if unknown is not None:
        raise InvalidOption(f"{where} cannot be given a payload: {shown_type(unknown)} is no type of JSON; {REMEDY}")


def _custom_types(info: Any) -> list[Any]:
    """Return the types inside of a type that msgspec does not know."""
    found, waiting, seen = [], [info], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, CustomType):
            found.append(each.cls)
        elif isinstance(each, (list, tuple)):
            waiting.extend(each)
        elif isinstance(each, msgspec.Struct) and id(each) not in seen:
            seen.add(id(each))
            waiting.extend(getattr(each, name) for name in each.__struct_fields__ if name not in ("default", "cls"))
    return found


def _errors_of_msgspec(error: msgspec.ValidationError, root: str) -> list[dict[str, str]]:
    text = str(error)
    place = _PLACE.search(text)
    path = place[1].removeprefix(root).removeprefix(".") if place else ""
    message = text[: place.start()] if place else text
    if _is_validation_error(error.__cause__):
        return _errors_of_model(error.__cause__, path)
    if field := _FIELD.match(message):
        path = f"{path}.{field[1]}".removeprefix(".")
    return [{"path": path[:MAX_TEXT], "message": message[:MAX_TEXT]}]


class Declared:
    """A type of payloads that the app sends."""

    def __init__(self, annotation: Any, where: str) -> None:
        self.annotation = annotation
        self._where = where
        self._convert: Reader | None = None
        self._looked_at = False

    def look(self) -> None:
        """See that there can be such payloads.

        :raises InvalidOption: nothing can be read into the type.
        :raises NameError: the type names what is not there yet.
        """
        if not self._looked_at:
            self._convert, self._looked_at = converter_of(self.annotation, self._where), True

    def check(self, payload: Any) -> None:
        """See that a payload, as it is written, is one of this type.

        :raises Errors: it is not.
        """
        self.look()
        if self._convert is not None:
            self._convert(payload)


# pydantic, known by its marks.


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def _is_validation_error(error: Any) -> bool:
    return type(error).__name__ == "ValidationError" and callable(getattr(error, "errors", None))


def _model_converter(annotation: Any) -> Reader:
    adapter: Any = annotation.__pydantic_validator__ if _is_model(annotation) else None
    validate: Reader = (adapter or sys.modules["pydantic"].TypeAdapter(annotation)).validate_python

    def read(payload: Any) -> Any:
        try:
            return validate(payload)
        except ValueError as error:
            if not _is_validation_error(error):
                raise
            raise Errors(_errors_of_model(error, "")) from error

    return read


def _read_model(kind: Any, value: Any) -> Any:
    """Read a model that stands in a field of another type, for msgspec."""
    return kind.__pydantic_validator__.validate_python(value)


def _errors_of_model(error: Any, path: str) -> list[dict[str, str]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        {"path": _join(path, each["loc"])[:MAX_TEXT], "message": each["msg"][:MAX_TEXT]} for each in found[:MAX_ERRORS]
    ]


def _join(path: str, location: tuple[str | int, ...]) -> str:
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")
