"""Two servers of one app, with what joins them: processor time of both for each delivery, and of Redis.

1,000 clients, half of them on each server: in rooms of 10, and all in one room.
"""

from __future__ import annotations

from benchmarks.contenders import CHANNELS, OURS, SOCKETIO, Contender
from benchmarks.harness import Bench, Figures, Table

WAYS = ((OURS, "workers"), (OURS, "redis"), (SOCKETIO, "redis"), (CHANNELS, "redis"))


def ask(bench: Bench) -> Table:
    """Measure those that can be several."""
    n, table = bench.size(1000, 200), Table()

    for contender, over in WAYS:

        def cross(contender: Contender, over: str = over) -> Figures:
            with bench.running(contender, 2, over) as running:
                small = running.load(n=n, room=10, secs=bench.secs)
            with bench.running(contender, 2, over) as running:
                large = running.load(n=n, secs=bench.secs)
            return {
                "rooms of 10, µs": small.delivery,
                "Redis, µs": small.redis_delivery,
                "one room, µs": large.delivery,
                "one room, Redis, µs": large.redis_delivery,
                "lost": float(small.raw["lost"] + large.raw["lost"]),
            }

        for figures in bench.measure((contender,), cross).values():
            table[f"{contender.name}, {over}"] = figures
    return table
