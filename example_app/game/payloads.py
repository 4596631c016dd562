"""What pages and the server tell each other, but for the frames: see ``field.py`` for those."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=-1, le=1)]


class Newcomer(Struct):
    """Somebody who wants to play: the colour of the flame, in degrees."""

    hue: Annotated[int, Meta(ge=0, le=359)]


class Welcome(Struct):
    """What a newcomer is told: the own number in the frames, and the process that serves this page."""

    number: int
    worker: int


class Steer(Struct):
    """Where a flame wants to go: right and down, each as a share of full speed."""

    x: Share
    y: Share


class Fed(Struct):
    """A flame has brought embers to the hearth."""

    number: int
    embers: int
