"""What is said: plain values, and the names that Phoenix's clients know."""

from __future__ import annotations

import pytest

from flask_phoenix.protocol import messages as message
from flask_phoenix.protocol.messages import Broadcast, Message, Reply


def test_the_names_of_the_protocol() -> None:
    names = (message.JOIN, message.LEAVE, message.REPLY, message.ERROR, message.CLOSE)
    assert names == ("phx_join", "phx_leave", "phx_reply", "phx_error", "phx_close")
    assert (message.PHOENIX, message.HEARTBEAT, message.DISCONNECT) == ("phoenix", "heartbeat", "disconnect")


def test_a_message_has_the_order_of_the_wire() -> None:
    said = Message("1", "2", "room:1", "new_msg", {"body": "hi"})
    assert said == ("1", "2", "room:1", "new_msg", {"body": "hi"})
    assert Message._fields == ("join_ref", "ref", "topic", "event", "payload")


def test_a_reply_is_ok_and_empty_unless_told() -> None:
    assert Reply() == ("ok", {})
    assert Reply("queued", b"\x01") == ("queued", b"\x01")


def test_values_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Broadcast("room:1", "e", {}).topic = "room:2"  # type: ignore[misc]
