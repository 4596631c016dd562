"""A request and its answer, 50 clients with one request in flight each: processor time of the server for each."""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, Contender
from benchmarks.harness import Bench, Figures, Table
from benchmarks.questions.fanout import add_ratio


def ask(bench: Bench) -> Table:
    """Measure everybody, and the ratio to the floor."""

    def echo(contender: Contender) -> Figures:
        with bench.running(contender) as running:
            load = running.load(contender.echo, mode="echo", n=50, secs=bench.secs)
        return {"echo, µs": load.delivery, "echoes/s": load.per_second}

    table = bench.measure(EVERYBODY, echo)
    add_ratio(table, "echo, µs", "x floor")
    return table
