"""Models of pydantic, known by their marks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..exceptions import InvalidOption
from .annotations import shown_type, walk
from .errors import Errors, errors_of

#: Errors of one payload beyond which they are counted and not told: pydantic hands out all or none, at 3 µs each.
MAX_COUNTED = 1000
#: Pydantic's name for the error of a field that is not there.
_MISSING = "missing"


def is_model(kind: Any) -> bool:
    """Tell whether this is a model, or a dataclass of pydantic's."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def is_foreign(constraint: Any) -> bool:
    """Tell whether this is a constraint that pydantic looks at, and msgspec does not."""
    package = type(constraint).__module__.partition(".")[0]
    return package in ("pydantic", "annotated_types") and not isinstance(constraint, type)


def has_model(annotation: Any) -> bool:
    """Tell whether a model, or a constraint of pydantic's, is written in a type: then pydantic reads it."""
    return "pydantic" in sys.modules and any(is_model(part) or is_foreign(part) for part in walk(annotation))


def model_converter(annotation: Any, where: str) -> Callable[[Any], Any]:
    """Return what makes a value of a type in which a model stands, and raises :exc:`Errors`.

    :param where: names who asks, in a message.
    :raises InvalidOption: pydantic has no such type.
    """
    if is_model(annotation):
        return lambda payload: read_model(annotation, payload)
    try:
        adapter = sys.modules["pydantic"].TypeAdapter(annotation)
    except NameError:
        raise
    except Exception as error:
        raise InvalidOption(
            f"{where} cannot be given a payload: build {shown_type(annotation)} of models of pydantic alone; {error}"
        ) from error
    return lambda payload: _validated(adapter.validator, payload)


def read_model(kind: Any, payload: Any) -> Any:
    """Make a payload a model.

    :raises Errors: it is none.
    """
    return _validated(kind.__pydantic_validator__, payload)


def _validated(validator: Any, payload: Any) -> Any:
    try:
        return validator.validate_python(payload)
    except ValueError as error:
        if type(error).__name__ != "ValidationError":
            raise
        raise _errors(error, payload) from error


def _errors(error: Any, payload: Any) -> Errors:
    """Return what pydantic has found."""
    count = error.error_count()
    if count > MAX_COUNTED:
        return errors_of(("", f"{count} errors, too many to be told"))
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return errors_of(*((_path(each["loc"], each["type"], payload), each["msg"]) for each in found))


def _path(location: tuple[str | int, ...], kind: str, payload: Any) -> str:
    """Write where in a payload an error is; what pydantic has tried there, of a union, is left out."""
    path = ""
    for number, step in enumerate(location, 1):
        if _holds(payload, step):
            payload = payload[step]
        elif kind != _MISSING or number < len(location):
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


def _holds(payload: Any, step: str | int) -> bool:
    if isinstance(payload, dict):
        return step in payload
    return isinstance(payload, list | tuple) and isinstance(step, int) and step < len(payload)
