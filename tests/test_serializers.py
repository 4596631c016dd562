"""The versions of the wire format, byte by byte: the vectors and matrices of the protocol's description."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidMessage, InvalidOption, InvalidPayload, UnknownVersion
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, Frame, JsonText, Message, Reply
from flask_phoenix.protocol.serializers import Serializer, V1Serializer, V2Serializer, choose_serializer, default_table
from tests.values import ALMOST_JSON, ANY_TEXT, VALUES, exactly

JSON = Json()
V1 = V1Serializer(JSON)
V2 = V2Serializer(JSON)

# Version 2, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["3","3","room:1","phx_join",{"a":1}]', ("3", "3", "room:1", "phx_join", {"a": 1})),
        (' \n["1","2","t","e",{"ws":1}]\n ', ("1", "2", "t", "e", {"ws": 1})),
        ('[null,"8","phoenix","heartbeat",{}]', (None, "8", "phoenix", "heartbeat", {})),
        ('["1","2","t","e",{},"six",7]', ("1", "2", "t", "e", {})),
        ('[1,{"a":1},null,true,[]]', (1, {"a": 1}, None, True, [])),
        ('["","","","",null]', ("", "", "", "", None)),
    ],
)
def test_v2_reads_an_array(text: str, message: tuple[Any, ...]) -> None:
    assert V2.decode(text) == message
    assert isinstance(V2.decode(text), Message)


def test_v2_writes_arrays() -> None:
    push = Message("3", None, "room:1", "joined", {"status": "connected"})
    close = Message("3", "3", "room:1", "phx_close", {})
    broadcast = Broadcast("room:1", "user_entered", {"user": None})
    assert V2.encode(push) == '["3",null,"room:1","joined",{"status":"connected"}]'
    assert V2.encode(close) == '["3","3","room:1","phx_close",{}]'
    assert V2.encode_broadcast(broadcast) == '[null,null,"room:1","user_entered",{"user":null}]'


@pytest.mark.parametrize(
    ("refs", "topic", "reply", "text"),
    [
        (("3", "3"), "room:1", Reply(), '["3","3","room:1","phx_reply",{"status":"ok","response":{}}]'),
        (("3", "5"), "a/b", Reply("ok", [1, 2]), '["3","5","a/b","phx_reply",{"status":"ok","response":[1,2]}]'),
        ((None, "9"), "nope", Reply("error", "é"), '[null,"9","nope","phx_reply",{"status":"error","response":"é"}]'),
        (({"a": 1}, True), None, Reply("x", None), '[{"a":1},true,null,"phx_reply",{"status":"x","response":null}]'),
    ],
)
def test_v2_writes_replies(refs: tuple[Any, Any], topic: Any, reply: Reply, text: str) -> None:
    assert V2.encode_reply(*refs, topic, reply) == text


@pytest.mark.parametrize("payload", ["invalid", [1], None, 1, bytearray(b"x")])
def test_v2_takes_dicts_and_bytes_alone_for_a_payload(payload: Any) -> None:
    expected = f"expected payload to be a dict .a JSON object. or bytes, got {type(payload).__name__}"
    with pytest.raises(InvalidPayload, match=expected):
        V2.encode(Message("1", None, "t", "e", payload))
    with pytest.raises(InvalidPayload, match=expected):
        V2.encode_broadcast(Broadcast("t", "e", payload))


@pytest.mark.parametrize("serializer", [V1, V2])
def test_what_json_has_not_is_refused_wherever_it_stands(serializer: Serializer) -> None:
    with pytest.raises(InvalidPayload):
        serializer.encode(Message("1", None, "t", "e", {"a": math.nan}))
    with pytest.raises(InvalidPayload):
        serializer.encode_reply("1", "2", "t", Reply("ok", object()))
    with pytest.raises(InvalidPayload):
        serializer.encode_reply("1", "2", "t", Reply("ok", {"a": b"bytes"}))
    with pytest.raises(InvalidPayload):
        serializer.encode_broadcast(Broadcast("\ud800", "e", {}))


# Version 2, binary

READ = {
    "00 01 01 06 04 33 35 72 6f 6f 6d 3a 31 62 6c 6f 62 de ad be ef": ("3", "5", "room:1", "blob", b"\xde\xad\xbe\xef"),
    "00 02 03 05 05 31 32 31 32 33 74 6f 70 69 63 65 76 65 6e 74 65 66 67": ("12", "123", "topic", "event", b"efg"),
    "00 02 03 05 05 31 32 31 32 33 74 6f 70 69 63 65 76 65 6e 74": ("12", "123", "topic", "event", b""),
    "00 01 01 0a 02 37 39 72 6f 6f 6d 3a 63 61 66 c3 a9 cf 80 01": ("7", "9", "room:caf\u00e9", "\u03c0", b"\x01"),
    "00 01 01 01 01 30 31 74 65 01": ("0", "1", "t", "e", b"\x01"),
    "00 02 01 03 02 31 30 31 74 6f 70 65 76 01": ("10", "1", "top", "ev", b"\x01"),
    "00 00 01 01 01 32 74 65 ff": (None, "2", "t", "e", b"\xff"),
    "00 01 00 01 01 31 74 65 ff": ("1", "", "t", "e", b"\xff"),
    "00 00 00 00 00": (None, "", "", "", b""),
}


@pytest.mark.parametrize(("frame", "message"), READ.items())
def test_v2_reads_a_binary_push(frame: str, message: tuple[Any, ...]) -> None:
    assert V2.decode(bytes.fromhex(frame)) == message


NO_PUSH = [
    *["", "00", "00 00 00 00", "01 01 01 06 04 33 35 72 6f 6f 6d 3a 31 62 6c 6f 62 de ad", "00 c8 01 01 01 61 62 63"],
    *["02 01 01 06 04 33 35 72 6f 6f 6d 3a 31 62 6c 6f 62 de ad", "00 01 01 06 04 33 35 72 6f 6f 6d 3a 31 62 6c 6f"],
    *["00 01 01 02 01 33 35 ff fe 65", "00 01 00 00 00 ff", "00 00 01 00 00 ff", "00 00 00 00 01 ff"],
    *["00 00 00 01 01 c3 a9", b'["1","2","edge:b","echo",{}]'.hex()],
]


@pytest.mark.parametrize("frame", NO_PUSH)
def test_v2_refuses_other_bytes(frame: str) -> None:
    with pytest.raises(InvalidMessage, match="binary push"):
        V2.decode(bytes.fromhex(frame))


WRITTEN: dict[str, Frame] = {
    "00 01 06 04 33 72 6f 6f 6d 3a 31 62 6c 6f 62 de ad": V2.encode(Message("3", None, "room:1", "blob", b"\xde\xad")),
    "00 00 06 04 72 6f 6f 6d 3a 31 62 6c 6f 62 ff": V2.encode(Message(None, None, "room:1", "blob", b"\xff")),
    "00 01 01 01 37 74 65": V2.encode(Message(7, None, "t", "e", b"")),
    "00 03 01 01 31 2e 35 74 65": V2.encode(Message(1.5, None, "t", "e", b"")),
    "01 01 01 06 02 33 35 72 6f 6f 6d 3a 31 6f 6b 01": V2.encode_reply("3", "5", "room:1", Reply("ok", b"\1")),
    "01 01 01 01 05 33 36 74 65 72 72 6f 72": V2.encode_reply("3", "6", "t", Reply("error", b"")),
    "01 00 00 01 02 74 6f 6b": V2.encode_reply(None, None, "t", Reply("ok", b"")),
    "01 01 00 06 02 31 65 64 67 65 3a 62 6f 6b 61": V2.encode_reply("1", "", "edge:b", Reply("ok", b"a")),
    "02 06 04 72 6f 6f 6d 3a 31 62 6c 6f 62 de ad": V2.encode_broadcast(Broadcast("room:1", "blob", b"\xde\xad")),
}


@pytest.mark.parametrize(("expected", "frame"), WRITTEN.items())
def test_v2_writes_bytes_in_binary_frames(expected: str, frame: Frame) -> None:
    assert frame == bytes.fromhex(expected)


@pytest.mark.parametrize("field", ["join_ref", "topic", "event"])
@pytest.mark.parametrize("value", ["x" * 256, "\u03c0" * 128])
def test_v2_names_the_field_of_a_binary_frame_that_is_too_long(field: str, value: str) -> None:
    message = Message("1", None, "t", "e", b"")
    with pytest.raises(InvalidPayload, match=f"the {field} of a binary frame must have at most 255 bytes, but has 256"):
        V2.encode(message._replace(**{field: value}))
    assert isinstance(V2.encode(message._replace(**{field: value[:-1]})), bytes)


@pytest.mark.parametrize("field", ["join_ref", "ref", "topic", "status"])
def test_v2_names_the_field_of_a_binary_reply_that_is_too_long(field: str) -> None:
    fields = {"join_ref": "1", "ref": "2", "topic": "t", "status": "ok"} | {field: "x" * 256}
    with pytest.raises(InvalidPayload, match=f"the {field} of a binary frame must have at most 255 bytes"):
        V2.encode_reply(fields["join_ref"], fields["ref"], fields["topic"], Reply(fields["status"], b""))


@pytest.mark.parametrize("ref", [True, {"a": 1}, [], b"1"])
def test_v2_cannot_write_a_ref_that_is_no_string_in_binary(ref: Any) -> None:
    with pytest.raises(InvalidPayload, match=f"the ref of a binary frame must be a string, got {type(ref).__name__}"):
        V2.encode_reply("1", ref, "t", Reply("ok", b""))


# Version 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ('{"topic":"t","event":"phx_join","payload":{"a":1},"ref":"1"}', (None, "1", "t", "phx_join", {"a": 1})),
        ('{"topic":"t","event":"e","payload":null,"ref":null,"join_ref":"4","x":1}', ("4", None, "t", "e", None)),
        ('{"topic":"é","event":"e","payload":[1],"ref":7}'.encode(), (None, 7, "é", "e", [1])),
    ],
)
def test_v1_reads_an_object(frame: str | bytes, message: tuple[Any, ...]) -> None:
    assert V1.decode(frame) == message
    assert isinstance(V1.decode(frame), Message)


@pytest.mark.parametrize("missing", ["topic", "event", "payload", "ref"])
def test_v1_names_the_missing_key(missing: str) -> None:
    fields = {key: "x" for key in ("topic", "event", "payload", "ref") if key != missing}
    with pytest.raises(
        InvalidMessage, match=f"expects an object with topic, event, payload, ref: KeyError.'{missing}'"
    ):
        V1.decode(json.dumps(fields))


BAD_V1 = [*["", "{", "null", "1", '"x"', '[null,null,"t","e",{"m":1}]'], *[b'{"topic":"\xff"}', b"\x00\x01"]]
BAD_V2 = ["", "{", "null", '"x"', "1", "[]", '["1","2","t","e"]', '{"topic":"t","event":"e","payload":{},"ref":"2"}']


@pytest.mark.parametrize(("serializer", "frames"), [(V1, BAD_V1), (V2, BAD_V2)])
def test_other_frames_are_refused(serializer: Serializer, frames: list[Frame]) -> None:
    for frame in frames:
        with pytest.raises(InvalidMessage):
            serializer.decode(frame)


def test_v1_writes_exactly_four_keys() -> None:
    push, hello = Message("3", None, "room:1", "joined", {"status": "connected"}), Broadcast("room:1", "e", {"n": 1})
    reply = '{"topic":"phoenix","event":"phx_reply","ref":"7","payload":{"status":"ok","response":{}}}'
    assert V1.encode(push) == '{"topic":"room:1","event":"joined","ref":null,"payload":{"status":"connected"}}'
    assert V1.encode_reply("3", "7", "phoenix", Reply()) == reply
    assert V1.encode_broadcast(hello) == '{"topic":"room:1","event":"e","ref":null,"payload":{"n":1}}'


def test_v1_has_no_binary() -> None:
    with pytest.raises(InvalidPayload, match=r"bytes cannot go to a client of vsn 1\.0\.0"):
        V1.encode(Message("1", None, "t", "e", b""))
    with pytest.raises(InvalidPayload, match=r"vsn=2\.0\.0"):
        V1.encode_reply("1", "2", "t", Reply("ok", b""))
    with pytest.raises(InvalidPayload):
        V1.encode_broadcast(Broadcast("t", "e", b""))


# What another node has written


@pytest.mark.parametrize(
    "text", ["{}", '{"n":1}', '{ "n" : 1.0e0 ,\n"n":2}', '{"text":"caf\u00e9 \\u00e9 \U0001f600"}', '{"cut off']
)
def test_json_of_another_node_goes_out_as_it_is(text: str) -> None:
    broadcast = Broadcast("room:1", "e", JsonText(text))
    assert V1.encode_broadcast(broadcast) == f'{{"topic":"room:1","event":"e","ref":null,"payload":{text}}}'
    assert V2.encode_broadcast(broadcast) == f'[null,null,"room:1","e",{text}]'
    assert V2.encode(Message("1", None, "room:1", "e", JsonText(text))) == f'["1",null,"room:1","e",{text}]'
    assert type(V1.encode_broadcast(broadcast)) is type(V2.encode_broadcast(broadcast)) is str


@pytest.mark.parametrize("text", ["[1]", '"{}"', "7", "null", ""])
def test_v2_takes_an_object_alone(text: str) -> None:
    for payload in (JsonText(text), text):
        with pytest.raises(InvalidPayload, match="expected payload to be a dict"):
            V2.encode_broadcast(Broadcast("t", "e", payload))
    expected = f'{{"topic":"t","event":"e","ref":null,"payload":{text}}}'
    assert V1.encode_broadcast(Broadcast("t", "e", JsonText(text))) == expected


WRITES = {"encode_broadcast": V2Serializer.encode_broadcast}
Values = type("Values", (V2Serializer,), WRITES)


class Shouting(V2Serializer):
    """Overrides the replies, and nothing else."""

    def encode_reply(self, join_ref: Any, ref: Any, topic: Any, reply: Reply) -> Frame:
        frame = super().encode_reply(join_ref, ref, topic, reply)
        return frame.upper()


@pytest.mark.parametrize("kind", [V1Serializer, V2Serializer, Shouting])
@pytest.mark.parametrize("reply", [Reply(), Reply("ok", {"a": [1]}), Reply('odd "', None), Reply("error", "é")])
def test_replies_that_are_prepared_are_the_same(kind: type[Serializer], reply: Reply) -> None:
    serializer = kind(JSON)
    for join_ref in ("1", None, 3, '"'):
        encode = serializer.prepare_replies(join_ref, "room:é")
        assert encode("2", reply) == serializer.encode_reply(join_ref, "2", "room:é", reply)


Text = type("Text", (V2Serializer,), {**WRITES, "takes_text": True})


@pytest.mark.parametrize("kind", [Serializer, Values, type("_", (Values,), {}), type("_", (Text,), WRITES)])
def test_a_serializer_that_writes_broadcasts_is_given_values(kind: type[Serializer]) -> None:
    assert not kind(JSON).takes_text


@pytest.mark.parametrize(
    "kind", [V1Serializer, V2Serializer, Text, type("_", (Text,), {}), type("_", (V1Serializer,), {})]
)
def test_a_serializer_may_take_json_text(kind: type[Serializer]) -> None:
    assert kind(JSON).takes_text


# Both, at length


@given(st.binary() | st.binary().map(lambda tail: b"\x00" + tail) | ALMOST_JSON | ANY_TEXT)
def test_a_frame_is_a_message_or_invalid(frame: str | bytes) -> None:
    for serializer in (V1, V2):
        try:
            message = serializer.decode(frame)
        except InvalidMessage:
            continue
        assert isinstance(message, Message)


@given(VALUES, VALUES, VALUES, VALUES, VALUES)
def test_what_was_said_in_text_comes_back(join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any) -> None:
    said = Message(join_ref, ref, topic, event, {"payload": payload})
    assert exactly(V2.decode(V2.encode(said))) == exactly(said)
    assert exactly(V1.decode(V1.encode(said))) == exactly(said._replace(join_ref=None))
    answer = Message(join_ref, ref, topic, "phx_reply", {"status": "ok", "response": payload})
    assert exactly(V2.decode(V2.encode_reply(join_ref, ref, topic, Reply("ok", payload)))) == exactly(answer)


SHORT = st.text(max_size=60)


# The choice


VERSIONS = {"1.0.0": [None, "1.0.0", "1.0.5"], "2.0.0": ["2.0.0", "2.0.9", "2.0.10", "2.0.0+build.7"]}


@pytest.mark.parametrize(("version", "asked"), VERSIONS.items())
def test_the_version_is_chosen(version: str, asked: list[Any]) -> None:
    assert {choose_serializer(vsn, default_table(JSON)).version for vsn in asked} == {version}


@pytest.mark.parametrize("vsn", ["123.1.1", "1.1.0", "2.1.0", "3.0.0", "0.9.0", "2.0.0-rc.1", "2.0.1-rc.1"])
def test_an_unknown_version_is_refused(vsn: str) -> None:
    with pytest.raises(UnknownVersion) as caught:
        choose_serializer(vsn, default_table(JSON))
    expected = f"The client's requested transport version \"{vsn}\" does not match server's version requirements of "
    assert str(caught.value) == expected + "['~> 1.0.0', '~> 2.0.0']"


@pytest.mark.parametrize(
    "vsn",
    [
        *["", "2", "2.0", "2.0.0.0", "abc", "v2.0.0", " 2.0.0", "2.0.0\n", "02.0.0", "2.00.0", "2.0.0-", "2.0.0+"],
        *["\uff12.0.0", ["2.0.0"], {"a": "b"}, 2, b"2.0.0", True],
    ],
)
def test_what_is_no_version_is_refused(vsn: Any) -> None:
    with pytest.raises(UnknownVersion, match="The client's requested transport version is invalid"):
        choose_serializer(vsn, default_table(JSON))


def test_a_table_of_ones_own() -> None:
    class V3Serializer(V2Serializer):
        version = "3.0.0"

    table: list[tuple[Serializer, str]] = [(V3Serializer(JSON), "~> 3.0.2"), *default_table(JSON)]
    assert choose_serializer("3.0.2", table).version == "3.0.0"
    assert choose_serializer("2.0.0", table).version == "2.0.0"
    with pytest.raises(UnknownVersion):
        choose_serializer("3.0.1", table)
    with pytest.raises(UnknownVersion):
        choose_serializer("2.0.0", [])


@pytest.mark.parametrize("requirement", ["3.0.0", "~> 3.0", "", ">= 3.0.0", "~>3.0.0"])
def test_a_requirement_has_one_form(requirement: str) -> None:
    with pytest.raises(InvalidOption, match=r'must look like "~> 2\.0\.0"'):
        choose_serializer("3.0.0", [(V2, requirement)])


def test_v2_cannot_write_a_lone_surrogate_in_binary() -> None:
    with pytest.raises(InvalidPayload, match="the topic of a binary frame must be writable in UTF-8"):
        V2.encode_broadcast(Broadcast("\ud800", "e", b""))
