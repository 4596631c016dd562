"""What methods are annotated with, and what stands in an annotation."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ..exceptions import InvalidOption
from .errors import REMEDY

if sys.version_info >= (3, 14):
    import annotationlib


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


def walk(annotation: Any) -> Iterator[Any]:
    """Return a type, and the types and the constraints that are written in it; not those of its fields."""
    yield annotation
    for argument in get_args(annotation):
        yield from walk(argument)
