"""flask_phoenix against its budgets, for before and after a change: each figure, and its ratio to the floor.

Deliveries are held against the floor's fan-out, a presence against its echo.
"""

from __future__ import annotations

from benchmarks.contenders import FLOOR, OURS, Contender
from benchmarks.harness import Bench, Figures, Table, middle
from benchmarks.questions import longpoll, presence

#: Which figure of the floor is held against which of ours.
AGAINST = {
    "fan-out, µs": "fan-out, µs",
    "burst of 16, µs": "burst of 16, µs",
    "echo, µs": "echo, µs",
    "connect and join, µs": "connect and join, µs",
    "KiB a connection": None,
    "long poll, one at a time, µs": "fan-out, µs",
    "long poll, 16 at a time, µs": "fan-out, µs",
    "rooms of 10, local, µs": "fan-out, µs",
    "rooms of 10, workers, µs": "fan-out, µs",
    "rooms of 10, redis, µs": "fan-out, µs",
    "presence join, 10 present, µs": "echo, µs",
}


def ask(bench: Bench) -> Table:
    """Measure the floor and ours in turn."""
    n = bench.size(1000, 200)
    rows: dict[str, list[Figures]] = {FLOOR.name: [], OURS.name: []}
    for _ in range(bench.rounds):
        rows[FLOOR.name].append(core(bench, FLOOR, n))
        rows[OURS.name].append({**core(bench, OURS, n), **rest(bench, n)})
    floor, ours = middle(rows[FLOOR.name]), middle(rows[OURS.name])
    table = Table()
    for name, against in AGAINST.items():
        value, least = ours[name], floor[against] if against else None
        table[name] = {"flask_phoenix": value, "floor": least, "ratio": value / least if value and least else None}
    table["lost"] = {"flask_phoenix": ours["lost"], "floor": floor["lost"], "ratio": None}
    return table


def core(bench: Bench, contender: Contender, n: int) -> Figures:
    """Return what the floor does as well."""
    with bench.running(contender) as running:
        fan = running.load(n=n, secs=bench.secs)
        burst = running.load(n=n, window=16, secs=bench.secs)
        echo = running.load(contender.echo, mode="echo", n=50, secs=bench.secs)
    return {
        "fan-out, µs": fan.delivery,
        "burst of 16, µs": burst.delivery,
        "echo, µs": echo.delivery,
        "connect and join, µs": fan.connect,
        "KiB a connection": fan.kib,
        "lost": float(fan.raw["lost"] + burst.raw["lost"]),
    }


def rest(bench: Bench, n: int) -> Figures:
    """Return what only ours does."""
    figures: Figures = {}
    for name, over in (("local", None), ("workers", "workers"), ("redis", "redis")):
        with bench.running(OURS, 2 if over else 1, over) as running:
            figures[f"rooms of 10, {name}, µs"] = running.load(n=n, room=10, secs=bench.secs).delivery
    with bench.running(OURS) as running:
        polled = longpoll.deliveries(running, longpoll.PHOENIX, n)
    with bench.running(OURS) as running:
        visited = presence.visit(running, 10)
    figures["long poll, one at a time, µs"] = polled["1 at a time, µs"]
    figures["long poll, 16 at a time, µs"] = polled["16 at a time, µs"]
    figures["presence join, 10 present, µs"] = visited["join, µs"]
    return figures
