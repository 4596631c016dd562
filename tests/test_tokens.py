"""Tokens: signed and read as Phoenix does, and Erlang's terms in them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from math import inf, nan
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix import ExpiredToken, InvalidOption, InvalidPayload, InvalidToken, Phoenix
from flask_phoenix import tokens as module
from flask_phoenix.protocol.terms import Atom, read_term, write_term

SECRET, SALT = "a secret of an app", "socket"
NOW = 1_700_000_000

JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values) | st.tuples(values, values),
)


class Clock:
    """What time it is."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock of tokens."""
    clock = Clock()
    monkeypatch.setattr("flask_phoenix.clock.time", clock)
    return clock


@pytest.fixture
def app() -> Flask:
    """Return an app with a secret."""
    app = Flask("tokens")
    app.config["SECRET_KEY"] = SECRET
    return app


@pytest.fixture
def phoenix(app: Flask) -> Phoenix:
    """Return the extension."""
    return Phoenix(app)


def as_elixir(term: bytes, digest: str = "sha256", head: str = "SFMyNTY", secret: str = SECRET) -> str:
    """Sign a term as ``Plug.Crypto.MessageVerifier`` does, step by step."""
    key = hashlib.pbkdf2_hmac("sha256", secret.encode(), SALT.encode(), 1000, 32)
    text = head + "." + base64.urlsafe_b64encode(term).decode().rstrip("=")
    signature = hmac.new(key, text.encode(), digest).digest()
    return text + "." + base64.urlsafe_b64encode(signature).decode().rstrip("=")


def at(milliseconds: int) -> bytes:
    """Return a time as Erlang writes it: a big integer of six bytes."""
    return b"n\x06\x00" + milliseconds.to_bytes(6, "little")


# Terms


@given(JSON_LIKE)
def test_what_is_written_is_read(value: Any) -> None:
    assert read_term(write_term(value)) == value


@pytest.mark.parametrize(
    ("value", "term"),
    [
        (7, b"a\x07"),
        (-1, b"b\xff\xff\xff\xff"),
        (86400, b"b\x00\x01\x51\x80"),
        (-(1 << 40), b"n\x06\x01\x00\x00\x00\x00\x00\x01"),
        (1 << 2048, b"o\x00\x00\x01\x01\x00" + bytes(256) + b"\x01"),
        (1.5, b"F\x3f\xf8\x00\x00\x00\x00\x00\x00"),
        (True, b"w\x04true"),
        (None, b"w\x03nil"),
        (Atom("infinity"), b"w\x08infinity"),
        ("\u00e9", b"m\x00\x00\x00\x02\xc3\xa9"),
        (b"\xff", b"m\x00\x00\x00\x01\xff"),
        ([], b"j"),
        ([1], b"l\x00\x00\x00\x01a\x01j"),
        ((1, "a"), b"h\x02a\x01m\x00\x00\x00\x01a"),
        ((1,) * 256, b"i\x00\x00\x01\x00" + b"a\x01" * 256),
        ({"a": 1}, b"t\x00\x00\x00\x01m\x00\x00\x00\x01aa\x01"),
    ],
)
def test_terms_are_those_of_erlang(value: Any, term: bytes) -> None:
    assert write_term(value) == b"\x83" + term
    read = read_term(b"\x83" + term)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("term", "value"),
    [(b"k\x00\x02\x01\x02", [1, 2]), (b"d\x00\x02id", "id"), (b"s\x02id", "id"), (b"v\x00\x04true", True)],
)
def test_terms_that_are_read_only(term: bytes, value: Any) -> None:
    assert read_term(b"\x83" + term) == value


@pytest.mark.parametrize(
    "term",
    [
        b"",
        b"a",
        b"a\x01a",
        b"m\xff\xff\xff\xff",
        b"l\x00\x00\x00\x01a\x01a\x02",
        b"X",
        b"t\x00\x00\x00\x01jj",
        b"h\x01" * 9999,
    ],
)
def test_terms_that_are_none(term: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it|something) "):
        read_term(b"\x83" + term)


# Tokens


@given(JSON_LIKE)
def test_what_is_signed_is_verified(value: Any) -> None:
    assert module.verify(module.sign(value, SALT, SECRET), SALT, [SECRET]) == value


def test_a_token_is_that_of_phoenix(phoenix: Phoenix, clock: Clock) -> None:
    term = b"\x83h\x03a\x07" + at(NOW * 1000) + b"b\x00\x01\x51\x80"
    assert phoenix.sign_token(7, SALT) == as_elixir(term)


@pytest.mark.parametrize(
    ("term", "value"),
    [
        (b"\x83h\x03a\x07" + at(NOW * 1000) + b"w\x08infinity", 7),
        (b"\x83h\x02a\x07" + at(NOW * 1000), 7),
        (b"\x83t\x00\x00\x00\x02d\x00\x04dataa\x07d\x00\x06signed" + at(NOW * 1000), 7),
    ],
)
@pytest.mark.parametrize(("digest", "head"), [("sha256", "SFMyNTY"), ("sha384", "SFMzODQ"), ("sha512", "SFM1MTI")])
def test_tokens_of_phoenix_are_read(
    phoenix: Phoenix, clock: Clock, term: bytes, value: Any, digest: str, head: str
) -> None:
    assert phoenix.verify_token(as_elixir(term, digest, head), SALT) == value


def test_a_token_ages(phoenix: Phoenix, clock: Clock) -> None:
    token, brief, lasting = (phoenix.sign_token({"id": 7}, SALT, max_age=age) for age in (86400, 60, inf))
    clock.now = NOW + 60
    assert phoenix.verify_token(brief, SALT) == {"id": 7}
    clock.now = NOW + 61
    with pytest.raises(ExpiredToken, match="60 seconds"):
        phoenix.verify_token(brief, SALT)
    with pytest.raises(ExpiredToken, match="30 seconds"):
        phoenix.verify_token(token, SALT, max_age=30)
    assert phoenix.verify_token(brief, SALT, max_age=3600) == phoenix.verify_token(token, SALT) == {"id": 7}
    clock.now = NOW * 2
    assert phoenix.verify_token(lasting, SALT) == phoenix.verify_token(brief, SALT, max_age=inf) == {"id": 7}
    clock.now = NOW - 1
    with pytest.raises(InvalidToken, match="clock"):
        phoenix.verify_token(token, SALT)


@pytest.mark.parametrize(
    "token", [None, "", 7, b"a.b.c", "a.b", "a.b.c", "SFMyNTY.\udc80.\udc80", "SFMyNTY..", "a.b.c.d"]
)
def test_what_is_no_token(phoenix: Phoenix, token: Any) -> None:
    with pytest.raises(InvalidToken):
        phoenix.verify_token(token, SALT)


@pytest.mark.parametrize("term", [b"\x83a\x07", b"\x83X", b"no term", b"\x83h\x03a\x07a\x07w\x02no"])
def test_what_is_signed_and_no_token(phoenix: Phoenix, term: bytes) -> None:
    with pytest.raises(InvalidToken, match="signed"):
        phoenix.verify_token(as_elixir(term), SALT)


def test_a_token_is_for_its_salt_and_its_secret(app: Flask, phoenix: Phoenix) -> None:
    token = phoenix.sign_token(7, SALT)
    with pytest.raises(InvalidToken, match="SECRET_KEY_FALLBACKS"):
        phoenix.verify_token(token, "another salt")
    with pytest.raises(InvalidToken):
        phoenix.verify_token(token.replace(".", ".a", 1), SALT)
    app.config["SECRET_KEY"] = b"a new secret"
    with pytest.raises(InvalidToken):
        phoenix.verify_token(token, SALT)
    app.config["SECRET_KEY_FALLBACKS"] = [SECRET]
    assert phoenix.verify_token(token, SALT) == phoenix.verify_token(phoenix.sign_token(7, SALT), SALT) == 7


def test_options_of_tokens(app: Flask, phoenix: Phoenix) -> None:
    loop: list[Any] = []
    loop.append(loop)
    for data in (object(), {1}, nan, "\udc80", loop):
        with pytest.raises(InvalidPayload, match="a token holds"):
            phoenix.sign_token(data, SALT)
    for age in (-1, "1", True, nan):
        with pytest.raises(InvalidOption, match="max_age"):
            phoenix.sign_token(7, SALT, max_age=age)  # type: ignore[arg-type]
    app.config["SECRET_KEY"] = None
    with pytest.raises(InvalidOption, match="SECRET_KEY"):
        phoenix.sign_token(7, SALT)
    with pytest.raises(InvalidOption, match="SECRET_KEY"):
        phoenix.verify_token("", SALT)
