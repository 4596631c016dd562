"""What pages and the server tell each other, but for the frames: see ``field.py`` for those."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=-1, le=1)]


class Newcomer(Struct):
    """Somebody who wants to play: the colour of the flame, in degrees, and what it was told when it was here before."""

    hue: Annotated[int, Meta(ge=0, le=359)]
    token: str = ""


class Welcome(Struct):
    """What a newcomer is told: the own number in the frames, the process that serves this page, and a proof.

    With that token a page that was cut off goes on as the same flame, with what it carries and has brought home.
    """

    number: int
    worker: int
    token: str


class Steer(Struct):
    """Where a flame wants to go: right and down, each as a share of full speed."""

    x: Share
    y: Share


class Fed(Struct):
    """A flame has brought embers to the hearth."""

    number: int
    embers: int
