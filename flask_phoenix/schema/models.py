"""JSON Schemas of models, which pydantic makes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from msgspec.inspect import CustomType, type_info

from ..exceptions import InvalidOption
from ..payloads.annotations import shown_type
from ..payloads.models import is_model
from ..payloads.structs import infos_of

#: What pydantic puts behind the name of a type that is read, and of one that is written.
ENDS = ("-Input", "-Output")


def model_schemas(kinds: list[tuple[Any, bool]], template: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the schemas of types, and those that they refer to by name.

    :param kinds: the types, and whether they are sent to clients.
    :param template: of the references.
    :raises InvalidOption: a type has no schema.
    """
    if not kinds:
        return [], {}
    modes = ["serialization" if sent else "validation" for _, sent in kinds]
    adapters = [_adapter(kind, mode) for mode, (kind, _) in zip(modes, kinds, strict=True)]
    inputs = list(zip(range(len(kinds)), modes, adapters, strict=True))
    found, rest = sys.modules["pydantic"].TypeAdapter.json_schemas(inputs, ref_template=template)
    schemas = [found[number, mode] for number, mode in enumerate(modes)]
    return _merged(schemas, rest.get("$defs", {}), template)


def _adapter(kind: Any, mode: str) -> Any:
    try:
        adapter = sys.modules["pydantic"].TypeAdapter(kind)
        adapter.json_schema(mode=mode)
    except Exception as error:
        raise InvalidOption(f"{shown_type(kind)} has no JSON Schema: {error}") from error
    return adapter


def models_inside(kind: Any) -> Iterator[Any]:
    """Return the models in the fields of a type that msgspec reads."""
    try:
        infos = list(infos_of(type_info(kind)))
    except Exception:  # it has no schema
        return
    yield from (info.cls for info in infos if isinstance(info, CustomType) and is_model(info.cls))


def _merged(schemas: list[Any], named: dict[str, Any], template: str) -> tuple[list[Any], dict[str, Any]]:
    """Give one name to what is read as it is written: pydantic gives two, where it refers to itself."""
    bases = {name.removesuffix(ENDS[0]) for name in named if name.endswith(ENDS[0])}
    while True:
        names = {template.format(model=base + end): template.format(model=base) for base in bases for end in ENDS}
        apart = {base for base in bases if len({str(renamed(named.get(base + end), names)) for end in ENDS}) > 1}
        if not apart:
            break
        bases -= apart
    own = {base + end: base for base in bases for end in ENDS}
    merged = {own.get(name, name): renamed(schema, names) for name, schema in named.items()}
    return renamed(schemas, names), merged


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Replace references."""
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    return names.get(value, value) if isinstance(value, str) else value
