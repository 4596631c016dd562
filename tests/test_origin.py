"""Who may connect: the matrices of Phoenix's transport tests, and what its words leave open."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.transports.origin import OriginPolicy, RequestOrigin

HERE = RequestOrigin("http", "example.com", 80)
HOSTLESS = [
    "",
    "null",
    "file://",
    "file:///etc",
    "example.com",
    "example.com:80",
    "http://",
    "http://:80",
    "//",
    "http:example.com",
]
BROKEN = [
    "http://[::1",
    "http://example.com:x",
    "http://example.com:99999",
    "http://exam\tple.com",
    " http://example.com",
]


@pytest.mark.parametrize("rule", [True, False, [], ["//other.com"], ":conn", lambda split: False])
def test_a_request_without_origin_may_pass(rule: Any) -> None:
    assert OriginPolicy(rule).allows(None, HERE)


@pytest.mark.parametrize("origin", ["http://evil.com", *HOSTLESS, *BROKEN])
def test_false_lets_everyone_in(origin: str) -> None:
    assert OriginPolicy(False).allows(origin, HERE)


@pytest.mark.parametrize("rule", [True, ["//example.com", "//*.com", "file://example.com"], ":conn"])
@pytest.mark.parametrize("origin", [*HOSTLESS, *BROKEN])
def test_an_origin_without_host_is_refused(rule: Any, origin: str) -> None:
    assert not OriginPolicy(rule).allows(origin, HERE)


# True


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://example.com", True),
        ("https://example.com:4000", True),
        ("ws://user:secret@example.com", True),
        ("http://www.example.com", False),
        ("http://Example.com", False),
        ("http://example.com.evil.com", False),
        ("http://example.com@evil.com", False),
    ],
)
@pytest.mark.parametrize(
    ("server_host", "request_host"),
    [(None, "example.com"), ("example.com", "10.0.0.1"), ("example.com:5000", "10.0.0.1"), ("", "example.com")],
)
def test_true_compares_the_host(origin: str, allowed: bool, server_host: str | None, request_host: str) -> None:
    policy = OriginPolicy(True, server_host)
    assert policy.allows(origin, RequestOrigin("https", request_host, 443)) is allowed


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_true_knows_ipv6(host: str) -> None:
    request = RequestOrigin("http", host, 4000)
    assert OriginPolicy().allows("http://[::1]:4000", request)
    assert OriginPolicy().allows("http://[::1]", request)
    assert not OriginPolicy().allows("http://[::2]", request)
    assert OriginPolicy(":conn").allows("http://[::1]:4000", request)
    assert OriginPolicy(["http://[::1]:4000"]).allows("http://[::1]:4000", request)


# A list


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://example.com", True),
        ("https://example.com", True),
        ("https://example.com:8443", True),
        ("http://scheme.com", True),
        ("http://scheme.com:80", True),
        ("HTTP://scheme.com", True),
        ("http://port.com:81", True),
        ("https://port.com:81", True),
        ("http://notallowed.com", False),
        ("https://scheme.com", False),
        ("http://scheme.com:8080", False),
        ("http://port.com", False),
        ("http://port.com:82", False),
        ("http://Example.com", False),
        ("http://org1.example.com", False),
    ],
)
def test_a_list(origin: str, allowed: bool) -> None:
    rule = ["//example.com", "http://scheme.com", "//port.com:81"]
    assert OriginPolicy(rule).allows(origin, HERE) is allowed
    assert OriginPolicy(tuple(rule)).allows(origin, HERE) is allowed


@pytest.mark.parametrize(
    ("rule", "origin", "allowed"),
    [
        (["https://*.ex.com", "http://*.ex.com"], "http://org1.ex.com", True),
        (["https://*.ex.com", "http://*.ex.com"], "https://org1.ex.com", True),
        (["https://*.ex.com", "http://*.ex.com"], "http://ex.com", True),
        (["https://*.ex.com", "http://*.ex.com"], "https://a.b.ex.com", True),
        (["https://*.ex.com", "http://*.ex.com"], "http://org1.prefix-ex.com", False),
        (["https://*.ex.com", "http://*.ex.com"], "http://prefix-ex.com", False),
        (["https://*.ex.com", "http://*.ex.com"], "http://bar.com", False),
        (["http://*.foo.example.com"], "http://org1.foo.example.com", True),
        (["http://*.foo.example.com"], "http://foo.example.com", True),
        (["http://*.foo.example.com"], "http://bar.example.com", False),
        (["http://*.foo.example.com"], "http://example.com", False),
        (["//ex.com"], "http://org1.ex.com", False),
        (["//*.ex.com:81"], "https://a.ex.com:81", True),
        (["//*.ex.com:81"], "https://a.ex.com", False),
        (["ws://ex.com"], "ws://ex.com:80", True),
        (["wss://ex.com"], "wss://ex.com:443", True),
        (["app://ex.com"], "app://ex.com", True),
        (["app://ex.com"], "app://ex.com:1", True),
        (["app://ex.com:1"], "app://ex.com", False),
        ([], "http://example.com", False),
    ],
)
def test_stars_and_parts_left_out(rule: list[str], origin: str, allowed: bool) -> None:
    assert OriginPolicy(rule).allows(origin, HERE) is allowed


# :conn


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://example.com", True),
        ("http://example.com:80", True),
        ("https://example.com", False),
        ("ws://example.com", False),
        ("wss://example.com", False),
        ("http://www.example.com", False),
        ("http://example.com:4000", False),
    ],
)
def test_conn_is_the_address_of_the_request(origin: str, allowed: bool) -> None:
    assert OriginPolicy(":conn").allows(origin, HERE) is allowed


def test_conn_minds_the_port() -> None:
    secure = RequestOrigin("https", "example.com", 443)
    assert OriginPolicy(":conn").allows("https://example.com", secure)
    assert not OriginPolicy(":conn").allows("https://example.com:4000", secure)
    assert OriginPolicy(":conn").allows("https://example.com:4000", secure._replace(port=4000))


# A function


def test_a_function_decides_on_the_parsed_origin() -> None:
    seen: list[SplitResult] = []

    def decide(split: SplitResult) -> Any:
        seen.append(split)
        return split.scheme == "file" or split.path == "null" or split.port == 81

    policy = OriginPolicy(decide)
    assert policy.allows("file://", HERE) is True
    assert policy.allows("null", HERE) is True
    assert policy.allows("http://a.com:81", HERE) is True
    assert policy.allows("http://a.com", HERE) is False
    assert [split.netloc for split in seen] == ["", "", "a.com:81", "a.com"]


@pytest.mark.parametrize("origin", BROKEN)
def test_a_function_is_not_asked_about_what_is_no_address(origin: str) -> None:
    assert not OriginPolicy(lambda split: True).allows(origin, HERE)


# Options that cannot be


@pytest.mark.parametrize("rule", [None, 1, 0, "conn", "//example.com", b"//example.com", {"//example.com"}, object()])
def test_another_rule_is_refused(rule: Any) -> None:
    with pytest.raises(
        InvalidOption, match=r'check_origin must be True, False, a list such as \["https://example.com"\]'
    ):
        OriginPolicy(rule)


@pytest.mark.parametrize("entry", [*HOSTLESS, *BROKEN, None, True, b"//example.com"])
def test_an_entry_must_name_a_host(entry: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        OriginPolicy(["//fine.com", entry])
    assert str(caught.value).endswith(f'as "https://example.com" or "//example.com" does, got {entry!r}')


# The explanation


@pytest.mark.parametrize(
    ("rule", "origin", "text"),
    [
        (
            True,
            "https://a.com",
            "its origin 'https://a.com' is not allowed by check_origin=True; if the page is yours, write "
            '@phoenix.socket(..., check_origin=["https://a.com"])',
        ),
        (
            ["//b.com"],
            "https://a.com:81",
            "its origin 'https://a.com:81' is not allowed by check_origin=['//b.com']; if the page is yours, write "
            '@phoenix.socket(..., check_origin=["//b.com", "https://a.com:81"])',
        ),
        (
            ":conn",
            "null",
            "its origin 'null' is not allowed by check_origin=':conn'; it names no host, so that only a function, "
            "or False, can let it in",
        ),
    ],
)
def test_a_refusal_is_explained(rule: Any, origin: str, text: str) -> None:
    assert OriginPolicy(rule).explain(origin) == text


def test_a_function_speaks_for_itself() -> None:
    def decide(split: SplitResult) -> bool:
        return False

    assert OriginPolicy(decide).explain("http://a.com").endswith("; this function decides")
    assert "\n" not in OriginPolicy(decide).explain("http://a.com\nforged line")


@given(st.text())
def test_no_origin_surprises(origin: str) -> None:
    for rule in (True, ["//*.example.com"], ":conn"):
        policy = OriginPolicy(rule)
        assert policy.allows(origin, HERE) in (True, False)
        assert origin in policy.explain(origin) or repr(origin) in policy.explain(origin)
