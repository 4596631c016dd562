# pyright: strict
"""What type checkers are to find: each line that ends so is wrong, and no other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask_phoenix import (
    Broadcast,
    Broadcaster,
    Channel,
    History,
    Phoenix,
    Presence,
    Reply,
    Socket,
    intercept,
    on,
    sends,
)
from flask_phoenix.testing import Clients, Clock, LiveServer


@dataclass
class Message:
    body: str


class Plain:
    """Nothing that can be sent."""


phoenix = Phoenix()


@phoenix.socket("/socket")
class UserSocket(Socket):
    def connect(self, params: dict[str, Any], info: dict[str, Any]) -> bool:  # wrong
        return True

    def id(self) -> int:  # wrong
        return 7


@sends("new_msg", Message)
@UserSocket.channel("room:*")
class Room(Channel):
    presence = 7  # wrong

    def join(self, payload: Message) -> int:  # wrong
        self.push("welcome")  # wrong
        return 7

    @on("text")  # wrong
    def text(self, payload: Message) -> str:
        return payload.body

    @on("plain")  # wrong
    def plain(self, payload: Message) -> Plain:
        return Plain()

    @on("nothing")  # wrong
    def nothing(self) -> None:
        """Takes no payload."""

    @on(7)  # wrong
    def number(self, payload: Message) -> Reply:
        return Reply("ok", payload.text)  # wrong

    @intercept(b"news")  # wrong
    def news(self, payload: dict[str, Any]) -> None:
        self.track(7)  # wrong

    def handle_info(self, message: Broadcast) -> None:
        self.send_after("soon", message.topics)  # wrong


sends("new_msg")  # wrong
sends("new_msg", Message)(UserSocket)  # wrong
phoenix.socket("/room")(Room)  # wrong
phoenix.socket("/room", time_out=30)  # wrong
phoenix.socket("/room", timeout="long")  # wrong
UserSocket.channel("room:*")(UserSocket)  # wrong
phoenix.broadcast("room:1", "new_msg")  # wrong
phoenix.presence(Room)  # wrong
phoenix.presence(Presence, grace="long")  # wrong
phoenix.socket("/area", blueprint="area")  # wrong
phoenix.background(7)  # wrong
phoenix.background(once_per_cluster="yes")  # wrong
phoenix.history("room:1", limit="all")  # wrong
phoenix.verify_token(7, "user")  # wrong
phoenix.presence().count(7)  # wrong
History(size="many")  # wrong
Broadcaster("redis://localhost").broadcast("room:1", "new_msg")  # wrong


def test_mistakes(phoenix_client: Clients, phoenix_clock: Clock, server: LiveServer) -> None:
    phoenix_client("/socket", parms={})  # wrong
    phoenix_client("/socket", vsn=2)  # wrong
    room = phoenix_client("/socket", {"name": "Ada"}).join(7)  # wrong
    room.push({"body": "Hello"})  # wrong
    room.call("new_msg", within="long")  # wrong
    room.assert_push()  # wrong
    room.assert_reply("1", 200)  # wrong
    phoenix_clock.advance("an hour")  # wrong
    server.client("/socket", parms={})  # wrong
