"""JSON Schemas of types of payloads, of draft 7, which AsyncAPI takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..exceptions import InvalidOption
from ..payloads.annotations import shown_type
from ..payloads.models import has_model
from .declarations import Shape
from .models import model_schemas, models_inside, renamed
from .times import tell_times

#: Where named schemas stand in a document.
PLACE = "#/components/schemas/"

Schema = dict[str, Any]

#: How JSON Schema calls the types of constants.
_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


class Schemas:
    """The schemas of what an app declares.

    Two types of one name are named with their modules.

    :raises InvalidOption: a type has none.
    """

    def __init__(self, shapes: Iterable[Shape]) -> None:
        #: Those that have names, by their names.
        self.named: dict[str, Schema] = {}
        #: Those of types, by the types' identities and whether they are sent; the types are kept, so that these last.
        self._of: dict[tuple[int, bool], Schema] = {}
        self._shapes = [shape for shape in shapes if shape.text is not None]
        self._add_models([shape for shape in self._shapes if has_model(shape.text)])
        self._add_others([shape for shape in self._shapes if not has_model(shape.text) and _is_known(shape.text)])
        self.named = dict(sorted(self.named.items()))

    def of(self, shape: Shape) -> Schema | None:
        """Return the schema of a payload's JSON; None: it is no JSON."""
        return None if shape.text is None else self._of.get((id(shape.text), shape.sent), {})

    def followed(self, schema: Schema) -> Schema:
        """Return the schema that a reference means."""
        while "$ref" in schema:
            schema = self.named[schema["$ref"].removeprefix(PLACE)]
        return schema

    def _add_models(self, shapes: list[Shape]) -> None:
        """Add what pydantic reads: what is sent may be written otherwise than it would be read."""
        inside = [model for shape in self._shapes if not has_model(shape.text) for model in models_inside(shape.text)]
        found, named = model_schemas(
            [(shape.text, shape.sent) for shape in shapes] + [(model, False) for model in inside], f"{PLACE}{{model}}"
        )
        of = [_of_draft_7(schema) for schema in found]
        self.named.update({name: _of_draft_7(schema) for name, schema in named.items()})
        self._of.update({(id(shape.text), shape.sent): schema for shape, schema in zip(shapes, of, strict=False)})
        self._models = dict(zip(map(id, inside), of[len(shapes) :], strict=True))

    def _add_others(self, shapes: list[Shape]) -> None:
        """Add what msgspec reads."""
        kinds = [shape.text for shape in shapes]
        found, named = msgspec.json.schema_components(
            kinds, schema_hook=self._of_model, ref_template=f"{PLACE}{{name}}"
        )
        for kind, schema in zip(kinds, found, strict=True):
            tell_times(kind, schema, {f"{PLACE}{name}": each for name, each in named.items()})
        named = {name: _of_draft_7(schema) for name, schema in named.items()}
        # What both write alike has one name.
        others = {name: f"{name}2" for name in named if self.named.get(name, named[name]) != named[name]}
        references = {f"{PLACE}{name}": f"{PLACE}{other}" for name, other in others.items()}
        self.named.update({others.get(name, name): renamed(schema, references) for name, schema in named.items()})
        for shape, schema in zip(shapes, found, strict=True):
            self._of[id(shape.text), shape.sent] = renamed(_of_draft_7(schema), references)

    def _of_model(self, kind: Any) -> Schema:
        if id(kind) not in self._models:
            raise NotImplementedError
        schema: Schema = self._models[id(kind)]
        return schema


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


def _of_draft_7(value: Any, titled: bool = True) -> Any:
    """Say in draft 7 what newer drafts say in another way, and in one way what pydantic and msgspec say in two."""
    if isinstance(value, list):
        return [_of_draft_7(item) for item in value]
    if not isinstance(value, dict):
        return value
    schema = {name: _of_draft_7(item) for name, item in value.items() if titled or name != "title"}
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {name: _of_draft_7(each, titled=False) for name, each in value["properties"].items()}
    if isinstance(schema.get("prefixItems"), list):
        more = schema.pop("items", True)
        schema["items"] = schema.pop("prefixItems")
        schema["additionalItems"] = more
    if isinstance(schema.get("discriminator"), dict):
        schema["discriminator"] = schema["discriminator"]["propertyName"]
    if isinstance(schema.get("enum"), list):
        schema["enum"] = sorted(schema["enum"], key=repr)
        kinds = {_KINDS[type(each)] for each in schema["enum"]}
        schema["type"] = kinds.pop() if len(kinds) == 1 else sorted(kinds)
    if "const" in schema:
        schema["type"] = _KINDS[type(schema["const"])]
    return schema
