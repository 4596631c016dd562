"""What a history costs: one broadcast to so many who are on the topic, forgotten or kept, and told its position.

Processor time of the server, the message that asks for the broadcast included, and how old it is when it comes, one in
flight. A message of 60 characters, of 50,000 that are kept, takes so many bytes: of the process, of the workers' file,
or of Redis.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from benchmarks.contenders import OURS
from benchmarks.harness import HOST, Bench, Figures, Running, Table

#: The same chat on topics with a history, whose clients say where they are.
KEPT = replace(
    OURS.chat,
    join='["%I","%I","kept:%R","phx_join",{"since":null}]',
    send=OURS.chat.send.replace("room:", "kept:"),
)
#: What joins nodes: the servers are one alone, though.
PLACES = {"one process": None, "workers": "workers", "Redis": "redis"}
#: How many topics keep how many messages.
TOPICS, MESSAGES = 100, 500


def ask(bench: Bench) -> Table:
    """Measure."""
    table: Table = {}
    for place, over in PLACES.items():
        with bench.running(OURS, over=over) as running:
            for n in (1, 10, 100) if bench.quick else (1, 10, 100, 1000):
                table[f"{place}, {n:,}"] = cost(bench, running, n)
        table[f"{place}, memory"] = {"a message, bytes": memory(bench, over)}
    return table


def cost(bench: Bench, running: Running, n: int) -> Figures:
    """Return what a broadcast costs, in rounds that take both in turn."""
    rounds = []
    for _ in range(bench.rounds):
        plain, kept = (running.load(talk, n=n, secs=bench.secs) for talk in (OURS.chat, KEPT))
        rounds.append((plain, kept))
    figures: Figures = {}
    for index, name in enumerate(("forgotten", "kept")):
        figures[f"{name}, µs"] = median(each[index].delivery * n for each in rounds)
        figures[f"{name}, p50 µs"] = median(each[index].raw["p50_ms"] * 1e3 for each in rounds)
    figures["kept / forgotten"] = median(kept.delivery / plain.delivery for plain, kept in rounds)
    figures["Redis, µs"] = median(kept.redis_delivery * n for _, kept in rounds) if running.redis else None
    return figures


def memory(bench: Bench, over: str | None) -> float:
    """Return the bytes that one message takes, where it is kept."""
    with bench.running(OURS, over=over) as running:
        before = held(running)
        with urlopen(f"http://{HOST}:{running.nodes[0].port}/keep?topics={TOPICS}&times={MESSAGES}", b"") as answer:
            answer.read()
        return (held(running) - before) / (TOPICS * MESSAGES)


def held(running: Running) -> int:
    """Return the bytes of whoever keeps."""
    scheme, _, path = running.url.partition("://")
    if scheme == "workers":
        return sum(each.stat().st_size for each in Path(path).glob("history*.db"))
    return (running.redis or running.nodes[0]).memory() * 1024
