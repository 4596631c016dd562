"""TypeScript declarations of what an app declares, around those of the npm package ``phoenix``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .declarations import VARIABLE, Client, Family, Handled, Shape
from .schemas import PLACE, Schema, Schemas

HEAD = """\
// Written by `flask phoenix types`; to change it, change the channels.
import type { Channel, Push, Socket } from "phoenix";

/** The response of an error reply; `errors` where the payload was of another type than the declared one. */
export interface Refusal {
  reason?: string;
  errors?: { path: string; message: string }[];
  [field: string]: any;
}

/** What the reply to a join with `since` says of the client's position. */
export interface Recovery {
  recovered: boolean;
  epoch: string;
  offset: number;
  missed: number;
  ref: string;
  sender: string;
}

/** What is declared of a family of topics. */
export interface Contract {
  join: { payload: any; reply: any };
  pushes: { [event: string]: { payload: any; reply: any } };
  events: { [event: string]: any };
}

type Names<T> = keyof T & string;
type Sendable<P> = (P & object) | (() => P & object);
type Arguments<P> = {} extends P & object ? [params?: Sendable<P>] : [params: Sendable<P>];

export interface TypedPush<Response> extends Omit<Push, "receive"> {
  receive(status: "ok", callback: (response: Response) => any): this;
  receive(status: "error", callback: (response: Refusal) => any): this;
  receive(status: "timeout", callback: () => any): this;
}

export interface TypedChannel<C extends Contract> extends Omit<Channel, "join" | "on" | "push"> {
  join(timeout?: number): TypedPush<C["join"]["reply"] & { phx_history?: Recovery }>;
  on<E extends Names<C["events"]>>(event: E, callback: (payload: C["events"][E], ref?: string) => any): number;
  push<E extends Names<C["pushes"]>>(
    event: E,
    payload: C["pushes"][E]["payload"] & object,
    timeout?: number,
  ): TypedPush<C["pushes"][E]["reply"]>;
}
"""

PRESENCE = """\

export interface PresenceState {
  [key: string]: { metas: ({ phx_ref: string } & { [field: string]: any })[]; [field: string]: any };
}

export interface PresenceDiff {
  joins: PresenceState;
  leaves: PresenceState;
}
"""

#: Names that stand for something else in what is written.
TAKEN = {"Arguments", "Channel", "Contract", "Names", "PresenceDiff", "PresenceState", "Push", "Recovery", "Refusal"}
TAKEN |= {"Sendable", "Socket", "TypedChannel", "TypedPush", "ArrayBuffer", "Record", "Omit"}
#: Words that cannot be names of types.
TAKEN |= {"any", "bigint", "boolean", "never", "number", "object", "string", "symbol", "undefined", "unknown", "void"}
TAKEN |= {
    "case",
    "catch",
    "const",
    "debugger",
    "default",
    "delete",
    "do",
    "enum",
    "export",
    "extends",
    "false",
    "function",
}
TAKEN |= {"implements", "instanceof", "interface", "let", "new", "null", "package", "private", "protected", "public"}
TAKEN |= {"static", "super", "switch", "this", "throw", "true", "typeof", "var"}
SCALARS = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def typescript(clients: list[Client]) -> str:
    """Write the declarations; a socket that is mounted twice is written once.

    :raises InvalidOption: a type has no schema.
    """
    by_path = {client.path: client for client in clients}
    kinds = {str(client._replace(path="")): client for client in reversed(by_path.values())}
    return "".join(_Writer(list(reversed(kinds.values()))).write())


class _Writer:
    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._schemas = Schemas(shape for client in clients for shape in client.shapes)
        self._taken = set(TAKEN)
        self._names = {name: self._name(name) for name in self._schemas.named}

    def write(self) -> Iterator[str]:
        """Write it, piece by piece."""
        yield HEAD
        if any(family.has_presence for client in self._clients for family in client.families):
            yield PRESENCE
        for name, schema in self._schemas.named.items():
            yield self._declare(self._names[name], schema)
        for client in self._clients:
            yield from self._client(client)

    def _client(self, client: Client) -> Iterator[str]:
        contracts: list[tuple[str, str]] = []
        for family in client.families:
            name = self._name(f"{family.name}Contract")
            contracts.append((_topic(family.pattern), name))
            yield self._contract(name, family)
        if not contracts:
            return
        socket, params = self._name(client.name), self._name(f"{client.name}Params")
        topics, at = self._name(f"{client.name}Topic"), self._name(f"{client.name}Contracts")
        ladder = "".join(f"\n  Topic extends {topic} ? {name} :" for topic, name in contracts)
        written = _union(topic for topic, _ in contracts)
        yield f"\n/** The topics of {client.path}. */\nexport type {topics} = {written};\n"
        yield f"\nexport type {at}<Topic extends string> ={ladder}\n  never;\n"
        yield f"\n/** The parameters of a connect. */\nexport type {params} = {self._of(client.params)};\n"
        yield (
            f'\n{_comment(client.about)}export interface {socket} extends Omit<Socket, "channel"> {{\n'
            f"  channel<Topic extends {topics}>(\n"
            f'    topic: Topic,\n    ...params: Arguments<{at}<Topic>["join"]["payload"]>\n'
            f"  ): TypedChannel<{at}<Topic>>;\n}}\n"
        )

    def _contract(self, name: str, family: Family) -> str:
        pushes = [line for handled in family.handled for line in self._handled(handled)]
        if family.takes_others:
            pushes.append("[event: string]: { payload: any; reply: any };")
        events = [f"{_field(event)}: {self._of(shape)};" for event, shape in family.sent.items()]
        if family.sends_others:
            events.append("[event: string]: any;")
        elif family.has_presence:
            own = {"presence_state": "PresenceState", "presence_diff": "PresenceDiff"}
            events += [f"{event}: {kind};" for event, kind in own.items() if event not in family.sent]
        join = family.join
        return (
            f"\n{_comment(family.about)}export interface {name} {{\n"
            f"  join: {{ payload: {self._of(join.payload)}; reply: {self._of(join.reply, '{}')} }};\n"
            f"  pushes: {_block(pushes)};\n  events: {_block(events)};\n}}\n"
        )

    def _handled(self, handled: Handled) -> list[str]:
        """Write what goes in and what comes back; a method without an answer may answer later, with anything."""
        types = f"{{ payload: {self._of(handled.payload)}; reply: {self._of(handled.reply, 'any')} }}"
        return [*_comment(handled.about).splitlines(), f"{_field(handled.event)}: {types};"]

    def _of(self, shape: Shape, nothing: str = "never") -> str:
        schema = self._schemas.of(shape)
        kinds = [] if schema is None else [self._type(schema, "    ")]
        if shape.binary:
            kinds.append("ArrayBuffer")
        return "any" if "any" in kinds else _union(kinds) or nothing

    def _declare(self, name: str, schema: Schema) -> str:
        about = _comment(_line(schema.get("description", "")))
        if schema.get("type") == "object" and "properties" in schema and not schema.get("additionalProperties"):
            return f"\n{about}export interface {name} {self._object(schema, '')}\n"
        return f"\n{about}export type {name} = {self._type(schema, '')};\n"

    def _type(self, schema: Any, indent: str) -> str:
        """Write the type of a schema."""
        if not isinstance(schema, dict):
            return "never" if schema is False else "any"
        if "$ref" in schema:
            return self._names[schema["$ref"].removeprefix(PLACE)]
        if "const" in schema:
            return json.dumps(schema["const"])
        if "enum" in schema:
            return _union(map(json.dumps, schema["enum"]))
        for several, joint in (("anyOf", " | "), ("oneOf", " | "), ("allOf", " & ")):
            if several in schema:
                return _union((self._type(each, indent) for each in schema[several]), joint)
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(self._type({**schema, "type": each}, indent) for each in kind)
        if kind == "object" or "properties" in schema:
            return self._object(schema, indent)
        return self._array(schema, indent) if kind == "array" else SCALARS.get(str(kind), "any")

    def _array(self, schema: Schema, indent: str) -> str:
        items = schema.get("items", True)
        if not isinstance(items, list):
            item = self._type(items, indent)
            return f"({item})[]" if " " in item and item[0] not in "{[" else f"{item}[]"
        least = schema.get("minItems", 0)
        written = [self._type(item, indent) for item in items]
        written = [item if number < least else f"({item})?" for number, item in enumerate(written)]
        rest = schema.get("additionalItems", True) and schema.get("maxItems") != len(items)
        return f"[{', '.join([*written, '...any[]'] if rest else written)}]"

    def _object(self, schema: Schema, indent: str) -> str:
        fields, more = schema.get("properties", {}), schema.get("additionalProperties", "properties" not in schema)
        if not fields and more is not False:
            return f"Record<string, {self._type(more, indent)}>"
        required, inner = schema.get("required", ()), f"{indent}  "
        lines = []
        for name, each in fields.items():
            about = isinstance(each, dict) and each.get("description")
            lines += [f"{inner}{line}" for line in _comment(_line(about)).splitlines()] if about else []
            lines.append(f"{inner}{_field(name)}{'' if name in required else '?'}: {self._type(each, inner)};")
        if more:
            lines.append(f"{inner}[field: string]: any;")
        return "\n".join(["{", *lines, f"{indent}}}"]) if lines else "{}"

    def _name(self, name: str) -> str:
        """Return a name of this kind that nothing else has."""
        name = re.sub(r"\W", "_", name)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _union(types: Iterable[str], joint: str = " | ") -> str:
    return joint.join(dict.fromkeys(types))


def _topic(pattern: str) -> str:
    """Write a pattern as a type of topics."""
    quoted = json.dumps(pattern)
    if not VARIABLE.search(pattern):
        return quoted
    parts = (re.sub(r"([`\\$])", r"\\\1", part) for part in VARIABLE.sub("\0", pattern).split("\0"))
    return f"`{'${string}'.join(parts)}`"


def _field(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else json.dumps(name)


def _block(lines: list[str]) -> str:
    return "".join(["{\n", *(f"    {line}\n" for line in lines), "  }"]) if lines else "{}"


def _line(description: Any) -> str:
    return str(description).partition("\n\n")[0].replace("\n", " ")


def _comment(about: str) -> str:
    return f"/** {about.replace('*/', '* /')} */\n" if about else ""
