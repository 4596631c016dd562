"""Clients that come and join a room: processor time of the server for each, and how many a second on one core."""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, FLOOR, Contender
from benchmarks.harness import Bench, Figures, Table
from benchmarks.questions.fanout import add_ratio


def ask(bench: Bench) -> Table:
    """Measure everybody."""
    n, storm = bench.size(1000, 200), bench.size(2000, 400)

    def come(contender: Contender) -> Figures:
        with bench.running(contender) as running, running.held(n=n) as load:
            figures: Figures = {"connect and join, µs": load.connect, "clients/s": load.ready / seconds(load.raw)}
        if contender is not FLOOR:
            with bench.running(contender) as running, running.held(n=storm, ramp=storm, patience=60) as load:
                figures[f"{storm:,} at once, s"] = seconds(load.raw)
        return figures

    table = bench.measure(EVERYBODY, come)
    add_ratio(table, "connect and join, µs", "x floor")
    return table


def seconds(raw: dict[str, float]) -> float:
    """Return how long it took until all had joined."""
    return raw["connect_seconds"]
