"""What is said in a room, and who is there."""

from __future__ import annotations

from typing import Any

from example_app.rooms import LONGEST_TEXT, all_rooms, clean, field_of, now
from example_app.sockets import UserSocket, online
from flask_phoenix import Channel, Refused, on


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """One tab of one person in one room."""

    presence = online

    def join(self, payload: Any) -> None:
        """Admit to an open room, and to a locked one with its code."""
        room = all_rooms().get(self.subtopic)
        if room is None:
            raise Refused("no such room")
        room.admit(field_of(payload, "code"))

    def after_join(self) -> None:
        """Tell the newcomer what was said and who is here, and the others who came.

        The history is pushed here and not put into the join's reply: by now this client hears the room's broadcasts, so
        that no message falls between the two.
        """
        self.push("history", {"messages": list(all_rooms()[self.subtopic].messages)})
        self.track(self.assigns["nickname"], {"at": now(), "away": False, "typing": False})
        self.push("presence_state", self.presences())

    @on("new_msg")
    def new_msg(self, payload: Any) -> dict[str, str]:
        """Remember a message, tell everybody, and answer its sender with its id."""
        body = clean(field_of(payload, "body"), LONGEST_TEXT)
        message = all_rooms()[self.subtopic].remember(self.assigns["nickname"], body)
        self.broadcast("new_msg", message)
        return {"id": message["id"]}

    @on("status")
    def status(self, payload: Any) -> None:
        """Tell everybody that this tab is away, or that a message is on its way, or neither any more."""
        told = {name: field_of(payload, name) for name in ("away", "typing")}
        changes = {name: value for name, value in told.items() if isinstance(value, bool)}
        self.update(self.assigns["nickname"], lambda meta: {**meta, **changes})
