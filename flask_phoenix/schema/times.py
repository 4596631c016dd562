"""Where times stand in a JSON Schema: msgspec says so only of those that have to have a zone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.inspect import DateTimeType, TimeType, UnionType, type_info

#: By what msgspec knows of a type.
FORMATS = {DateTimeType: "date-time", TimeType: "time"}


def tell_times(kind: Any, schema: dict[str, Any], named: dict[str, Any]) -> None:
    """Write the formats of dates and times into the schema of a type, and into those that it refers to.

    :param named: these, by their references.
    """
    waiting, seen = [(type_info(kind), schema)], set()
    while waiting:
        info, here = waiting.pop()
        here = named.get(here.get("$ref", ""), here)
        if (type(info), id(here)) in seen:
            continue
        seen.add((type(info), id(here)))
        if type(info) in FORMATS and "format" not in here:
            here["format"] = FORMATS[type(info)]
        waiting.extend(_inside(info, here, named))


def _inside(info: Any, schema: dict[str, Any], named: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return the types inside of a type, with their schemas."""
    if isinstance(info, UnionType):
        branches = schema.get("anyOf", [schema])
        yield from ((each, branch) for each in info.types for branch in branches if _fits(each, branch, named))
    for field in getattr(info, "fields", ()):
        if field.encode_name in schema.get("properties", {}):
            yield field.type, schema["properties"][field.encode_name]
    for name, place in (("item_type", "items"), ("value_type", "additionalProperties")):
        if hasattr(info, name) and isinstance(schema.get(place), dict):
            yield getattr(info, name), schema[place]


def _fits(info: Any, schema: dict[str, Any], named: dict[str, Any]) -> bool:
    """Tell whether a branch of a schema is that of one type of a union."""
    if type(info) in FORMATS:
        return schema.get("type") == "string" and not {"format", "enum", "contentEncoding"} & schema.keys()
    if "$ref" in schema:
        return hasattr(info, "cls") and named.get(schema["$ref"], {}).get("title") == _name(info.cls)
    return schema.get("type") == (
        "array" if hasattr(info, "item_type") else "object" if hasattr(info, "value_type") else ""
    )


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
