"""The rooms, who may enter them, and what may be said there."""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest

from flask import current_app

from flask_phoenix import Refused

LONGEST_NICKNAME = 20
LONGEST_TEXT = 500


@dataclass(frozen=True)
class Room:
    """A place to talk; one with a code is entered only by those who know it."""

    name: str
    title: str
    purpose: str
    code: str | None = None

    def admit(self, code: object) -> None:
        """Let somebody in.

        :raises Refused: the room has a code, and this is not it.
        """
        if self.code is None:
            return
        if not isinstance(code, str):
            raise Refused("locked")
        if not compare_digest(code.encode(), self.code.encode()):
            raise Refused("wrong code")


def build(staff_code: str) -> dict[str, Room]:
    """The rooms of one application, by name."""
    rooms = (
        Room("lobby", "Lobby", "Where everybody arrives"),
        Room("workshop", "Workshop", "Half-finished things, shown early"),
        Room("kitchen", "Kitchen", "Coffee, lunch and other matters"),
        Room("staff", "Staff", "Behind a door with a code", staff_code),
    )
    return {room.name: room for room in rooms}


def all_rooms() -> dict[str, Room]:
    """The rooms of the application at work."""
    rooms: dict[str, Room] = current_app.extensions["example_rooms"]
    return rooms


def field_of(payload: object, name: str) -> object:
    """One field of what somebody sent; None where there is none."""
    return payload.get(name) if isinstance(payload, dict) else None


def clean(text: object, longest: int) -> str:
    """What somebody typed, without the space around it.

    :raises Refused: it is no text, empty, or too long.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    if not stripped:
        raise Refused("empty")
    if len(stripped) > longest:
        raise Refused("too long", longest=longest)
    return stripped
