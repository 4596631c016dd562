"""Whether clients of an older AsyncAPI document of an app can live with a newer one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from .asyncapi import KIND, OTHERS, Document
from .schemas import PLACE, Schema

#: Constraints under which less is taken if they are greater, and if they are less.
AT_LEAST = ("minLength", "minItems", "minProperties")
AT_MOST = ("maxLength", "maxItems", "maxProperties")
#: Limits of numbers, including the limit and excluding it, and the sign by which the greater one is the narrower.
LIMITS = ((("minimum", "exclusiveMinimum"), 1), (("maximum", "exclusiveMaximum"), -1))
#: Constraints under which less is taken if they are others.
EXACT = ("pattern", "format", "multipleOf", "contentEncoding", "uniqueItems")


class Words(NamedTuple):
    """How a narrower schema is told of."""

    verb: str
    value: str
    required: str
    anything: str


#: Of what clients send: the newer schema is the narrower one.
TAKEN = Words("is", "is not taken any more", "the field is required now", "not everything is taken any more")
#: Of what clients are sent: the older schema is the narrower one.
SENT = Words("was", "may be sent now", "the field may be missing now", "anything may be sent now")


def incompatible_changes(old: Document, new: Document) -> list[str]:
    """Tell what of a newer document would break clients of an older one.

    What clients send has still to be taken: no event and no field that they know is gone, none is required that was
    not. What they are sent has still to be what they know.
    """
    return list(_Comparison(old, new).changes())


class _Comparison:
    def __init__(self, old: Document, new: Document) -> None:
        self._old = old
        self._new = new

    def changes(self) -> Iterator[str]:
        """Compare the sockets, the channels and the operations."""
        paths = set(map(_path, self._new.get("servers", {}).values()))
        for server in self._old.get("servers", {}).values():
            if _path(server) not in paths:
                yield f"{server['pathname']}: the socket is gone"
        for key, channel in self._old["channels"].items():
            if (newer := self._newer(key, channel)) is None:
                yield f"{channel['address']}: the topics are gone"
                continue
            yield from self._params(channel, self._new["channels"][newer])
            yield from self._events(key, channel, newer)

    def _newer(self, key: str, channel: Document) -> str | None:
        """Return the key of the channel that serves the same topics, whatever their variables are named."""
        channels = self._new["channels"]
        same = (
            other
            for other in channels
            if _topics(channels[other]) == _topics(channel) and other not in self._old["channels"]
        )
        return key if key in channels else next(same, None)

    def _events(self, before: str, channel: Document, after: str) -> Iterator[str]:
        newer = self._new["channels"][after]
        if OTHERS in channel and OTHERS not in newer:
            yield f"{channel['address']}: other events are not handled any more"
        for key, operation in self._old["operations"].items():
            if operation["channel"]["$ref"] != f"#/channels/{before}":
                continue
            (event, *_) = [_at(self._old, message["$ref"])["name"] for message in operation["messages"]] or [key]
            where = f"{channel['address']} {event}"
            if (same := after + key.removeprefix(before)) in self._new["operations"]:
                yield from self._operation(where, operation, self._new["operations"][same])
            elif operation["action"] == "send" or OTHERS not in newer:
                verb = "sent" if operation["action"] == "send" else "handled"
                yield f"{where}: the event is not {verb} any more"

    def _params(self, old: Document, new: Document) -> Iterator[str]:
        before, after = (each.get("bindings", {}).get("ws", {}).get("query", {}) for each in (old, new))
        for problem in _Narrowing(self._old, self._new, TAKEN).problems(before, after, ""):
            yield f"{old['address']} parameters of the connect{problem}"

    def _operation(self, where: str, old: Document, new: Document) -> Iterator[str]:
        sent = old["action"] == "send"
        yield from self._messages(where, old["messages"], new["messages"], sent)
        if "reply" in old:
            before, after = old["reply"]["messages"], new["reply"]["messages"]
            if _by_type(self._old, before) and not _by_type(self._new, after):
                yield f"{where} reply: none is sent any more"
            yield from self._messages(f"{where} reply", before, after, True)

    def _messages(self, where: str, old: list[Document], new: list[Document], sent: bool) -> Iterator[str]:
        """Compare what an event may be.

        :param sent: to clients.
        """
        olds, news = _by_type(self._old, old), _by_type(self._new, new)
        wide, narrow = (news, olds) if sent else (olds, news)
        for kind in sorted(wide.keys() - narrow.keys()):
            yield f"{where}: a payload of {kind} {'may be sent now' if sent else 'is not taken any more'}"
        narrowing = _Narrowing(self._new, self._old, SENT) if sent else _Narrowing(self._old, self._new, TAKEN)
        for kind in sorted(wide.keys() & narrow.keys()):
            for problem in narrowing.problems(wide[kind], narrow[kind], ""):
                yield f"{where}{problem}"


class _Narrowing:
    """Finds what is a value of one schema and none of another.

    :param words: how it is said.
    :param seen: pairs of references that are being compared already: of types that hold themselves.
    """

    def __init__(self, wide: Document, narrow: Document, words: Words, seen: Iterable[tuple[str, str]] = ()) -> None:
        self._wide = wide
        self._narrow = narrow
        self._words = words
        self._seen = set(seen)

    def problems(self, wide: Any, narrow: Any, path: str) -> Iterator[str]:
        """Tell where a value of the first schema may be none of the second."""
        pair = (str(wide), str(narrow))
        if "$ref" in pair[0] and pair in self._seen:
            return
        self._seen.add(pair)
        wide, narrow = _followed(self._wide, wide), _followed(self._narrow, narrow)
        if narrow in ({}, True) or wide is False:
            return
        if wide in ({}, True):
            yield f"{path}: {self._words.anything}"
            return
        wides, narrows = _branches(wide), _branches(narrow)
        if len(wides) == len(narrows) == 1:
            yield from self._single(wides[0], narrows[0], path)
            return
        for each in wides:
            found = [
                list(_Narrowing(self._wide, self._narrow, self._words, self._seen).problems(each, other, path))
                for other in narrows
            ]
            if all(found):
                yield from min(found, key=len)

    def _single(self, wide: Schema, narrow: Schema, path: str) -> Iterator[str]:
        kinds, allowed = _types(wide), _types(narrow)
        if allowed and not kinds <= allowed and not (kinds == {"integer"} and "number" in allowed):
            yield f"{path}: {_shown(kinds)} {self._words.value}, where it {self._words.verb} {_shown(allowed)}"
            return
        values, known = _values(wide), _values(narrow)
        if known is not None:
            if values is None:
                yield f"{path}: {self._words.anything}"
            for value in values or ():
                if value not in known:
                    yield f"{path}: {value!r} {self._words.value}"
        yield from self._constraints(wide, narrow, path)
        yield from self._fields(wide, narrow, path)
        yield from self._items(wide, narrow, path)

    def _constraints(self, wide: Schema, narrow: Schema, path: str) -> Iterator[str]:
        for name in (*AT_LEAST, *AT_MOST, *EXACT):
            before, after = wide.get(name), narrow.get(name)
            if after is None or before == after or _values(wide) is not None:
                continue
            if name in EXACT or before is None or (after > before) == (name in AT_LEAST):
                yield f"{path}: {name} {self._words.verb} {after}"
        for names, sign in LIMITS:
            limit, other = _limit(narrow, names, sign), _limit(wide, names, sign)
            if limit is not None and (other is None or limit > other) and _values(wide) is None:
                yield f"{path}: {names[limit[1]]} {self._words.verb} {sign * limit[0]}"

    def _fields(self, wide: Schema, narrow: Schema, path: str) -> Iterator[str]:
        fields, known = wide.get("properties", {}), narrow.get("properties", {})
        more = narrow.get("additionalProperties", True)
        for name in narrow.get("required", ()):
            if name not in wide.get("required", ()):
                yield f"{path}.{name}: {self._words.required}"
        for name, schema in fields.items():
            if name in known:
                yield from self.problems(schema, known[name], f"{path}.{name}")
            elif more is False:
                yield f"{path}.{name}: the field {self._words.value}"
            elif isinstance(more, dict):
                yield from self.problems(schema, more, f"{path}.{name}")
        if isinstance(wide.get("additionalProperties"), dict) and more is not True:
            yield from self.problems(wide["additionalProperties"], more, f"{path}[...]")

    def _items(self, wide: Schema, narrow: Schema, path: str) -> Iterator[str]:
        before, after = wide.get("items", True), narrow.get("items", True)
        if isinstance(before, list) and isinstance(after, list):
            for number, (one, other) in enumerate(zip(before, after, strict=False)):
                yield from self.problems(one, other, f"{path}[{number}]")
        elif not isinstance(before, list) and not isinstance(after, list):
            yield from self.problems(before, after, f"{path}[...]")


def _at(document: Document, reference: str) -> Document:
    """Follow a reference inside of a document, and those that it leads to."""
    found = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return _at(document, found["$ref"]) if "$ref" in found else found


def _by_type(document: Document, references: list[Document]) -> Document:
    messages = [_at(document, reference["$ref"]) for reference in references]
    return {message["contentType"][12:]: message["payload"] for message in messages if not _refuses(message)}


def _refuses(message: Document) -> bool:
    return bool(message["payload"].get("title") == "Refusal")


def _followed(document: Document, schema: Any) -> Any:
    while isinstance(schema, dict) and schema.get("$ref", "").startswith(PLACE):
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(PLACE)]
    return schema


def _branches(schema: Schema) -> list[Any]:
    return list(schema.get("anyOf") or schema.get("oneOf") or [schema])


def _limit(schema: Schema, names: tuple[str, str], sign: int) -> tuple[float, int] | None:
    """Return the narrower limit of a number, and whether it is excluded."""
    return max(((sign * schema[name], excluded) for excluded, name in enumerate(names) if name in schema), default=None)


def _topics(channel: Document) -> tuple[Any, str]:
    """Return what tells the topics of a channel from others: its socket, and its address with kinds of variables."""
    kinds = {name: each.get(KIND) for name, each in channel.get("parameters", {}).items()}
    return channel["servers"], re.sub(r"{(\w+)}", lambda found: f"{{{kinds.get(found[1])}}}", channel["address"])


def _path(server: Document) -> str:
    """Return the path of a socket, whatever its variables are named."""
    return re.sub(r"{\w+}", "{}", server["pathname"])


def _types(schema: Schema) -> set[str]:
    kind = schema.get("type")
    return set(kind) if isinstance(kind, list) else {kind} if kind else set()


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _shown(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds)) or "anything"
