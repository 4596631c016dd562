"""1,000 clients in rooms of 10, one message in flight in each: processor time of the server for each delivery."""

from __future__ import annotations

from benchmarks.contenders import SERVERS, Contender
from benchmarks.harness import Bench, Figures, Table


def ask(bench: Bench) -> Table:
    """Measure all but the floor, which has one room."""
    n = bench.size(1000, 200)

    def chat(contender: Contender) -> Figures:
        with bench.running(contender) as running:
            load = running.load(n=n, room=10, secs=bench.secs)
        return {"delivery, µs": load.delivery, "deliveries/s": load.per_second, "lost": float(load.raw["lost"])}

    return bench.measure(SERVERS, chat)
