"""Broadcasts of 100 bytes, 10 KB and 1 MB, plain and compressed: processor time of the server for each delivery.

To 100 subscribers, of 1 MB to 10. None where the server does not compress. Whether uWebSockets compresses it decides
by itself, and it does so once for all.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contenders import OURS, SERVERS, Contender, Talk
from benchmarks.harness import Bench, FailedError, Figures, Running, Table

#: Bytes, by how many hear them.
SIZES = {"100 B": (100, 100), "10 KB": (10_000, 100), "1 MB": (1_000_000, 10)}


def ask(bench: Bench) -> Table:
    """Measure all but the floor, which takes no more than 2 KB."""

    def carry(contender: Contender) -> Figures:
        plain, figures = contender.chat, Figures()
        if contender is OURS:  # whose default is a megabyte, the envelope included
            plain = replace(plain, path=plain.path.replace("/socket", "/wide"))
        for kind, talk in (("", plain), ("deflated, ", contender.deflating())):
            for name in SIZES:
                with bench.running(contender) as running:
                    figures[f"{name}, {kind}µs"] = cost(bench, running, talk, *SIZES[name])
        return figures

    return bench.measure(SERVERS, carry, rounds=1)


def cost(bench: Bench, running: Running, talk: Talk, size: int, n: int) -> float | None:
    """Return microseconds of a delivery; none if it cannot carry so much, or does not compress."""
    try:
        load = running.load(talk, n=n, pad=size, secs=bench.secs)
    except FailedError as error:
        running_name = running.contender.name
        bench.note(f"{running_name}, {size:,} bytes: {error}")
        return None
    if not load.raw["deliveries"] or bool(talk.header) != bool(load.raw["compressed"]):
        return None
    return load.delivery
