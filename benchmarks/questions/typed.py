"""What a declared type costs: a message and its reply of 100 bytes, both of the type, beside those of a dict.

Processor time of the server for each echo, over the network; and within one process, from the frame that has come to
the frame that is to leave. What is more than where nothing is annotated is taken within each round.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

import gevent

from benchmarks.contenders import OURS, module, phoenix_talk
from benchmarks.harness import Bench, Table
from benchmarks.rivals.flask_phoenix_typed import Room, app
from flask_phoenix.testing import Client, Wire

TYPED = replace(OURS, command=module("flask_phoenix_typed", patched=True))
#: Rounds within the process, and messages of each.
ROUNDS, TIMES = 30, 2_000
PAYLOAD = '{"ts":1764000000,"n":7,"pad":"' + "x" * 60 + '"}'


class Flood(Client):
    """A client that hands frames to its connection, and does not look at what comes."""

    def flood(self, frame: str, times: int) -> float:
        """Return the microseconds of processor time for each."""
        began = time.process_time()
        for _ in range(times):
            self._connection.receive(frame)
        return (time.process_time() - began) / times * 1e6

    def _arrive(self, message: Any) -> None:
        """Leave it."""


def ask(bench: Bench) -> Table:
    """Measure."""
    events = list(Room.handlers)
    rows: dict[str, list[float]] = {event: [] for event in events}
    with bench.running(TYPED) as running:
        for _ in range(bench.rounds):
            for event in events:
                rows[event].append(running.load(phoenix_talk(event), mode="echo", n=50, secs=bench.secs).delivery)
    inside = within(events, bench.size(ROUNDS, 5))
    return {
        event: {
            "echo, µs": median(rows[event]),
            "within, µs": median(inside[event]),
            "more, µs": median(map(float.__sub__, inside[event], inside[events[0]])),
        }
        for event in events
    }


def within(events: list[str], rounds: int) -> dict[str, list[float]]:
    """Return what the messages cost in each round, all kinds in turn."""
    rows: dict[str, list[float]] = {event: [] for event in events}
    with Flood(app, heartbeat=None, wire=Wire(str, lambda frame: frame)) as client:  # type: ignore[arg-type,return-value]
        join = '["1","1","room:1","phx_join",{}]'
        gevent.spawn(client.flood, join, 1).join()
        for _ in range(rounds + 1):
            for event in events:
                frame = f'["1","2","room:1","{event}",{PAYLOAD}]'
                rows[event].append(gevent.spawn(client.flood, frame, TIMES).get())
    return {event: found[1:] for event, found in rows.items()}  # the first round warms up
