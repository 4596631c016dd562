"""A broadcast to 1,000 subscribers: processor time of the server for each delivery, one and 16 in flight."""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, FLOOR, Contender
from benchmarks.harness import Bench, Figures, Table


def ask(bench: Bench) -> Table:
    """Measure everybody, and the ratio to the floor."""
    n = bench.size(1000, 200)

    def fan(contender: Contender) -> Figures:
        with bench.running(contender) as running:
            one, many = (running.load(n=n, window=window, secs=bench.secs) for window in (1, 16))
        return {
            "1 in flight, µs": one.delivery,
            "16 in flight, µs": many.delivery,
            "deliveries/s, 1": one.per_second,
            "deliveries/s, 16": many.per_second,
            "lost": float(one.raw["lost"] + many.raw["lost"]),
        }

    table = bench.measure(EVERYBODY, fan)
    for name in ("1 in flight", "16 in flight"):
        add_ratio(table, f"{name}, µs", f"{name}, x floor")
    return table


def add_ratio(table: Table, column: str, named: str) -> None:
    """Add the ratio to the floor of the same run."""
    floor = table.get(FLOOR.name, {}).get(column)
    for figures in table.values():
        value = figures.get(column)
        figures[named] = value / floor if value and floor else None
