"""Origins: the matrices of Phoenix's transport tests, and what they leave open."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.protocol.messages import shown
from flask_phoenix.transports.origin import OriginPolicy, RequestOrigin

HERE = RequestOrigin("http", "example.com", 80)
HOSTLESS = [
    "",
    "null",
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
LIST = ["//example.com", "http://scheme.com", "//port.com:81"]
STARS = ["https://*.ex.com", "http://*.ex.com"]


@pytest.mark.parametrize("rule", [True, False, [], ["//other.com"], ":conn", lambda split: False])
def test_a_request_without_origin_may_pass(rule: Any) -> None:
    assert OriginPolicy(rule).allows(None, HERE)


@pytest.mark.parametrize("origin", ["http://evil.com", *HOSTLESS, *BROKEN])
def test_false_allows_every_origin(origin: str) -> None:
    assert OriginPolicy(False).allows(origin, HERE)


@pytest.mark.parametrize("rule", [True, ["//example.com", "//*.com", "file://example.com"], ":conn"])
@pytest.mark.parametrize("origin", [*HOSTLESS, *BROKEN])
def test_an_origin_without_host_is_refused(rule: Any, origin: str) -> None:
    assert not OriginPolicy(rule).allows(origin, HERE)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://example.com", True),
        ("https://example.com:4000", True),
        ("ws://user:secret@example.com", True),
        ("HTTP://EXAMPLE.com", True),
        ("http://www.example.com", False),
        ("http://example.com.evil.com", False),
        ("http://example.com@evil.com", False),
    ],
)
def test_true_compares_the_host(origin: str, allowed: bool) -> None:
    for host in ("example.com", "Example.COM"):
        assert OriginPolicy().allows(origin, RequestOrigin("https", host, 443)) is allowed


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_ipv6(host: str) -> None:
    request = RequestOrigin("http", host, 4000)
    assert OriginPolicy().allows("http://[::1]", request)
    assert not OriginPolicy().allows("http://[::2]", request)
    assert OriginPolicy(":conn").allows("http://[::1]:4000", request)
    assert OriginPolicy(["http://[::1]:4000"]).allows("http://[::1]:4000", request)


@pytest.mark.parametrize(
    ("rule", "origin", "allowed"),
    [
        (LIST, "http://example.com", True),
        (LIST, "https://example.com:8443", True),
        (tuple(LIST), "http://scheme.com", True),
        (LIST, "http://scheme.com:80", True),
        (LIST, "HTTP://scheme.com", True),
        (LIST, "https://port.com:81", True),
        (LIST, "http://notallowed.com", False),
        (LIST, "https://scheme.com", False),
        (LIST, "http://scheme.com:8080", False),
        (LIST, "http://port.com", False),
        (LIST, "http://org1.example.com", False),
        (["//Example.COM"], "http://eXample.com", True),
        (["//*.B\u00fccher.example"], "https://a.xn--bcher-kva.example", True),
        (["//b\u00fccher.example"], "https://XN--bcher-kva.example", True),
        (["//xn--bcher-kva.example"], "https://xn--bcher-kva.example", True),
        (["//xn--bcher-kva.example"], "https://bucher.example", False),
        (["//" + "\u00fc" * 70 + ".example"], "https://bucher.example", False),
        (STARS, "http://org1.ex.com", True),
        (STARS, "http://ex.com", True),
        (STARS, "https://a.b.ex.com", True),
        (STARS, "http://prefix-ex.com", False),
        (["http://*.foo.example.com"], "http://bar.example.com", False),
        (["//*.ex.com:81"], "https://a.ex.com:81", True),
        (["//*.ex.com:81"], "https://a.ex.com", False),
        (["wss://ex.com"], "wss://ex.com:443", True),
        (["app://ex.com"], "app://ex.com:1", True),
        (["app://ex.com:1"], "app://ex.com", False),
        ([], "http://example.com", False),
    ],
)
def test_a_list(rule: list[str], origin: str, allowed: bool) -> None:
    assert OriginPolicy(rule).allows(origin, HERE) is allowed


@pytest.mark.parametrize(
    ("request_origin", "origin", "allowed"),
    [
        (HERE, "http://example.com", True),
        (HERE, "http://Example.com:80", True),
        (HERE, "https://example.com", False),
        (HERE, "ws://example.com", False),
        (HERE, "http://www.example.com", False),
        (HERE, "http://example.com:4000", False),
        (RequestOrigin("https", "example.com", 443), "https://example.com", True),
        (RequestOrigin("https", "example.com", 4000), "https://example.com:4000", True),
    ],
)
def test_conn_compares_the_whole_address(request_origin: RequestOrigin, origin: str, allowed: bool) -> None:
    assert OriginPolicy(":conn").allows(origin, request_origin) is allowed


def test_a_function_decides_on_the_parsed_origin() -> None:
    seen: list[SplitResult] = []

    def decide(split: SplitResult) -> Any:
        seen.append(split)
        return split.scheme == "file" or split.path == "null" or split.port == 81

    policy = OriginPolicy(decide)
    assert [policy.allows(origin, HERE) for origin in ("file://", "null", "http://a.com:81", "http://a.com")] == [
        True,
        True,
        True,
        False,
    ]
    assert [policy.allows(origin, HERE) for origin in BROKEN] == [False] * len(BROKEN)  # it is not asked about these
    assert [split.netloc for split in seen] == ["", "", "a.com:81", "a.com"]


@pytest.mark.parametrize("rule", [None, 1, 0, "conn", "//example.com", b"//example.com", {"//example.com"}])
def test_impossible_rule(rule: Any) -> None:
    with pytest.raises(InvalidOption, match=r'must be True, False, a list such as \["https://example.com"\]'):
        OriginPolicy(rule)


@pytest.mark.parametrize("entry", [*HOSTLESS, *BROKEN, None, True, b"//example.com"])
def test_an_entry_must_name_a_host(entry: Any) -> None:
    with pytest.raises(InvalidOption) as caught:
        OriginPolicy(["//fine.com", entry])
    assert str(caught.value).endswith(f'as "https://example.com" or "//example.com" does, got {entry!r}')


def test_a_function_is_named_in_the_explanation() -> None:
    # The other explanations are quoted in the documents, and held there.
    explained = OriginPolicy(lambda split: False).explain("http://a.com\nforged line")
    assert explained.startswith("its origin 'http://a.com\\nforged line' is not allowed by check_origin=<function")
    assert OriginPolicy(lambda split: False).explain("http://a.com").endswith("; this function decides")


@given(st.text())
def test_any_origin_is_decided_and_explained(origin: str) -> None:
    for rule in (True, ["//*.example.com"], ":conn"):
        policy = OriginPolicy(rule)
        assert policy.allows(origin, HERE) in (True, False)
        assert shown(origin) in policy.explain(origin)
        assert len(policy.explain(origin * 1000)) < 3000
