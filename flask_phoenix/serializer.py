"""How it is written: wire versions 1 and 2, text and binary; the choice between them by ``vsn``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from json.encoder import encode_basestring
from typing import Any

import ujson

from .exceptions import InvalidMessage, InvalidOption, InvalidPayload, UnknownVersion
from .message import REPLY, Broadcast, Frame, Message, Reply

#: First byte of a binary frame (Phoenix ``v2_json_serializer.ex``).
PUSH, REPLIED, BROADCAST = 0, 1, 2

_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
# What ujson reads though JSON has it not: "-", "01", "1.", NaN, Infinity, 1e400 (any exponent is suspect). Looked for
# outside strings only, where each is rare. Every branch begins with a literal: that lets the search skip ahead.
_ODD_NUMBER = re.compile(r"-(?![0-9])|\.(?![0-9])|N|I|0(?<![0-9.]0)(?=[0-9])|e(?<=[0-9.]e)|E").search
# 309 digits overflow a float; of every hundredth character they are three in a row.
_LONG_NUMBER = re.compile(r"[0-9]{3}").search
_KEYS, _SCALARS = frozenset({str}), frozenset({str, int, float, bool, type(None)})


def _suspect(text: str) -> bool:
    """Whether ujson may read this text more kindly than JSON allows: then the strict reader has to look at it."""
    escaped = "\\" in text
    if not text.isprintable() or (escaped and ("\\ud" in text or "\\uD" in text)):  # control characters, surrogates
        return True
    bare = text.replace("\\\\", "").replace('\\"', "") if escaped else text
    outside = " ".join(bare.split('"')[::2])
    return bool(_ODD_NUMBER(outside)) or (len(outside) > 300 and bool(_LONG_NUMBER(outside[::100])))


def _is_plain(value: Any) -> bool:
    """Whether ujson writes this value exactly as meant: keys are strings, and no type is one it has ideas about."""
    pending: list[Iterable[Any]] = [(value,)]
    for items in pending:
        for item in items:
            kind = type(item)
            if kind is dict and _KEYS.issuperset(map(type, item)):
                pending.append(item.values())
            elif kind is list or kind is tuple:
                pending.append(item)
            elif kind not in _SCALARS:
                return False
    return True


def _strict(text: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Read JSON and nothing but JSON."""
    value = json.loads(text, object_pairs_hook=hook)
    _WRITER.encode(value).encode()  # fails on NaN, an infinity or a lone surrogate, which json has let in
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("two keys of one dict are written alike (as 1 and '1' are)")
    return fields


class Json:
    """A JSON codec as strict as Phoenix's, whatever module does the work.

    ujson writes plain values and reads ordinary text. What it would treat in a way of its own takes the strict road
    through the standard library: other types (by way of ``default``), keys that are not strings, exponents, surrogates.
    :param module: anything with ``dumps`` and ``loads``; what it writes and reads is held to the same rules.
    :param default: makes a value of another type one that JSON has, for ujson; another module brings its own.
    """

    def __init__(self, module: Any = ujson, default: Callable[[Any], Any] | None = None) -> None:
        self._module = module
        writer = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default)
        self._encode = writer.encode if module is ujson else module.dumps

    def dumps(self, value: Any) -> str:
        """Write a value as JSON text.

        :raises InvalidPayload: JSON has no such value.
        """
        try:
            text = encode_basestring(value) if type(value) is str else "null" if value is None else self._write(value)
            if not text.isascii():
                text.encode()  # fails on a lone surrogate, which cannot leave in a text frame
        except Exception as error:
            remedy = "send dicts, lists, strings, finite numbers, booleans, None, or what the app's JSON provider knows"
            raise InvalidPayload(f"this cannot be written as JSON: {error}; {remedy}") from error
        return text

    def loads(self, frame: Frame) -> Any:
        """Read JSON text, or the bytes of it.

        :raises InvalidMessage: it is not JSON, or not UTF-8.
        """
        try:
            text = frame if isinstance(frame, str) else frame.decode()
            if self._module is not ujson:
                _strict(text)
                return self._module.loads(text)
            return _strict(text) if _suspect(text) else ujson.loads(text)
        except Exception as error:
            raise InvalidMessage(f"expected JSON: {error}") from error

    def _write(self, value: Any) -> str:
        if self._module is ujson:
            try:
                # By position, as keywords cost more than the work: no ensure_ascii, encode_html_chars,
                # escape_forward_slashes, sort_keys, indent, allow_nan. First, as a cycle would trap the look at types.
                text: str = ujson.dumps(value, False, False, False, False, False, False)
                if _is_plain(value):
                    return text
            except Exception:  # the encoder below copes, or says what is wrong
                pass
        written: str | bytes = self._encode(value)
        text = written if isinstance(written, str) else written.decode()
        _strict(text, _distinct)
        return text


class Serializer:
    """One version of the wire format, to subclass for another one: name it in the ``serializer`` table of a mount.

    What encodes raises :exc:`InvalidPayload` for what the version cannot carry.
    """

    #: The version it speaks.
    version: str

    def __init__(self, json: Json) -> None:
        self._dumps, self._loads = json.dumps, json.loads

    def decode(self, frame: Frame) -> Message:
        """Read what a client sent.

        :raises InvalidMessage: the frame is no message.
        """
        raise NotImplementedError

    def encode(self, message: Message) -> Frame:
        """Write a message to one client: a push (its ``ref`` is None), ``phx_close`` or ``phx_error``."""
        raise NotImplementedError

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> Frame:
        """Write the answer to the message that had these refs."""
        raise NotImplementedError

    def encode_broadcast(self, broadcast: Broadcast) -> Frame:
        """Write a broadcast, once for all of its receivers."""
        raise NotImplementedError


class V1Serializer(Serializer):
    """JSON objects with exactly four keys, for clients that ask for no version or for 1.0.x."""

    version = "1.0.0"

    def decode(self, frame: Frame) -> Message:
        """Read an object, also from a binary frame, where Phoenix takes it too."""
        value = self._loads(frame)
        try:
            return Message(value.get("join_ref"), value["ref"], value["topic"], value["event"], value["payload"])
        except (AttributeError, KeyError) as error:
            raise InvalidMessage(f"vsn 1.0.0 expects an object with topic, event, payload, ref: {error!r}") from error

    def encode(self, message: Message) -> str:
        """Write an object; the join_ref is left out."""
        return self._object(message.topic, message.event, message.ref, self._payload(message.payload))

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> str:
        """Write an object."""
        payload = f'{{"status":{self._dumps(reply.status)},"response":{self._payload(reply.response)}}}'
        return self._object(topic, REPLY, ref, payload)

    def encode_broadcast(self, broadcast: Broadcast) -> str:
        """Write an object."""
        return self._object(broadcast.topic, broadcast.event, None, self._payload(broadcast.payload))

    def _payload(self, payload: Any) -> str:
        if isinstance(payload, bytes):
            raise InvalidPayload(
                "bytes cannot go to a client of vsn 1.0.0: send a dict, or let it connect with vsn=2.0.0"
            )
        return self._dumps(payload)

    def _object(self, topic: Any, event: Any, ref: Any, payload: str) -> str:
        dumps = self._dumps
        return f'{{"topic":{dumps(topic)},"event":{dumps(event)},"ref":{dumps(ref)},"payload":{payload}}}'


class V2Serializer(Serializer):
    """JSON arrays, and binary frames for payloads of bytes: what current clients speak."""

    version = "2.0.0"

    def decode(self, frame: Frame) -> Message:
        """Read an array of five (more are ignored), or a binary push."""
        if not isinstance(frame, str):
            return _decode_push(frame)
        value = self._loads(frame)
        if not isinstance(value, list) or len(value) < 5:
            raise InvalidMessage("vsn 2.0.0 expects a JSON array [join_ref, ref, topic, event, payload]")
        return Message._make(value[:5])

    def encode(self, message: Message) -> Frame:
        """Write an array, or for bytes a binary push, which has no place for a ref."""
        join_ref, ref, topic, event, payload = message
        if isinstance(payload, bytes):
            return _binary(PUSH, payload, join_ref=join_ref, topic=topic, event=event)
        dumps = self._dumps
        return f"[{dumps(join_ref)},{dumps(ref)},{dumps(topic)},{dumps(event)},{self._payload(payload)}]"

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> Frame:
        """Write an array, or for bytes a binary reply."""
        status, response = reply
        if isinstance(response, bytes):
            return _binary(REPLIED, response, join_ref=join_ref, ref=ref, topic=topic, status=status)
        dumps = self._dumps
        payload = f'{{"status":{dumps(status)},"response":{dumps(response)}}}'
        return f'[{dumps(join_ref)},{dumps(ref)},{dumps(topic)},"{REPLY}",{payload}]'

    def encode_broadcast(self, broadcast: Broadcast) -> Frame:
        """Write an array, or for bytes a binary broadcast."""
        topic, event, payload = broadcast
        if isinstance(payload, bytes):
            return _binary(BROADCAST, payload, topic=topic, event=event)
        return f"[null,null,{self._dumps(topic)},{self._dumps(event)},{self._payload(payload)}]"

    def _payload(self, payload: Any) -> str:
        if isinstance(payload, dict):
            return self._dumps(payload)
        raise InvalidPayload(f"expected payload to be a dict (a JSON object) or bytes, got {type(payload).__name__}")


def _decode_push(frame: bytes) -> Message:
    ends = list(accumulate(frame[1:5], initial=5))
    if frame[:1] != bytes((PUSH,)) or len(ends) < 5 or ends[-1] > len(frame):
        raise InvalidMessage("expected a binary push: 00, four lengths, join_ref, ref, topic, event, payload")
    try:
        join_ref, ref, topic, event = (frame[start:end].decode() for start, end in pairwise(ends))
    except UnicodeDecodeError as error:
        raise InvalidMessage(f"expected the header of a binary push in UTF-8: {error}") from error
    # Empty join_ref: none. Phoenix takes it for a stale one and drops the message. An empty ref is echoed as it came.
    return Message(join_ref or None, ref, topic, event, frame[ends[-1] :])


def _binary(kind: int, payload: bytes, **fields: Any) -> bytes:
    parts = [_field(name, value) for name, value in fields.items()]
    return b"".join((bytes((kind, *map(len, parts))), *parts, payload))


def _field(name: str, value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise InvalidPayload(f"the {name} of a binary frame must be a string, got {type(value).__name__}")
    try:
        data = b"" if value is None else str(value).encode()
    except UnicodeEncodeError as error:
        raise InvalidPayload(f"the {name} of a binary frame must be writable in UTF-8: {error}") from error
    if len(data) > 255:
        raise InvalidPayload(f"the {name} of a binary frame must have at most 255 bytes, but has {len(data)}")
    return data


def default_table(json: Json) -> list[tuple[Serializer, str]]:
    """The versions of Phoenix: what a mount speaks unless it brings a table of its own."""
    return [(V1Serializer(json), "~> 1.0.0"), (V2Serializer(json), "~> 2.0.0")]


# Three numbers without leading zeros, then pre-release and build, as Elixir's Version reads them.
_LABELS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-{_LABELS})?(?:\+{_LABELS})?")


def negotiate(vsn: Any, table: Sequence[tuple[Serializer, str]]) -> Serializer:
    """Choose the first serializer whose requirement the client's ``vsn`` meets; a client that names none speaks 1.0.0.

    :raises UnknownVersion: there is none, or ``vsn`` is no full version.
    :raises InvalidOption: a requirement in the table is not of the form ``~> 2.0.0``.
    """
    version = _VERSION.fullmatch("1.0.0" if vsn is None else vsn) if isinstance(vsn, str | None) else None
    if version is None:
        raise UnknownVersion(f"The client's requested transport version is invalid: {vsn!r:.80} (2.0.0 would be valid)")
    for serializer, requirement in table:
        if _meets(version, requirement):
            return serializer
    asked, known = f'requested transport version "{version[0]}"', [requirement for _, requirement in table]
    raise UnknownVersion(f"The client's {asked} does not match server's version requirements of {known}")


def _meets(version: re.Match[str], requirement: str) -> bool:
    """Whether it is at least what follows the ``~>``, with the same first two numbers, and no pre-release."""
    least = _VERSION.fullmatch(requirement.removeprefix("~> "))
    if least is None or not requirement.startswith("~> "):
        raise InvalidOption(f'a requirement of the serializer table must look like "~> 2.0.0", got {requirement!r}')
    return version.group(1, 2, 4) == (least[1], least[2], None) and int(version[3]) >= int(least[3])
