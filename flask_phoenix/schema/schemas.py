"""JSON Schemas of types of payloads, of draft 7, which AsyncAPI takes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from ..exceptions import InvalidOption
from ..payloads.annotations import shown_type
from ..payloads.models import has_model
from .declarations import Shape

#: Where named schemas stand in a document.
PLACE = "#/components/schemas/"

Schema = dict[str, Any]


class Schemas:
    """The schemas of what an app declares.

    :raises InvalidOption: a type has none, or two types have one name.
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        #: Those that have names, by their names.
        self.named: dict[str, Schema] = {}
        #: Those of types, by the types' identities; the types are kept, so that these last.
        self._of: dict[int, Schema] = {}
        self._types = [shape.text for shape in shapes if shape.text is not None]
        plain = [kind for kind in self._types if not has_model(kind) and _is_known(kind)]
        found, named = msgspec.json.schema_components(
            plain, schema_hook=self._of_model, ref_template=f"{PLACE}{{name}}"
        )
        self._of.update(zip(map(id, plain), map(_of_draft_7, found), strict=True))
        self._add(named)
        for kind in self._types:
            if has_model(kind):
                self._of[id(kind)] = _of_draft_7(self._of_model(kind))
        self.named = dict(sorted(self.named.items()))

    def of(self, shape: Shape) -> Schema | None:
        """Return the schema of a payload's JSON; None: it is no JSON."""
        return None if shape.text is None else self._of.get(id(shape.text), {})

    def followed(self, schema: Schema) -> Schema:
        """Return the schema that a reference means."""
        while "$ref" in schema:
            schema = self.named[schema["$ref"].removeprefix(PLACE)]
        return schema

    def _of_model(self, kind: Any) -> Schema:
        """Return the schema that pydantic makes of a type."""
        if "pydantic" not in sys.modules or not has_model(kind):
            raise NotImplementedError
        schema: Schema = sys.modules["pydantic"].TypeAdapter(kind).json_schema(ref_template=f"{PLACE}{{model}}")
        self._add(schema.pop("$defs", {}))
        if not isinstance(kind, type) or "$ref" in schema:
            return schema
        self._add({kind.__name__: schema})
        return {"$ref": f"{PLACE}{kind.__name__}"}

    def _add(self, named: dict[str, Schema]) -> None:
        for name, schema in named.items():
            schema = _of_draft_7(schema)
            if self.named.setdefault(name, schema) != schema:
                raise InvalidOption(f"two types of payloads are named {name}: rename one of them")


def _is_known(kind: Any) -> bool:
    """Tell whether a type has a schema; what a method returns may be annotated with anything."""
    try:
        msgspec.json.schema_components([kind], schema_hook=_hook)
    except NameError as error:
        raise InvalidOption(f"{shown_type(kind)} names what is not there: {error}") from error
    except Exception:
        return False
    return True


def _hook(kind: Any) -> Schema:
    if not has_model(kind):
        raise NotImplementedError
    return {}


def _of_draft_7(value: Any) -> Any:
    """Say in draft 7 what newer drafts say in another way."""
    if isinstance(value, list):
        return [_of_draft_7(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {name: _of_draft_7(item) for name, item in value.items()}
    if isinstance(schema.get("prefixItems"), list):
        more = schema.pop("items", True)
        schema["items"] = schema.pop("prefixItems")
        schema["additionalItems"] = more
    if isinstance(schema.get("discriminator"), dict):
        schema["discriminator"] = schema["discriminator"]["propertyName"]
    return schema
