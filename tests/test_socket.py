"""The author's class for a kind of client: topic patterns, and what need not be written."""

from __future__ import annotations

from typing import Any

import pytest

from flask_phoenix.channel import Channel
from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.protocol.messages import Frame
from flask_phoenix.socket import BaseSocket, RawSocket, Route, Socket


class Open(Channel):
    """Lets everybody in."""

    def join(self, payload: Any) -> None:
        return None


class Foo(Open):
    """Another one."""


class Bar(Open):
    """And another one."""


def socket(*patterns: str) -> type[Socket]:
    """Make a socket that serves patterns, each with a channel of its own."""

    class Some(Socket):
        pass

    for pattern in patterns:
        Some.channel(pattern)(type(pattern, (Open,), {}))
    return Some


def matched(kind: type[Socket], topic: str) -> str | None:
    """Return the pattern that serves a topic."""
    route = kind.match(topic)
    return route.pattern if route is not None else None


@pytest.mark.parametrize(
    ("pattern", "topic", "subtopic"),
    [
        ("system", "system", ""),
        ("room:lobby", "room:lobby", ""),
        ("room:*", "room:42", "42"),
        ("room:*", "room:", ""),
        ("room:*", "room:a:b", "a:b"),
        ("room:*", "room:*", "*"),
        ("foo*", "foo", ""),
        ("foo*", "foobar", "bar"),
        ("*", "whatever", "whatever"),
        ("*", "", ""),
        ("", "", ""),
        ("caf\u00e9:*", "caf\u00e9:\u03c0", "\u03c0"),
    ],
)
def test_a_topic_that_fits(pattern: str, topic: str, subtopic: str) -> None:
    route = socket(pattern).match(topic)
    assert route is not None
    assert route.pattern == pattern
    assert route.matches(topic)
    assert route.subtopic(topic) == subtopic


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("system", "systems"),
        ("system", "syste"),
        ("system", "System"),
        ("room:lobby", "room:lobby:2"),
        ("room:*", "room"),
        ("room:*", "aroom:1"),
        ("room:*", "Room:1"),
        ("foo*", "fo"),
        ("", "a"),
    ],
)
def test_a_topic_that_does_not_fit(pattern: str, topic: str) -> None:
    assert socket(pattern).match(topic) is None


@pytest.mark.parametrize("pattern", ["*", "phx:*", "phx:presence:Online", "p*"])
def test_what_nodes_say_among_themselves_fits_no_pattern(pattern: str) -> None:
    assert matched(socket(pattern), "phx:presence:Online") is None


def test_the_first_pattern_that_fits_wins() -> None:
    kind = socket("food*", "foo*", "foo:1", "*")
    topics = ["food:1", "foo:1", "foo", "unknown"]
    assert [matched(kind, topic) for topic in topics] == ["food*", "foo*", "foo*", "*"]
    assert matched(socket("foo:1", "foo*"), "foo:1") == "foo:1"
    assert matched(socket("foo*", "food*"), "food:1") == "foo*"


@pytest.mark.parametrize("pattern", ["a*b", "*:x", "**", "room:**", "*a*", None, 7, b"room:*"])
def test_a_pattern_that_cannot_be(pattern: Any) -> None:
    class Some(Socket):
        pass

    with pytest.raises(InvalidOption, match=r"'room:\*'"):
        Some.channel(pattern)
    assert Some.channels == ()


def test_a_channel_without_a_join_is_no_channel() -> None:
    class Some(Socket):
        pass

    class Forgetful(Channel):
        pass

    with pytest.raises(InvalidOption, match=r"Forgetful has no join\(self, payload\)"):
        Some.channel("room:*")(Forgetful)
    assert Some.channels == ()


def test_a_channel_may_serve_several_patterns_and_sockets() -> None:
    class One(Socket):
        pass

    class Other(Socket):
        pass

    assert One.channel("a:*", {"kind": "a"})(One.channel("b")(Open)) is Open
    Other.channel("c", assigns={"kind": "c"})(Open)
    assert One.channels == (Route("b", Open, {}), Route("a:*", Open, {"kind": "a"}))
    assert Other.channels == (Route("c", Open, {"kind": "c"}),)
    assert Socket.channels == ()


def test_patterns_are_inherited() -> None:
    class Base(Socket):
        pass

    Base.channel("foo:*")(Foo)

    class Derived(Base):
        pass

    Derived.channel("bar:*")(Bar)
    assert [route.channel for route in Derived.channels] == [Foo, Bar]
    assert [route.channel for route in Base.channels] == [Foo]


@pytest.mark.parametrize("kind", [Socket, RawSocket])
def test_what_need_not_be_written(kind: type[BaseSocket]) -> None:
    client = kind({"token": "x"}, "websocket")
    client.connect(client.params, {})
    assert client.id() is None
    assert (client.params, client.assigns, client.transport) == ({"token": "x"}, {}, "websocket")
    client.assigns["mine"] = True
    assert kind({}, "websocket").assigns == {}


def test_a_raw_socket_speaks_through_its_engine() -> None:
    sent: list[Frame] = []
    closed: list[tuple[int, str]] = []
    client = RawSocket({}, "websocket")
    client.bind(sent.append, lambda code, reason: closed.append((code, reason)))
    client.open()
    client.send("text")
    client.send(b"\x01")
    client.close()
    client.close(4000, "mine")
    client.terminate("closed")
    assert sent == ["text", b"\x01"]
    assert closed == [(1001, ""), (4000, "mine")]
    with pytest.raises(NotImplementedError):
        client.handle_frame("text")
