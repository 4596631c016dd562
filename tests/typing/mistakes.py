# pyright: strict
"""What type checkers are to find: each line that ends so is wrong, and no other one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask_phoenix import Broadcast, Channel, Phoenix, Presence, Reply, Socket, intercept, on, sends


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
