"""The field of the game, tick by tick, and how a frame of it is written: pure, it knows no clock and no network."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from math import dist, hypot
from struct import Struct

#: Width and height; all places are measured in its units.
SIZE = (1600, 1000)
HEARTH = (800, 500)
#: Seconds between two frames.
TICK = 0.05
#: Units in a second where the hearth burns high, and how much of it the cold leaves.
SPEED, COLD = 420, 0.45
#: How much of what is between its speed and its aim a flame makes up for in a tick.
AGILITY = 0.22
#: How near an ember is picked up, and how near embers are given to the hearth.
REACH, WARMTH = 38, 105
#: Embers on the field, embers that one can carry, and what the hearth can hold.
EMBERS, MOST, FULL = 26, 5, 100
#: How much one ember feeds the hearth, and how much it burns in a second: more where more warm themselves.
FEEDS, BURNS, BURNS_EACH = 3.0, 0.4, 0.25

HEAD, PLACE, FLAME = Struct("<BBB"), Struct("<HH"), Struct("<IHHHB")

Point = tuple[float, float]


@dataclass
class Flame:
    """One who plays."""

    x: float
    y: float
    score: int = 0
    carries: int = 0
    aim: Point = (0, 0)
    speed: Point = (0, 0)

    def move(self, fastest: float) -> None:
        """Go on for a tick, a little more towards the aim than before."""
        (dx, dy), (aim_x, aim_y) = self.speed, self.aim
        self.speed = (dx + (aim_x * fastest - dx) * AGILITY, dy + (aim_y * fastest - dy) * AGILITY)
        self.x = min(max(self.x + self.speed[0] * TICK, 0), SIZE[0])
        self.y = min(max(self.y + self.speed[1] * TICK, 0), SIZE[1])

    def near(self, place: Point, reach: float) -> bool:
        """Tell whether a place is within reach."""
        return dist((self.x, self.y), place) < reach


@dataclass
class Field:
    """All of it."""

    chance: random.Random = field(default_factory=random.Random)
    warmth: float = FULL * 0.6
    flames: dict[int, Flame] = field(default_factory=dict)
    embers: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.embers = self.embers or [self._free_place() for _ in range(EMBERS)]

    def steer(self, number: int, x: float, y: float) -> None:
        """Have a flame go elsewhere, at full speed at most."""
        if flame := self.flames.get(number):
            length = max(1.0, hypot(x, y))
            flame.aim = (x / length, y / length)

    def step(self, players: Collection[int]) -> list[tuple[int, int]]:
        """Let a tick pass for those who play now; return who fed the hearth, and how many embers."""
        self.flames = {number: self.flames.get(number) or self._new_flame() for number in players}
        self.warmth = max(0, self.warmth - (BURNS + BURNS_EACH * len(self.flames)) * TICK)
        for flame in self.flames.values():
            flame.move(SPEED * (COLD + (1 - COLD) * self.warmth / FULL))
            self._pick_up(flame)
        return [(number, self._feed(flame)) for number, flame in self.flames.items() if self._can_feed(flame)]

    def _pick_up(self, flame: Flame) -> None:
        for index, place in enumerate(self.embers):
            if flame.carries < MOST and flame.near(place, REACH):
                flame.carries += 1
                self.embers[index] = self._free_place()

    def _can_feed(self, flame: Flame) -> bool:
        return flame.carries > 0 and flame.near(HEARTH, WARMTH)

    def _feed(self, flame: Flame) -> int:
        given, flame.carries = flame.carries, 0
        flame.score = min(flame.score + given, 0xFFFF)
        self.warmth = min(self.warmth + given * FEEDS, FULL)
        return given

    def _new_flame(self) -> Flame:
        return Flame(HEARTH[0] + self.chance.uniform(-60, 60), HEARTH[1] + 130)

    def _free_place(self) -> Point:
        """Somewhere, but neither at the hearth nor at the rim."""
        place: Point = HEARTH
        while dist(place, HEARTH) < 2 * WARMTH:
            place = (self.chance.uniform(60, SIZE[0] - 60), self.chance.uniform(60, SIZE[1] - 60))
        return place

    def write(self) -> bytes:
        """Write a frame: warmth and two counts, each ember's place, each flame's number, place, score and embers."""
        parts = [HEAD.pack(round(self.warmth), len(self.embers), len(self.flames))]
        parts += [PLACE.pack(round(x), round(y)) for x, y in self.embers]
        for number, flame in self.flames.items():
            # Places of flames are told in tenths, for them to glide.
            parts.append(FLAME.pack(number, round(flame.x * 10), round(flame.y * 10), flame.score, flame.carries))
        return b"".join(parts)


def read(frame: bytes) -> Field:
    """Read a frame: where all flames stand still."""
    warmth, embers, flames = HEAD.unpack_from(frame)
    middle = HEAD.size + embers * PLACE.size
    places = [PLACE.unpack_from(frame, HEAD.size + index * PLACE.size) for index in range(embers)]
    told = [FLAME.unpack_from(frame, middle + index * FLAME.size) for index in range(flames)]
    standing = {number: Flame(x / 10, y / 10, score, carries) for number, x, y, score, carries in told}
    return Field(warmth=warmth, flames=standing, embers=places)
