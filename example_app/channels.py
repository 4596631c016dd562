"""What is said in a room and on the map, and who is there."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from example_app.city import LINES
from example_app.history import history, now
from example_app.rooms import LONGEST_TEXT, all_rooms, clean, field_of
from example_app.sockets import UserSocket, online
from flask_phoenix import Channel, History, Refused, on


@UserSocket.channel("room:*")
class RoomChannel(Channel):
    """One tab of one person in one room."""

    presence = online
    history = History(size=200, ttl=600)

    def join(self, payload: Any) -> dict[str, int]:
        """Admit to an open room, and to a locked one with its code; answer which worker this is."""
        room = all_rooms().get(self.subtopic)
        if room is None:
            raise Refused("no such room")
        room.admit(field_of(payload, "code"))
        return {"worker": os.getpid()}

    def after_join(self) -> None:
        """Tell the newcomer what was said and who is here, and the others who came.

        The history is pushed here and not put into the join's reply: by now this client hears the room's broadcasts,
        those of other workers too, so that no message falls between the two.
        """
        self.push("history", {"messages": history().latest(self.subtopic)})
        self.track(self.assigns["nickname"], {"at": now(), "away": False, "typing": False})
        self.push("presence_state", self.presences())

    @on("new_msg")
    def new_msg(self, payload: Any) -> dict[str, str]:
        """Keep a message, tell everybody, and answer its sender with its id."""
        body = clean(field_of(payload, "body"), LONGEST_TEXT)
        message = history().add(self.subtopic, self.assigns["nickname"], body)
        self.broadcast("new_msg", message)
        return {"id": message["id"]}

    @on("status")
    def status(self, payload: Any) -> None:
        """Tell everybody that this tab is away, or that a message is on its way, or neither any more."""
        told = {name: field_of(payload, name) for name in ("away", "typing")}
        changes = {name: value for name, value in told.items() if isinstance(value, bool)}
        self.update(self.assigns["nickname"], lambda meta: {**meta, **changes})


@UserSocket.channel("map")
class MapChannel(Channel):
    """One page that shows the map."""

    presence = online

    def join(self, payload: Any) -> dict[str, int]:
        """Admit everybody; answer which worker this is."""
        return {"worker": os.getpid()}

    def after_join(self) -> None:
        """Tell the newcomer who watches, and the others who came."""
        self.track(self.assigns["nickname"], {"at": now()})
        self.push("presence_state", self.presences())


@UserSocket.channel("map:*")
class LineChannel(Channel):
    """One tram line on one page: its trams broadcast here, from another process (``trams.py``)."""

    # A phone that was stuck gets the newest positions when it comes back, and none of those before.
    conflate: ClassVar = {"positions": lambda positions: "of all its trams"}

    def join(self, payload: Any) -> None:
        """Admit to lines that there are."""
        if self.subtopic not in map(str, LINES):
            raise Refused("no such line")
