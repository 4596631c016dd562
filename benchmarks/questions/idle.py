"""flask_phoenix with nothing to do: nodes with one silent client and one presence each."""

from __future__ import annotations

import time

from benchmarks.contenders import OURS
from benchmarks.harness import Bench, Figures, Table

#: Seconds: four beats of a presence.
LOOK = 20


def ask(bench: Bench) -> Table:
    """Measure one node alone, and several."""
    ways = ((1, None), (2, "workers"), (2, "redis")) if bench.quick else WAYS
    return {f"{nodes} nodes, {over}" if over else "1 node": rest(bench, nodes, over) for nodes, over in ways}


WAYS = ((1, None), (2, "workers"), (8, "workers"), (2, "redis"), (8, "redis"))


def rest(bench: Bench, nodes: int, over: str | None) -> Figures:
    """Return what each node costs."""
    look = bench.size(LOOK, 5)
    with bench.running(OURS, nodes, over) as running, running.held(n=nodes):
        time.sleep(1)
        clocks = [(process, process.cpu()) for process in running.processes]
        time.sleep(look)
        spent = [(process.cpu() - began) / look * 100 for process, began in clocks]
        memory = sum(node.memory() for node in running.nodes) / nodes / 1024
    return {
        "a node, % of a core": sum(spent[:nodes]) / nodes,
        "Redis, %": spent[-1] if running.redis else None,
        "a node, MiB": memory,
    }
