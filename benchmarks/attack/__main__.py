"""Attacks a server in all ways, one after another, and prints a table.

Each attack meets a server of its own. Printed are the server's memory before and at its highest, its CPU, the times of
another client, which is a process of its own, and what the attacker got. Another version of the package is attacked by
``--server "env PYTHONPATH=FOLDER python benchmarks/attack/app.py {port}"``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import gevent

from tests.support.processes import Servers

from . import floods, handshakes, memory
from .attacker import Got
from .probe import Probe

#: Seconds that an attack takes at most; some stay longer than the server lets requests last.
SECONDS = 10.0


def nothing(port: int, seconds: float) -> Got:
    """Do nothing: what the other client gets anyway."""
    gevent.sleep(seconds / 3)
    return Got()


#: What to do, and the settings of the server.
ATTACKS: dict[str, tuple[Callable[[int, float], Got], dict[str, str]]] = {
    "nothing": (nothing, {}),
    "60 MB of `{},` for slow handlers": (memory.inboxes, {}),
    "60 MB of `{},` behind slow joins": (memory.slow_joins, {}),
    "topics and events of 1 MB": (memory.long_names, {}),
    "heads of frames of 200 MB": (memory.frame_heads, {}),
    "60 MB of `{},`, deflated": (memory.bombs, {}),
    "readers that stop": (memory.readers_that_stop, {}),
    "200,000 empty fragments": (floods.empty_fragments, {}),
    "200,000 fragments of one byte": (floods.small_fragments, {}),
    "100,000 echoes": (floods.echoes, {}),
    "the same from 20 clients": (floods.many_echoes, {}),
    "20,000 joins and leaves": (floods.joins, {}),
    "5,000 crashes": (floods.crashes, {}),
    "1,500 half-open heads": (handshakes.half_open_heads, {}),
    "300 stalled POSTs, no session": (handshakes.stalled_posts, {}),
    "300 stalled POSTs, a session": (handshakes.stalled_posts_of_a_session, {}),
    "3,000 connections": (handshakes.connection_flood, {}),
    "the same, capped": (handshakes.connection_flood, {"FLASK_PHOENIX_MAX_CONNECTIONS": "500"}),
    "handshakes": (handshakes.handshake_flood, {}),
    "the same, capped at 100/s": (handshakes.handshake_flood, {"FLASK_PHOENIX_HANDSHAKES_PER_SECOND": "100"}),
}


def tree(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def megabytes(pids: list[int], line: str) -> float:
    """Return the memory of processes: what they have (``VmRSS``), or had at most (``VmHWM``)."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.split(f"{line}:")[1].split()[0]) for text in texts) / 1024


def cpu(pids: list[int]) -> float:
    """Return the seconds that processes have computed."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def measure(command: list[str], attack: Callable[[int, float], Got], settings: dict[str, str]) -> str:
    """Attack a server; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        server = Servers(Path(folder)).start(*command, **settings)
        try:
            probe = Probe(server.port)
            pids = tree(server.pid)
            before, computed = megabytes(pids, "VmRSS"), cpu(pids)
            got = attack(server.port, SECONDS)
            times = probe.end()
            highest, computed = megabytes(pids, "VmHWM"), cpu(pids) - computed
            what = ", ".join(f"{number:,} {what}" for what, number in got.most_common())
            return f"{before:.0f} to {highest:.0f} MB | {computed:.1f} s | {times} ms | {what}"
        finally:
            server.kill()


def main() -> None:
    """Attack, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attack", description=__doc__)
    parser.add_argument("--server", default=f"{sys.executable} -m benchmarks.attack.app {{port}}")
    parser.add_argument("--only", default="", help="attacks with this in their names")
    options = parser.parse_args()
    print(
        "| attack | server's memory | its CPU | others' p50 / p99 / most | what the attacker got |\n"
        + "| --- " * 5
        + "|"
    )
    for name, (attack, settings) in ATTACKS.items():
        if options.only in name:
            print(f"| {name} | {measure(shlex.split(options.server), attack, settings)} |", flush=True)


if __name__ == "__main__":
    main()
