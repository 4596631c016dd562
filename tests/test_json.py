"""JSON, read and written as strictly as Phoenix does it."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import ujson
from hypothesis import given, settings

from flask_phoenix.exceptions import InvalidMessage, InvalidPayload
from flask_phoenix.protocol.json import Json
from flask_phoenix.protocol.messages import JsonText
from tests.values import ALMOST_JSON, ANY_TEXT, VALUES, exactly

JSON = Json()


def strict(text: str) -> Any:
    """Read JSON as Phoenix does, slowly: the reference that the codec is held to."""
    text.encode()
    value = json.loads(text, parse_constant=refuse, parse_float=finite)
    json.dumps(value, ensure_ascii=False).encode()
    return value


def refuse(text: str) -> Any:
    """Refuse what is no JSON."""
    raise ValueError(text)


def finite(text: str) -> float:
    """Read a number that is not infinite."""
    return refuse(text) if math.isinf(float(text)) else float(text)


# Reading

ODD_NUMBERS = "NaN [NaN] Infinity [-Infinity] [1e400] [-1E400] - [-] [-.5] [.5] [01] [-01] [00] [1.] [1.e5] [+1] [1e]"
ODD_STRINGS = r"""["\ud800"] ["\uDC00"] ["\ud83d\ud83d\ude00"] {"\ud800":1} ["\x"] ["\u12"] ["\u12g4"] [" ["a] ['a']"""
ODD_MARKS = '{"a":01} [1,] [,1] {"a"} {"a":} {"a":1,} {1:2} []] [ tru True undefined \ufeff[] [1]//'
REFUSED = [
    *[*ODD_NUMBERS.split(), *ODD_STRINGS.split(), *ODD_MARKS.split()],
    *["", " ", "[- 1]", "[1 2]", "[] x", '["\ud800"]', '["\x00"]', '["\n"]', '["\t"]', '["\x1f"]', "\xa0[]"],
    *["[1" + "0" * 309 + ".0]", "[" + "9" * 250 + "e99]", "[" + ",".join(["1" * 400 + ".5"] * 3) + "]"],
    *[
        "[" * 100_000,
        "[" * 501 + "]" * 501,
        '{"a":' * 501 + "1e5" + "}" * 501,
        "\n" + "[" * 501 + "]" * 501,
        "1" * 4301,
    ],
    *['{"a":NaN,"a":1}', '{"a":[1e400],"a":1}', r'{"a":"\ud800","a":1}', '{"b":{"a":-Infinity,"a":{}}}'],
]


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("module", [None, ujson, json])
def test_reading_refuses_what_is_not_json(text: str, module: Any) -> None:
    with pytest.raises(InvalidMessage):
        Json(module).loads(text)


READ = [
    (" \n\t\r[1]\n ", [1]),
    (r'["\u0000", "\ud83d\ude00", "\\ud800", "\\\"01\\"]', ["\x00", "\U0001f600", r"\ud800", '\\"01\\']),
    (r'"\"\\\/\b\f\n\r\t"', '"\\/\b\f\n\r\t'),
    (
        '["2026-11-05 08:05, - 1. NaN 1e400 01", "\x7f\u2028\xa0"]',
        ["2026-11-05 08:05, - 1. NaN 1e400 01", "\x7f\u2028\xa0"],
    ),
    ("[1.0,1e2,-0,-0.0,0.1,1E-7,1e308,1e-400,0e999]", [1.0, 100.0, 0, -0.0, 0.1, 1e-7, 1e308, 0.0, 0.0]),
    ("[123456789012345678901234567890," + "1" * 309 + "]", [123456789012345678901234567890, int("1" * 309)]),
    ('{"a":1,"a":2}', {"a": 2}),
    ("null", None),
    *[(text, json.loads(text)) for text in ("[" * 500 + "1e5" + "]" * 500, "\n" + "[" * 500 + "]" * 500, "1" * 4300)],
    *[(text, json.loads(text)) for text in ('{"a":' * 500 + "1" + "}" * 500, "[" + ",".join(["[[]]"] * 600) + "]")],
    ("[" + ",".join(["1234567890"] * 100) + "]", [1234567890] * 100),
]


@pytest.mark.parametrize(("text", "value"), READ)
@pytest.mark.parametrize("module", [None, ujson, json])
def test_reading_takes_what_is_json(text: str, value: Any, module: Any) -> None:
    assert exactly(Json(module).loads(text)) == exactly(value)


def test_reading_bytes_and_what_another_node_has_written() -> None:
    assert JSON.loads(JsonText('["é"]')) == ["é"]
    assert JSON.loads('["é"]'.encode()) == ["é"]
    with pytest.raises(InvalidMessage, match="expected JSON: 'utf-8' codec"):
        JSON.loads(b'["\xff"]')


@settings(max_examples=500)
@given(ALMOST_JSON | ALMOST_JSON.map("[{}]".format) | ALMOST_JSON.map('{{"k":{}}}'.format) | ANY_TEXT)
def test_reading_is_as_strict_as_the_reference(text: str) -> None:
    try:
        value = strict(text)
    except (ValueError, RecursionError):
        with pytest.raises(InvalidMessage):
            JSON.loads(text)
    else:
        assert exactly(JSON.loads(text)) == exactly(value)


# Writing


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 7


class Word(str):
    pass


class Raw:
    """What ujson would write in the way of its own."""

    def __json__(self) -> str:
        return "NaN"

    def toDict(self) -> dict[str, Any]:
        return {"a": 1}


def cycle() -> list[Any]:
    """Return a list that holds itself."""
    value: list[Any] = []
    value.append(value)
    return value


def nested(depth: int) -> list[Any]:
    """Return lists in lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


UNWRITABLE = [
    *[math.nan, {"a": [math.inf]}, -math.inf, "\ud800", ["é\udfff"], {"\ud800": 1}],
    *[{(1, 2): 3}, {b"a": 1}, {Colour.RED: 1}, {1: "a", "1": "b"}, [{"deep": ({None: 1, "null": 2},)}]],
    *[b"bytes", {"a": b"bytes"}, {1, 2}, object(), Raw(), [Raw()], Colour.RED, datetime.date(2026, 11, 24)],
    *[decimal.Decimal("NaN"), 1j, (number for number in [1]), cycle(), nested(100_000), 10**5_000],
]


@pytest.mark.parametrize("module", [None, ujson, json])
@pytest.mark.parametrize("value", UNWRITABLE, ids=lambda value: type(value).__name__)
def test_writing_refuses_what_json_has_not(value: Any, module: Any) -> None:
    with pytest.raises(InvalidPayload, match=r"^this cannot be written as JSON: .*; send dicts, lists, strings"):
        Json(module).dumps(value)


WRITTEN: list[tuple[Any, str]] = [
    ([None, True, 0, -0.0, 0.1, "", {}], '[null,true,0,-0.0,0.1,"",{}]'),
    (None, "null"),
    (2**64, "18446744073709551616"),
    (-(2**63) - 1, "-9223372036854775809"),
    ("a/b<&>é\U0001f600", '"a/b<&>é\U0001f600"'),
    ('"\\\x00\x1f\n\x7f\u2028', '"\\"\\\\\\u0000\\u001f\\n\x7f\u2028"'),
    (["a/b<&>é\x00"], '["a/b<&>é\\u0000"]'),
    ({"b": [1, {"a": None}], "a": (1, 2)}, '{"b":[1,{"a":null}],"a":[1,2]}'),
    ({1: 2, 1.5: 2, None: 3, False: 4, "x": 1}, '{"1":2,"1.5":2,"null":3,"false":4,"x":1}'),
    ([{Level.HIGH: Level.HIGH}, Word("x")], '[{"7":7},"x"]'),
]


@pytest.mark.parametrize(("value", "text"), WRITTEN)
def test_writing(value: Any, text: str) -> None:
    assert JSON.dumps(value) == text


def test_a_key_that_is_no_number_is_refused() -> None:
    with pytest.raises(InvalidPayload):
        JSON.dumps({math.nan: 1})


@pytest.mark.parametrize("module", [None, ujson, json])
def test_what_is_read_may_be_written_inside_a_reply_and_what_nests_deeper_than_that_is_refused(module: Any) -> None:
    codec, read = Json(module), "[" * 500 + "]" * 500
    assert codec.loads(codec.dumps({"status": [codec.loads(read)]}), 512)["status"] == [json.loads(read)]
    for leaf in (1, datetime.date(2026, 11, 24)):
        with pytest.raises(InvalidPayload, match="512 levels" if leaf == 1 else "cannot be written"):
            codec.dumps([leaf, nested(512)])
    assert codec.dumps(nested(511)) == "[" * 512 + "]" * 512
    with pytest.raises(InvalidPayload, match="512 levels"):
        Json(default=str).dumps({"at": datetime.date(2026, 11, 24), "deep": nested(512)})


def test_other_types_go_through_the_default() -> None:
    codec = Json(default=lambda value: [str(value)])
    day = datetime.date(2026, 11, 24)
    assert codec.dumps({"day": day, "price": decimal.Decimal("1.10")}) == '{"day":["2026-11-24"],"price":["1.10"]}'
    with pytest.raises(InvalidPayload, match="Out of range"):
        Json(default=lambda value: math.nan).dumps({"day": day})
    with pytest.raises(InvalidPayload, match="surrogates not allowed"):
        Json(default=lambda value: "\ud800").dumps({"day": day})


def test_another_module_is_used_and_held_to_the_rules() -> None:
    module = SimpleNamespace(dumps=lambda value: b'{"from":"bytes"}', loads=lambda text: ["read", text])
    assert Json(module).dumps({}) == '{"from":"bytes"}'
    assert Json(module).loads("[1]") == ["read", "[1]"]
    careless = SimpleNamespace(dumps=lambda value: "[NaN]", loads=refuse)
    with pytest.raises(InvalidPayload):
        Json(careless).dumps({})
    with pytest.raises(InvalidMessage, match=r"expected JSON: \[1\]"):
        Json(careless).loads("[1]")


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = JSON.dumps(value)
    assert exactly(JSON.loads(text)) == exactly(value)
    assert exactly(strict(text)) == exactly(value)
