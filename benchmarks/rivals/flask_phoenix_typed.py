"""Echoes of declared types: ``python -m benchmarks.rivals.flask_phoenix_typed PORT``, patched."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec
import pydantic
from flask import Flask

from flask_phoenix import Channel, Phoenix, Reply, Socket, on

app = Flask(__name__)
app.config["PHOENIX_PUBSUB_URL"] = "none"
phoenix = Phoenix(app)


class Said(msgspec.Struct):
    """What the load client says."""

    ts: int
    n: int
    pad: str


class SaidDict(TypedDict):
    """The same."""

    ts: int
    n: int
    pad: str


@dataclass
class SaidClass:
    """The same."""

    ts: int
    n: int
    pad: str


class SaidModel(pydantic.BaseModel):
    """The same."""

    ts: int
    n: int
    pad: str


@phoenix.socket("/socket")
class UserSocket(Socket):
    """Lets everybody in."""


@UserSocket.channel("room:*")
class Room(Channel):
    """Answers with what it was sent."""

    def join(self, payload: Any) -> None:
        """Let everybody in."""

    @on("unannotated")
    def unannotated(self, payload):  # type: ignore[no-untyped-def]
        """Take anything."""
        return Reply("ok", payload)

    @on("anything")
    def anything(self, payload: dict[str, Any]) -> Reply:
        """Take anything, and say so."""
        return Reply("ok", payload)

    @on("struct")
    def struct(self, payload: Said) -> Reply:
        """Take a Struct."""
        return Reply("ok", payload)

    @on("typed_dict")
    def typed_dict(self, payload: SaidDict) -> Reply:
        """Take a TypedDict."""
        return Reply("ok", payload)

    @on("dataclass")
    def dataclass(self, payload: SaidClass) -> Reply:
        """Take a dataclass."""
        return Reply("ok", payload)

    @on("model")
    def model(self, payload: SaidModel) -> Reply:
        """Take a model of pydantic."""
        return Reply("ok", payload)


if __name__ == "__main__":
    phoenix.run(app, port=int(sys.argv[1]), log=None, backlog=4096)
