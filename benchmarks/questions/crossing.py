"""flask_phoenix on several nodes: what a broadcast costs the node that says it, and each that hears it.

By itself, 200 a second; and in bursts of 50, 1,000 a second. The letters are those of the
formula in docs/explanation/scaling.md.
"""

from __future__ import annotations

from benchmarks.contenders import OURS
from benchmarks.harness import Bench, Figures, Load, Table

#: Messages a second, and how many in one go.
PACES = {"by itself, µs": (200, 1), "in bursts of 50, µs": (1000, 50)}


def ask(bench: Bench) -> Table:
    """Measure."""
    table = Table()
    for column, pace in PACES.items():
        for part, cost in parts(bench, *pace).items():
            table.setdefault(part, {})[column] = cost
    return table


def parts(bench: Bench, rate: int, burst: int) -> Figures:
    """Return what each part costs at one pace."""
    alone, crowd = (spent(bench, rate, burst, n=n)[0] for n in (1, 101))
    figures: Figures = {"S: said by a client, and heard by it": alone, "D: each further client": (crowd - alone) / 100}
    for over in ("workers", "redis"):
        two = spent(bench, rate, burst, over, nodes=2)
        figures[f"P: to publish it, {over}"] = two[0] - alone
        figures[f"R: to another node, and heard by one client there, {over}"] = two[1]
    four = spent(bench, rate, burst, "redis", nodes=4)
    figures["Redis, for two nodes"] = two[-1]
    figures["Redis, for each further node"] = (four[-1] - two[-1]) / 2
    return figures


def spent(bench: Bench, rate: int, burst: int, over: str | None = None, nodes: int = 1, n: int = 0) -> list[float]:
    """Return the microseconds of each process for each broadcast; the first node says them all."""
    with bench.running(OURS, nodes, over) as running:
        load: Load = running.load(n=n or nodes, rate=rate, burst=burst, secs=bench.secs)
    said = load.raw["seconds"] * rate
    return [seconds / said * 1e6 for seconds in load.cpu()]
