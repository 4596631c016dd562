"""What is said in a room."""

from __future__ import annotations

from typing import Any

from example_app.rooms import LONGEST_TEXT, all_rooms, clean, field_of, now
from example_app.sockets import UserSocket
from flask_phoenix import Channel, Refused, on


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """One person in one room."""

    #: False behind a refused join, which ends in :meth:`terminate` too.
    inside = False

    def join(self, payload: Any) -> None:
        """Admit to an open room, and to a locked one with its code."""
        room = all_rooms().get(self.subtopic)
        if room is None:
            raise Refused("no such room")
        room.admit(field_of(payload, "code"))

    def after_join(self) -> None:
        """Tell the newcomer what was said, and the others who came.

        The history is pushed here and not put into the join's reply: by now this client hears the room's broadcasts, so
        that no message falls between the two.
        """
        self.inside = True
        self.push("history", {"messages": list(all_rooms()[self.subtopic].messages)})
        self.broadcast_from("entered", {"nickname": self.assigns["nickname"], "at": now()})

    @on("new_msg")
    def new_msg(self, payload: Any) -> dict[str, str]:
        """Remember a message, tell everybody, and answer its sender with its id."""
        body = clean(field_of(payload, "body"), LONGEST_TEXT)
        message = all_rooms()[self.subtopic].remember(self.assigns["nickname"], body)
        self.broadcast("new_msg", message)
        return {"id": message["id"]}

    @on("typing")
    def typing(self, payload: Any) -> None:
        """Tell the others that a message is on its way."""
        self.broadcast_from("typing", {"nickname": self.assigns["nickname"]})

    def terminate(self, reason: Any) -> None:
        """Tell the others who went."""
        if self.inside:
            self.broadcast_from("left", {"nickname": self.assigns["nickname"], "at": now()})
