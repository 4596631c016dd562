"""One broadcast, by how many subscribe: microseconds of the server's processor time for all of them together.

The slope is the power by which the cost grows from 100 subscribers on: 1 grows as they do.
"""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, Contender
from benchmarks.harness import Bench, FailedError, Figures, Table, slope


def ask(bench: Bench) -> Table:
    """Measure everybody."""
    sizes = (1, 10, 100, 1_000) if bench.quick else (1, 10, 100, 1_000, 10_000)

    def grow(contender: Contender) -> Figures:
        costs: dict[int, float] = {}
        for n in sizes:
            try:
                with bench.running(contender) as running:
                    costs[n] = running.load(n=n, secs=bench.secs, patience=60).delivery * n
            except FailedError as error:
                bench.note(f"{contender.name}, {n:,} subscribers: {error}")
        steep = {n: cost for n, cost in costs.items() if n >= 100}
        figures: Figures = {f"{n:,}": costs.get(n) for n in sizes}
        return {**figures, "slope": slope(steep)}

    return bench.measure(EVERYBODY, grow, rounds=1)
