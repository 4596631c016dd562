"""An app whose channels declare what they take, answer and send."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pydantic
from flask import Flask

from flask_phoenix import Channel, Phoenix, Reply, Socket, on, sends
from tests.support import declared_elsewhere as elsewhere


class Message(msgspec.Struct):
    """What is said."""

    body: Annotated[str, msgspec.Meta(min_length=1)]
    reply_to: int | None = None


class Move(msgspec.Struct, tag="move"):
    x: float


class Stop(msgspec.Struct, tag="stop"):
    why: Literal["tired", "bored"]


@dataclass
class Saved:
    id: int
    tags: list[str | int]


class Params(TypedDict, total=False):
    user: int


class Author(pydantic.BaseModel):
    name: str


class Article(pydantic.BaseModel):
    author: Author
    pair: tuple[int, str]


class Guest(msgspec.Struct):
    nick: str


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Place(msgspec.Struct):
    colour: Colour
    at: datetime | None = None
    next: Place | None = None


class Priced(pydantic.BaseModel):
    """Is written otherwise than it is read."""

    price: int = pydantic.Field(validation_alias="net", serialization_alias="gross", description="In cents.")
    colour: Colour = Colour.RED
    next: Priced | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def shown(self) -> str:
        return f"{self.price} EUR"


class State(msgspec.Struct):
    messages: list[Message]
    scores: dict[str, int]


phoenix = Phoenix()


@phoenix.socket("/shop/<int:id>/socket", longpoll=True)
class UserSocket(Socket):
    """A visitor."""

    def connect(self, params: Params, info: dict[str, Any]) -> None:
        """Let everybody in."""


@UserSocket.channel("room:lobby")
class Lobby(Channel):
    def join(self, payload: Any) -> Any:
        return None

    @on("shout")
    def shout(self, payload: Any) -> Any:
        return {}


@sends("new_msg", Message)
@sends("frame", bytes)
@UserSocket.channel("room:*")
class Room(Channel):
    """A room."""

    presence = phoenix.presence()

    def join(self, payload: Guest) -> State:
        return State([], {payload.nick: 1})

    @on("new_msg")
    def new_msg(self, payload: Message) -> Saved:
        """Say something."""
        self.broadcast("new_msg", payload)
        return Saved(7, [])

    @on("act")
    def act(self, payload: Move | Stop) -> None:
        """Move, or stop."""

    @on("frame")
    def frame(self, payload: bytes) -> bytes:
        return payload

    @on("article")
    def article(self, payload: Article) -> Reply:
        return Reply("ok", payload)

    @on("articles")
    def articles(self, payload: list[Article]) -> dict[str, Any]:
        return {"count": len(payload)}


@sends("desk:moved", Place)
@sends("priced", Priced)
@UserSocket.channel("desk:<int:desk>")
class Desk(Channel):
    def join(self, payload: Guest | None, desk: int) -> None:
        """Let everybody in."""

    @on("move-to", "delete")
    def move(self, payload: Place) -> elsewhere.Message:
        return elsewhere.Message("moved")

    @on("price")
    def price(self, payload: Priced) -> list[elsewhere.Author]:
        return [elsewhere.Author(pen_name="Ada")]


def create_app() -> Flask:
    app = Flask(__name__)
    phoenix.init_app(app)
    return app
