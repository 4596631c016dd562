"""Signed tokens, in the format of ``Phoenix.Token`` (``plug_crypto``, ``lib/plug/crypto.ex``)."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import pbkdf2_hmac
from math import inf
from typing import Any

from . import clock
from .exceptions import ExpiredToken, InvalidOption, InvalidPayload, InvalidToken
from .protocol.terms import Atom, read_term, write_term

#: Seconds for which a token is good, unless said otherwise.
MAX_AGE = 86400

#: How a key is derived (``Plug.Crypto.KeyGenerator``).
ITERATIONS, KEY_SIZE = 1000, 32

#: What a token begins with, and the hash that it is signed by; the first is written.
HASHES = {"SFMyNTY": "sha256", "SFMzODQ": "sha384", "SFM1MTI": "sha512"}
SHA256 = "SFMyNTY"

INFINITY = Atom("infinity")

Secret = str | bytes


def sign(data: Any, salt: str, secret: Secret, max_age: float = MAX_AGE) -> str:
    """Write a token that holds data, which is signed and not encrypted.

    :param max_age: seconds for which it is good, unless who reads it decides otherwise; ``inf``: for ever.
    :raises InvalidPayload: the data is of a kind that a token cannot hold.
    """
    check_max_age(max_age)
    term = data, int(clock.time() * 1000), INFINITY if max_age == inf else max_age
    try:
        text = f"{SHA256}.{_encode(write_term(term))}"
    except ValueError as error:
        raise InvalidPayload(f"a token holds what JSON has, bytes and tuples: {error}") from None
    return f"{text}.{_signature(text, SHA256, salt, secret)}"


def verify(token: Any, salt: str, secrets: Sequence[Secret], max_age: float | None = None) -> Any:
    """Return the data of a token.

    :param secrets: it may be signed with any of these.
    :param max_age: seconds since it was signed in which it is good; None: what it says itself.
    :raises ExpiredToken: it was good.
    :raises InvalidToken: it is no token, or signed with another secret or salt.
    """
    if max_age is not None:
        check_max_age(max_age)
    data, signed_at, own_max_age = _open(_checked(token, salt, secrets))
    age_limit = own_max_age if max_age is None else max_age
    now = int(clock.time() * 1000)
    if age_limit in (inf, INFINITY):
        return data
    if age_limit <= 0 or signed_at + int(age_limit * 1000) < now:
        raise ExpiredToken(f"the token was good for {age_limit} seconds; let the client fetch a new one")
    if signed_at > now:
        raise InvalidToken("the token was signed in the future: set the clock of the host that signed it, or of this")
    return data


def check_max_age(max_age: Any) -> None:
    """See that this is a time for which a token can be good.

    :raises InvalidOption: it is not.
    """
    if isinstance(max_age, bool) or not isinstance(max_age, int | float) or not max_age >= 0:
        raise InvalidOption(f"max_age is a number of seconds, got {max_age!r}")


def _checked(token: Any, salt: str, secrets: Sequence[Secret]) -> bytes:
    """Return the term of a token, once its signature is seen to be good: nothing else is ever decoded."""
    if not isinstance(token, str) or token.count(".") != 2:
        raise InvalidToken("there is no token: let the client fetch one, as sign_token writes it")
    text, _, signature = token.rpartition(".")
    kind, _, term = text.partition(".")
    given = signature.encode(errors="replace")
    if kind not in HASHES or not any(
        hmac.compare_digest(_signature(text, kind, salt, secret).encode(), given) for secret in secrets
    ):
        raise InvalidToken(
            "the token was not signed with this SECRET_KEY and salt: use those of sign_token"
            " (an old key may stand in SECRET_KEY_FALLBACKS)"
        )
    try:
        return urlsafe_b64decode(term + "=" * (-len(term) % 4))
    except ValueError:
        raise InvalidToken("the token is signed, and no base64: it was not written by sign_token") from None


def _open(term: bytes) -> tuple[Any, int, Any]:
    """Read data, the time in milliseconds at which it was signed, and the seconds for which it is good."""
    try:
        value = read_term(term)
    except ValueError as error:
        raise InvalidToken(f"the token is signed, and what it holds is not for us: {error}") from None
    if isinstance(value, dict):  # of Phoenix before 1.5
        value = value.get("data"), value.get("signed")
    if isinstance(value, tuple) and len(value) == 2:  # of Plug.Crypto 1.1
        value = (*value, MAX_AGE)
    match value:
        case (data, int(signed_at), int() | float() | Atom("infinity") as max_age):
            return data, signed_at, max_age
    raise InvalidToken("the token is signed, and was not written by sign_token or Phoenix.Token")


def _signature(text: str, kind: str, salt: str, secret: Secret) -> str:
    return _encode(hmac.digest(_key(secret, salt), text.encode(errors="replace"), HASHES[kind]))


@lru_cache(maxsize=256)
def _key(secret: Secret, salt: str) -> bytes:
    return pbkdf2_hmac(
        "sha256", secret.encode() if isinstance(secret, str) else secret, salt.encode(), ITERATIONS, KEY_SIZE
    )


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
