"""What a channel may ask of those who run it: the interfaces, and what stands in where there is no presence."""

from __future__ import annotations

from typing import Any

import pytest

from flask_phoenix.exceptions import InvalidOption
from flask_phoenix.host import Link, SocketRef, Tracking
from flask_phoenix.protocol.messages import Reply


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("push", ("e", {})),
        ("broadcast", ("e", {}, True)),
        ("socket_ref", ()),
        ("reply", (SocketRef("1"), Reply())),
        ("stop", ("normal",)),
        ("send", ("m",)),
        ("send_after", (1.0, "m")),
        ("subscribe", ("t",)),
        ("unsubscribe", ("t",)),
        ("hold", (lambda: None,)),
    ],
)
def test_a_link_is_for_the_engine_to_write(verb: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError):
        getattr(Link(), verb)(*arguments)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("track", ("ada",)),
        ("track", ("ada", {}, "lobby")),
        ("update", ("ada", {})),
        ("update", ("ada", dict, "lobby")),
        ("untrack", ("ada",)),
        ("untrack", ("ada", "lobby")),
        ("list", ()),
    ],
)
def test_without_a_presence_the_remedy_is_told(verb: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(
        InvalidOption, match=r"online = phoenix\.presence\(\), and write presence = online in its class"
    ):
        getattr(Tracking(), verb)("room:1", *arguments)


def test_refs_of_messages_are_values() -> None:
    assert SocketRef("7") == SocketRef("7") != SocketRef("8")
    assert len({SocketRef("7"), SocketRef("7")}) == 1
