"""Clients that have joined and are silent: KiB of the server's memory for each."""

from __future__ import annotations

from benchmarks.contenders import EVERYBODY, Contender
from benchmarks.harness import Bench, FailedError, Figures, Table


def ask(bench: Bench) -> Table:
    """Measure everybody, each number with a server of its own."""
    sizes = (1_000,) if bench.quick else (1_000, 10_000)

    def hold(contender: Contender) -> Figures:
        figures: Figures = {}
        for n in sizes:
            try:
                with bench.running(contender) as running, running.held(n=n, patience=60) as load:
                    figures[f"{n:,} clients, KiB"] = load.kib
            except FailedError as error:
                bench.note(f"{contender.name}, {n:,} clients: {error}")
        return figures

    return bench.measure(EVERYBODY, hold, rounds=1)
