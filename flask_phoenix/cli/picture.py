"""What ``flask phoenix top`` draws, with rich."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from time import monotonic
from typing import Any

import gevent
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..operations.cluster import Cluster
from .operating import age, cut, plain, size

#: The event loop of a process that is late by so many seconds is marked: others wait for it.
LATE = 0.1
#: Seconds for which a process is shown that does not answer.
FORGOTTEN_AFTER = 30.0
#: Rows of the lists below the processes.
ROWS = 8


def draw_once(reports: list[dict[str, Any]]) -> None:
    """Draw what was reported, with no colours where this is no terminal."""
    Console().print(picture(reports, set()))


def draw(cluster: Cluster, every: float) -> None:
    """Draw again and again, until Ctrl-C."""
    #: The last report of each process, and when it came.
    last: dict[str, tuple[float, dict[str, Any]]] = {}
    with Live(screen=True, auto_refresh=False) as live:
        while True:
            now = monotonic()
            here = {report["node"]: report for report in cluster.reports()}
            last = {node: each for node, each in last.items() if now - each[0] < FORGOTTEN_AFTER}
            last |= {node: (now, report) for node, report in here.items()}
            live.update(picture([report for _, report in last.values()], last.keys() - here.keys()), refresh=True)
            gevent.sleep(every)


def picture(reports: list[dict[str, Any]], silent: set[str]) -> Group:
    """Return what is drawn of reports; some may be old, of processes that have not answered."""
    answered = [report for report in reports if report["node"] not in silent]
    return Group(
        summary(answered),
        "",
        processes(reports, silent),
        "",
        topics(answered),
        "",
        slowest(answered),
    )


def summary(reports: list[dict[str, Any]]) -> Text:
    """Return the sums of all processes."""
    rates = [report["rates"] for report in reports]
    words = (
        f"{len(reports)} process{'' if len(reports) == 1 else 'es'}",
        f"{sum(report['connections'] for report in reports)} connections",
        f"{sum(report['channels'] for report in reports)} channels",
        f"{sum(rate['messages_in'] for rate in rates):.0f} in/s",
        f"{sum(rate['messages_out'] for rate in rates):.0f} out/s",
    )
    present = "".join(f"\npresent in {name}: {count}" for name, count in presences(reports).items())
    return Text(f"{datetime.now():%H:%M:%S}  " + "  ".join(words) + present, style="bold", overflow="ellipsis")


def presences(reports: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many are present, by the names of the presences: each process knows them all."""
    return {name: count for report in reports for name, count in report["presence"].items()}


def processes(reports: list[dict[str, Any]], silent: set[str]) -> Table:
    """Return a row for each process."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("PROCESS", no_wrap=True)
    for title in ("CONNS", "CHANS", "IN/s", "OUT/s", "LAG ms", "BUSY", "INBOX", "OUTBOX"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("STATE", no_wrap=True)
    for report in reports:
        rates, lag = report["rates"], report["loop_lag"]
        table.add_row(
            cut(f"{cut(report['host'], 12)}:{report['pid']}", 20),
            str(report["connections"]),
            str(report["channels"]),
            f"{rates['messages_in']:.0f}",
            f"{rates['messages_out']:.0f}",
            Text(f"{lag * 1000:.0f}", style="bold red" if lag > LATE else ""),
            str(report["handlers"]),
            size(report["inbox_bytes"]),
            size(report["outbox_bytes"]),
            state_of_process(report, silent),
        )
    return table


def state_of_process(report: dict[str, Any], silent: set[str]) -> Text:
    """Return what is unusual about a process."""
    adapter = report["adapter"]
    if report["node"] in silent:
        return Text("silent", style="bold red")
    if adapter and adapter["lost"]:
        return Text("cut off", style="bold red")
    return Text("draining", style="yellow") if report["draining"] else Text("up", style="green")


def topics(reports: list[dict[str, Any]]) -> Table:
    """Return the largest topics of all processes."""
    sizes: Counter[str] = Counter()
    for each in [each for report in reports for each in report["largest_topics"]]:
        sizes[each["topic"]] += each["subscribers"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("SUBSCRIBERS", justify="right", no_wrap=True)
    table.add_column("TOPIC", no_wrap=True, overflow="ellipsis")
    for topic, count in sizes.most_common(ROWS):
        table.add_row(str(count), Text(plain(topic)))
    return table


def slowest(reports: list[dict[str, Any]]) -> RenderableType:
    """Return the clients for which the most waits, if anything does."""
    found = [each for report in reports for each in report["slowest"]]
    if not found:
        return Text("nothing waits for any client", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("WAITS", "AGE"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("SLOW CLIENT", "ID", "TOPICS"):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for each in sorted(found, key=lambda each: -each["outbox_bytes"])[:ROWS]:
        row = each["connection"], each["id"] or "-", " ".join(each["topics"])
        table.add_row(size(each["outbox_bytes"]), age(each["seconds"]), *(Text(plain(cell)) for cell in row))
    return table
