"""Latencies in numbers: how many there were in each span of time, and what that says of half and of 99 % of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

#: Spans in a doubling: a quantile is right to within a fifth.
STEPS = 4
#: The upper ends of the spans, in seconds: from 10 microseconds to more than a minute.
BOUNDS = tuple(1e-5 * 2 ** (step / STEPS) for step in range(23 * STEPS))


class Latencies:
    """Counts latencies by how long they were. Those of several nodes can be put together."""

    __slots__ = ("_counts", "count")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.count = 0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.count += 1

    def take(self) -> list[list[int]]:
        """Return what was counted, as pairs of the number of a span and a count, and begin anew."""
        counts, self._counts, self.count = self._counts, [0] * (len(BOUNDS) + 1), 0
        return [[span, count] for span, count in enumerate(counts) if count]


def quantiles(counted: Iterable[list[list[int]]]) -> dict[str, float | int | None]:
    """Return the number of all that was counted, and what half (``p50``) and 99 % (``p99``) of them did not exceed.

    Both are seconds; None where there were none.

    :param counted: what :meth:`Latencies.take` has returned, of each node.
    """
    counts = [0] * (len(BOUNDS) + 1)
    for each in counted:
        for span, count in each:
            counts[span] += count
    total = sum(counts)
    return {"count": total, "p50": _quantile(counts, total * 0.5), "p99": _quantile(counts, total * 0.99)}


def _quantile(counts: list[int], rank: float) -> float | None:
    seen = 0
    for span, count in enumerate(counts):
        seen += count
        if count and seen >= rank:
            return round(BOUNDS[min(span, len(BOUNDS) - 1)], 6)
    return None
