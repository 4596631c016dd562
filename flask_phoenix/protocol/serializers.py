"""The versions of the wire format, 1.0.0 and 2.0.0, text and binary, and the choice between them by ``vsn``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import accumulate, pairwise
from typing import Any

from ..exceptions import InvalidMessage, InvalidOption, InvalidPayload, UnknownVersion
from ..payloads.writing import is_record
from .json import Json
from .messages import OFFSET, REPLY, Broadcast, Frame, JsonText, Message, Reply, shown

#: First byte of a binary frame (Phoenix ``v2_json_serializer.ex``).
PUSH, REPLIED, BROADCAST = 0, 1, 2


class Serializer:
    """One version of the wire format, to subclass for another one: name it in the ``serializer`` table of a mount.

    The encoding methods raise :exc:`InvalidPayload` for what the version cannot carry.
    """

    #: The version it speaks.
    version: str
    #: Whether :meth:`encode_broadcast` takes a payload that is JSON text already (``JsonText``). A subclass that
    #: overrides that method is given values, unless it sets this.
    takes_text = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "encode_broadcast" in vars(cls):
            cls.takes_text = vars(cls).get("takes_text", False)
        if "encode_reply" in vars(cls) and "prepare_replies" not in vars(cls):
            cls.prepare_replies = Serializer.prepare_replies  # type: ignore[method-assign]

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

    def prepare_replies(self, join_ref: Any, topic: Any) -> Callable[[Any, Reply], Frame]:
        """Return what writes the answers of one channel, by the ref and the reply, as :meth:`encode_reply` would.

        A version may write once what is in all of them. A subclass that overrides :meth:`encode_reply` alone is asked.
        """

        def encode(ref: Any, reply: Reply) -> Frame:
            return self.encode_reply(join_ref, ref, topic, reply)

        return encode

    def encode_broadcast(self, broadcast: Broadcast) -> Frame:
        """Write a broadcast, once for all of its receivers."""
        raise NotImplementedError

    def encode_kept(self, message: Message) -> list[Frame]:
        """Write a message that has a position, as its ref; before one of bytes goes a frame that tells the ref."""
        if not isinstance(message.payload, bytes):
            return [self.encode(message)]
        frame = self.encode(message._replace(ref=None))
        return [self.encode(message._replace(event=OFFSET, payload={})), frame]


class V1Serializer(Serializer):
    """JSON objects with exactly four keys, for clients that ask for no version or for 1.0.x."""

    version = "1.0.0"
    takes_text = True

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
        return payload if isinstance(payload, JsonText) else self._dumps(payload)

    def _object(self, topic: Any, event: Any, ref: Any, payload: str) -> str:
        dumps = self._dumps
        return f'{{"topic":{dumps(topic)},"event":{dumps(event)},"ref":{dumps(ref)},"payload":{payload}}}'


class V2Serializer(Serializer):
    """JSON arrays, and binary frames for payloads of bytes: what current clients speak."""

    version = "2.0.0"
    takes_text = True

    def decode(self, frame: Frame) -> Message:
        """Read an array of five (more are ignored), or a binary push."""
        if not isinstance(frame, str):
            return _decode_push(frame)
        value = self._loads(frame)
        if not isinstance(value, list) or len(value) < 5:
            raise InvalidMessage("vsn 2.0.0 expects a JSON array [join_ref, ref, topic, event, payload]")
        # Without a look at their number, which is right.
        return tuple.__new__(Message, value if len(value) == 5 else value[:5])

    def encode(self, message: Message) -> Frame:
        """Write an array, or for bytes a binary push, which has no place for a ref."""
        join_ref, ref, topic, event, payload = message
        if isinstance(payload, bytes):
            return _binary(PUSH, payload, join_ref=join_ref, topic=topic, event=event)
        dumps = self._dumps
        return f"[{dumps(join_ref)},{dumps(ref)},{dumps(topic)},{dumps(event)},{self._payload(payload)}]"

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> Frame:
        """Write an array, or for bytes a binary reply."""
        return V2Serializer.prepare_replies(self, join_ref, topic)(ref, reply)

    def prepare_replies(self, join_ref: Any, topic: Any) -> Callable[[Any, Reply], Frame]:
        """Write the join_ref and the topic once, and what stands between."""
        dumps = self._dumps
        return partial(self._encode_reply, join_ref, topic, f"[{dumps(join_ref)},", f',{dumps(topic)},"{REPLY}",')

    def _encode_reply(self, join_ref: Any, topic: Any, head: str, middle: str, ref: Any, reply: Reply) -> Frame:
        status, response = reply
        if isinstance(response, bytes):
            return _binary(REPLIED, response, join_ref=join_ref, ref=ref, topic=topic, status=status)
        dumps = self._dumps
        status = '"ok"' if status == "ok" else dumps(status)
        return f'{head}{dumps(ref)}{middle}{{"status":{status},"response":{dumps(response)}}}]'

    def encode_broadcast(self, broadcast: Broadcast) -> Frame:
        """Write an array, or for bytes a binary broadcast."""
        topic, event, payload = broadcast
        if isinstance(payload, bytes):
            return _binary(BROADCAST, payload, topic=topic, event=event)
        return f"[null,null,{self._dumps(topic)},{self._dumps(event)},{self._payload(payload)}]"

    def _payload(self, payload: Any) -> str:
        if isinstance(payload, dict):
            return self._dumps(payload)
        if isinstance(payload, JsonText) and payload.startswith("{"):
            return payload
        if is_record(payload):
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
    parts = [encode_field(name, value) for name, value in fields.items()]
    return b"".join((bytes((kind, *map(len, parts))), *parts, payload))


def encode_field(name: str, value: Any) -> bytes:
    """Write a field of the header of a binary frame.

    :raises InvalidPayload: the header has no place for it.
    """
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


def choose_serializer(vsn: Any, table: Sequence[tuple[Serializer, str]]) -> Serializer:
    """Choose the first serializer whose requirement the client's ``vsn`` meets; a client that names none speaks 1.0.0.

    :raises UnknownVersion: there is none, or ``vsn`` is no full version.
    :raises InvalidOption: a requirement in the table is not of the form ``~> 2.0.0``.
    """
    version = _VERSION.fullmatch("1.0.0" if vsn is None else vsn) if isinstance(vsn, str | None) else None
    if version is None:
        raise UnknownVersion(f"The client's requested transport version is invalid: {shown(vsn)} (valid: 2.0.0)")
    for serializer, requirement in table:
        if _meets(version, requirement):
            return serializer
    asked, known = f'requested transport version "{version[0]:.200}"', [requirement for _, requirement in table]
    raise UnknownVersion(f"The client's {asked} does not match server's version requirements of {known}")


def _meets(version: re.Match[str], requirement: str) -> bool:
    """Whether it is at least what follows the ``~>``, with the same first two numbers, and no pre-release."""
    least = _least(requirement)
    return version.group(1, 2, 4) == (least[1], least[2], None) and int(version[3]) >= int(least[3])


@cache
def _least(requirement: str) -> re.Match[str]:
    """Return the version that follows the ``~>``."""
    least = _VERSION.fullmatch(requirement.removeprefix("~> "))
    if least is None or not requirement.startswith("~> "):
        raise InvalidOption(f'a requirement of the serializer table must look like "~> 2.0.0", got {requirement!r}')
    return least
