"""flask_phoenix by how many other topics there are: a delivery among 100 subscribers, a join, and memory of a topic.

The other topics have a client each, 1,000 topics a client at most.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders import OURS
from benchmarks.harness import Bench, Figures, Table, slope

WIDE = replace(OURS.chat, path="/wide/websocket?vsn=2.0.0", join='["%I","%I","room:other-%J","phx_join",{}]')


def ask(bench: Bench) -> Table:
    """Measure."""
    sizes = (10, 1_000, 10_000) if bench.quick else (10, 100, 1_000, 10_000, 100_000)
    table = {f"{size:,}": one(bench, size) for size in sizes}
    costs = {size: table[f"{size:,}"]["delivery, µs"] or 0.0 for size in sizes}
    joins = {size: table[f"{size:,}"]["join, µs"] or 0.0 for size in sizes[1:]}
    table["slope"] = {"delivery, µs": slope(costs), "join, µs": slope(joins)}
    return table


def one(bench: Bench, size: int) -> Figures:
    """Measure beside so many topics."""
    clients = min(10, size) if size <= 10_000 else size // 1_000
    joins = size // clients
    with bench.running(OURS) as running, running.held(n=clients) as alone:
        connect = alone.cpu("connect_cpu")[0]
    with bench.running(OURS) as running, running.held(WIDE, n=clients, joins=joins, patience=120) as others:
        load = running.load(n=100, secs=bench.secs)
        spent, kib = others.cpu("connect_cpu")[0] - connect, others.raw["memory"][0] - alone.raw["memory"][0]
    return {
        "delivery, µs": load.delivery,
        "join, µs": spent / max(size - clients, 1) * 1e6 if joins > 1 else None,
        "KiB a topic": kib / max(size - clients, 1) if size >= 1_000 else None,
    }
