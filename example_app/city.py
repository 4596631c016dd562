"""A town and its trams: where the rails lie, and where a tram is at any moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, pairwise
from math import atan2, ceil, degrees, dist
from typing import NamedTuple

#: The width and the height of the map; all places are measured in its units.
SIZE = (1600, 1000)
#: How wide rails turn, how far apart stops are about, and how far right of the middle trams run.
BEND, SPACING, SIDE = 70, 90, 5.5
#: Units in a second between stops; seconds to gather speed and to brake, and at a stop.
SPEED, START, STAY = 20, 2.5, 3

Point = tuple[float, float]


class Place(NamedTuple):
    """Where a tram is, and where it heads for, in degrees clockwise from east."""

    x: float
    y: float
    heading: float


class Leg(NamedTuple):
    """A ride from one stop to the next: when it begins, how long it takes, and where on the line."""

    at: float
    seconds: float
    start: float
    end: float


class Line:
    """A tram line, there and back.

    :param corners: where its rails turn, from one end to the other: ``"90,330 330,330"``.
    """

    def __init__(self, number: int, start: str, end: str, corners: str) -> None:
        self.number = number
        self.start = start
        self.end = end
        self.points = list(_bent([_point(corner) for corner in corners.split()]))
        #: How far each point is along the line.
        self.distances = list(accumulate((dist(*pair) for pair in pairwise(self.points)), initial=0.0))

    @property
    def hue(self) -> int:
        """What colour it has, in degrees."""
        return 30 + 45 * (self.number - 1) * 3 % 360

    @cached_property
    def stops(self) -> list[float]:
        """How far the stops are along the line."""
        length, count = self.distances[-1], round(self.distances[-1] / SPACING)
        return [length * number / count for number in range(count + 1)]

    @cached_property
    def legs(self) -> list[Leg]:
        """One tram's way, from stop to stop, until it is where it began."""
        legs, at = [], 0.0
        for start, end in pairwise([*self.stops, *self.stops[-2::-1]]):
            legs.append(Leg(at, START + abs(end - start) / SPEED, start, end))
            at += legs[-1].seconds + STAY
        return legs

    @property
    def period(self) -> float:
        """Seconds until a tram is where it began."""
        return self.legs[-1].at + self.legs[-1].seconds + STAY

    def place(self, seconds: float) -> Place:
        """Where a tram is, so long after it left the first stop."""
        seconds %= self.period
        leg = self.legs[bisect_right(self.legs, seconds, key=lambda leg: leg.at) - 1]
        share = min(1.0, (seconds - leg.at) / leg.seconds)
        share *= share * (3 - 2 * share)  # gathers speed, and brakes
        return self.along(leg.start + (leg.end - leg.start) * share, 1 if leg.end > leg.start else -1)

    def along(self, distance: float, direction: int = 0) -> Place:
        """The place so far along the line: in the middle, or on the right of those who go there (1) or back (-1)."""
        index = min(bisect_right(self.distances, distance), len(self.points) - 1)
        (x1, y1), (x2, y2) = self.points[index - 1 : index + 1]
        length = self.distances[index] - self.distances[index - 1]
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        rest, right = distance - self.distances[index - 1], direction * SIDE
        heading = degrees(atan2(dy, dx)) + (180 if direction < 0 else 0)
        return Place(x1 + dx * rest - dy * right, y1 + dy * rest + dx * right, heading % 360)


def _point(text: str) -> Point:
    x, y = text.split(",")
    return float(x), float(y)


def _bent(corners: list[Point]) -> Iterator[Point]:
    """The corners of a line, rounded off."""
    yield corners[0]
    for (before, corner), (_, after) in pairwise(pairwise(corners)):
        start, end = _towards(corner, before), _towards(corner, after)
        steps = ceil(dist(start, end) / 8)
        for share in (step / steps for step in range(steps + 1)):
            yield _between(_between(start, corner, share), _between(corner, end, share), share)
    yield corners[-1]


def _towards(corner: Point, other: Point) -> Point:
    return _between(corner, other, min(BEND / dist(corner, other), 0.49))


def _between(one: Point, other: Point, share: float) -> Point:
    return one[0] + (other[0] - one[0]) * share, one[1] + (other[1] - one[1]) * share


LINES = {
    line.number: line
    for line in (
        Line(1, "Weir", "Eastgate", "90,330 330,330 450,450 1090,450 1210,330 1510,330"),
        Line(2, "Heath", "Harbour", "640,70 640,300 800,460 800,610 960,770 1190,770 1290,870"),
        Line(3, "Orchard", "Lakeside", "90,730 330,730 510,550 1010,550 1130,670 1510,670"),
        Line(4, "Tower", "Old Mill", "1010,70 1010,330 560,780 560,930"),
        Line(
            5,
            "Ring",
            "Ring",
            "790,230 1070,230 1180,340 1180,640 1070,750 510,750 400,640 400,340 510,230 790,230",
        ),
        Line(6, "Quarry", "Fairground", "250,70 250,560 420,730 420,870 480,930 900,930"),
        Line(7, "Gardens", "Airfield", "380,130 1130,130 1350,350 1350,560 1510,560"),
        Line(8, "Tannery", "Shipyard", "90,530 660,530 720,590 720,800 790,870 1080,870"),
    )
}
