"""How a broadcast is written between nodes: bytes spelled out, there and back, and what nobody has packed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidMessage, InvalidPayload
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import Broadcast, JsonText
from flask_phoenix.pubsub.envelope import pack, unpack

JSON = Json()

PACKED = [
    ("hello", {"n": 1}, b'J\x00\x05hello{"n":1}'),
    ("hello", {}, b"J\x00\x05hello{}"),
    ("", {}, b"J\x00\x00{}"),
    ("e", None, b"J\x00\x01enull"),
    ("e", [1, "a"], b'J\x00\x01e[1,"a"]'),
    ("e", "text", b'J\x00\x01e"text"'),
    ("\u03c0", {"a": "\u00e9"}, b'J\x00\x02\xcf\x80{"a":"\xc3\xa9"}'),
    ("blob", b"\xde\xad\xbe\xef", b"B\x00\x04blob\xde\xad\xbe\xef"),
    ("blob", b"", b"B\x00\x04blob"),
    ("blob", b'{"n":1}', b'B\x00\x04blob{"n":1}'),
    ("e" * 300, {}, b"J\x01\x2c" + b"e" * 300 + b"{}"),
    ("e" * 65_535, b"", b"B\xff\xff" + b"e" * 65_535),
]


def read(broadcast: Broadcast, codec: Json = JSON) -> Broadcast:
    """Read a payload that came as text."""
    payload = broadcast.payload
    return broadcast._replace(payload=codec.loads(payload)) if isinstance(payload, JsonText) else broadcast


@pytest.mark.parametrize(("event", "payload", "data"), PACKED, ids=range(len(PACKED)))
def test_what_is_written(event: str, payload: Any, data: bytes) -> None:
    assert pack(Broadcast("room:1", event, payload), JSON) == data


@pytest.mark.parametrize(("event", "payload", "data"), PACKED, ids=range(len(PACKED)))
def test_what_is_read(event: str, payload: Any, data: bytes) -> None:
    assert read(unpack("room:1", data)) == Broadcast("room:1", event, payload)


def test_the_topic_travels_beside_it() -> None:
    packed = pack(Broadcast("room:1", "e", {}), JSON)
    assert pack(Broadcast("another", "e", {}), JSON) == packed
    assert unpack("another", packed).topic == "another"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text() | st.floats(allow_nan=False, width=32),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
).filter(lambda value: "inf" not in repr(value))


@given(st.text(max_size=200), VALUES | st.binary())
def test_there_and_back(event: str, payload: Any) -> None:
    broadcast = Broadcast("room:1", event, payload)
    assert read(unpack("room:1", pack(broadcast, JSON))) == broadcast


def test_the_apps_json_writes_and_reads() -> None:
    class Loud:
        """Writes what JSON has not in a way of its own."""

        dumps = staticmethod(lambda value: json.dumps(value, default=str))
        loads = staticmethod(json.loads)

    loud = Json(Loud)
    packed = pack(Broadcast("t", "e", {"at": ValueError("x")}), loud)
    assert read(unpack("t", packed), loud) == Broadcast("t", "e", {"at": "x"})


@pytest.mark.parametrize(
    "payload", [pytest.param(object(), id="object"), {"a": {1, 2}}, float("nan"), {"a": "\ud800"}], ids=repr
)
def test_what_cannot_be_written(payload: Any) -> None:
    with pytest.raises(InvalidPayload):
        pack(Broadcast("t", "e", payload), JSON)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"J",
        b"J\x00",
        b"J\x00\x05hell",
        b"B\x00\x05hell",
        b"B\xff\xffshort",
        b"X\x00\x01e{}",
        b"j\x00\x01e{}",
        b"\x00\x00\x01e{}",
        b'{"event":"e"}',
    ],
)
def test_what_nobody_has_packed(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="expected a broadcast of another node"):
        unpack("t", data)


@pytest.mark.parametrize("text", ["", "{", "NaN", "{} {}"])
def test_json_is_left_as_it_is(text: str) -> None:
    payload = unpack("t", b"J\x00\x01e" + text.encode()).payload
    assert (type(payload), payload) == (JsonText, text)


def test_text_that_is_not_utf8() -> None:
    with pytest.raises(InvalidMessage, match="expected a broadcast in UTF-8"):
        unpack("t", b"J\x00\x01e\xff")


@pytest.mark.parametrize("kind", [b"J", b"B"])
def test_an_event_that_is_not_utf8(kind: bytes) -> None:
    with pytest.raises(InvalidMessage, match="expected a broadcast in UTF-8"):
        unpack("t", kind + b"\x00\x01\xff{}")


@pytest.mark.parametrize("payload", [{}, b""])
@pytest.mark.parametrize(
    "event", ["e" * 65_536, "\u03c0" * 32_768, "\ud800"], ids=["long", "long in UTF-8", "surrogate"]
)
def test_an_event_that_cannot_be_written(event: str, payload: Any) -> None:
    with pytest.raises(InvalidPayload, match="this event cannot travel between nodes"):
        pack(Broadcast("t", event, payload), JSON)


def test_an_error_shows_the_begin_alone() -> None:
    with pytest.raises(InvalidMessage) as mistake:
        unpack("t", b"?" * 1000)
    assert len(str(mistake.value)) < 100
