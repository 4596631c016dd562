"""How old messages are when they come, with time to spare: 20 broadcasts a second to 100 subscribers."""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, Contender
from benchmarks.harness import Bench, Figures, Table

#: Messages a second: so few that the slowest is at half of what it can do.
RATE = 20


def ask(bench: Bench) -> Table:
    """Measure everybody."""

    def late(contender: Contender) -> Figures:
        with bench.running(contender) as running:
            load = running.load(n=100, rate=RATE, secs=2 * bench.secs)
        return {f"p{name}, ms": load.raw[f"p{name.replace('.', '')}_ms"] for name in ("50", "99", "99.9")}

    return bench.measure(EVERYBODY, late)
