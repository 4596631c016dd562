"""What all nodes together do, second by second: one report of each node, shared by all who look."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from .latencies import quantiles

#: Messages to viewers of which the numbers are remembered: who comes later sees the last minutes.
REMEMBERED = 150
#: Topics and slow clients that are named, crashes and events that are remembered, of all nodes.
NAMED, TROUBLES = 8, 60
#: Seconds after which a node that is new here has just joined: those before were there already.
SETTLED = 4
#: Seconds without a report after which a node counts as silent, and after which it is forgotten.
SILENT_AFTER, FORGOTTEN_AFTER = 3.5, 60.0
#: What is added up, and what is told of each node.
SUMS = ("connections", "channels", "busy", "inbox_bytes", "outbox_bytes", "missed", "slow_now", "slow_count")
OF_NODE = ("node", "pid", "draining", "connections", "channels", "busy", "lag", "inbox_bytes", "outbox_bytes")


class Overview:
    """The newest report of each node, and what has passed."""

    def __init__(self) -> None:
        self._reports: dict[str, dict[str, Any]] = {}
        #: When each was heard last, and which of them have ended.
        self._heard: dict[str, float] = {}
        self._ended: set[str] = set()
        self._past: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        #: By their keys, the oldest first.
        self._crashes: dict[str, dict[str, Any]] = {}
        self._events: dict[str, dict[str, Any]] = {}
        self._news: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])

    def take(self, report: dict[str, Any], now: float) -> None:
        """Take a node's report."""
        node = report["node"]
        if node not in self._heard and len(self._past) >= SETTLED:
            self.note({"key": f"{node}-joined", "at": report["at"], "kind": "joined", "text": "has joined"}, node)
        self._reports[node], self._heard[node] = report, now
        self._ended.discard(node)
        for crash in report["crashes"]:
            _remember(self._crashes, self._news[0], {**crash, "node": node})
        for event in report["events"]:
            self.note(event, node)

    def note(self, event: dict[str, Any], node: str) -> None:
        """Remember an event of a node."""
        _remember(self._events, self._news[1], {**event, "node": node})

    def gone(self, node: str, at: float) -> None:
        """Take note that a node has ended."""
        if node in self._reports and node not in self._ended:
            self._ended.add(node)
            self.note({"key": f"{node}-gone", "at": at, "kind": "gone", "text": "has ended"}, node)

    def crash(self, key: Any) -> dict[str, Any] | None:
        """Return all that is known of a crash."""
        return self._crashes.get(key)

    def summary(self) -> dict[str, Any]:
        """Return what a viewer that comes is told: the past, and all troubles."""
        crashes = [outlined(crash) for crash in self._crashes.values()]
        pids = {node: report["pid"] for node, report in self._reports.items()}
        return {"past": list(self._past), "pids": pids, "crashes": crashes, "events": list(self._events.values())}

    def alive(self, now: float) -> list[str]:
        """Return the nodes that have reported lately."""
        return [node for node in self._reports if self._state(node, now) == "up"]

    def tell(self, now: float, at: float) -> dict[str, Any]:
        """Return what all viewers are told of this second."""
        self._forget(now)
        alive = [self._reports[node] for node in self.alive(now)]
        # Who is silent has its clients yet, as far as anybody knows.
        there = [report for node, report in self._reports.items() if node not in self._ended]
        crashes, events = self._news
        self._news = ([], [])
        totals = self._totals(alive, there)
        nodes = [self._of_node(report, now) for report in self._reports.values()]
        told = {
            "at": round(at, 3),
            "totals": totals,
            "nodes": sorted(nodes, key=lambda each: each["pid"]),
            "topics": _largest_topics(there),
            "slow": _slowest(there),
            "crashes": [outlined(crash) for crash in crashes],
            "events": events,
        }
        lags = {each["node"]: each["lag"] for each in nodes if each["state"] == "up"}
        self._past.append({"at": told["at"], "totals": _numbers(totals), "lags": lags})
        return told

    def _forget(self, now: float) -> None:
        for node in [node for node, heard in self._heard.items() if now - heard > FORGOTTEN_AFTER]:
            del self._heard[node], self._reports[node]
            self._ended.discard(node)

    def _state(self, node: str, now: float) -> str:
        if node in self._ended:
            return "gone"
        return "silent" if now - self._heard[node] > SILENT_AFTER else "up"

    def _of_node(self, report: dict[str, Any], now: float) -> dict[str, Any]:
        node = report["node"]
        adapter, latencies = report["adapter"], quantiles([report["handlers"]])
        return {
            **{name: report[name] for name in OF_NODE},
            "state": self._state(node, now),
            "silent": round(now - self._heard[node], 1),
            "messages_in": report["rates"]["messages_in"],
            "messages_out": report["rates"]["messages_out"],
            "p99": latencies["p99"],
            "lost": bool(adapter and adapter["lost"]),
        }

    def _totals(self, alive: list[dict[str, Any]], there: list[dict[str, Any]]) -> dict[str, Any]:
        rates = [report["rates"] for report in alive]
        adapters = [report["adapter"] for report in alive if report["adapter"]]
        return {
            **{name: sum(report[name] for report in there) for name in SUMS},
            **{name: round(sum(each[name] for each in rates), 2) for name in (rates[0] if rates else ())},
            "topics": sum(report["topic_count"] for report in there),
            "handlers": quantiles(report["handlers"] for report in alive),
            "deliveries": quantiles(report["deliveries"] for report in alive),
            "lag": max((report["lag"] for report in alive), default=0.0),
            "transports": _added(report["transports"] for report in there),
            "limits": _added(report["limits"] for report in there),
            "presence": {name: size for report in there for name, size in report["presence"].items()},
            "crash_count": sum(report["crash_count"] for report in self._reports.values()),
            "adapter": adapters[0]["kind"] if adapters else None,
            "lost": sum(adapter["lost"] for adapter in adapters),
            "unpublished": sum(adapter["unpublished"] for adapter in adapters),
            "nodes": len(alive),
        }


def outlined(crash: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a crash before it is opened."""
    return {name: crash[name] for name in ("key", "at", "node", "connection", "topic", "pattern", "where", "message")}


def _remember(known: dict[str, dict[str, Any]], news: list[dict[str, Any]], each: dict[str, Any]) -> None:
    if each["key"] not in known:
        known[each["key"]] = each
        news.append(each)
        if len(known) > TROUBLES:
            del known[next(iter(known))]


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _largest_topics(there: list[dict[str, Any]]) -> list[list[Any]]:
    sizes = _added(dict(map(tuple, report["topics"])) for report in there)
    return [[topic, size] for topic, size in sorted(sizes.items(), key=lambda each: -each[1])[:NAMED]]


def _slowest(there: list[dict[str, Any]]) -> list[dict[str, Any]]:
    slow = [each for report in there for each in report["slow"]]
    return sorted(slow, key=lambda each: -each["waiting"])[:NAMED]


def _numbers(totals: dict[str, Any]) -> dict[str, Any]:
    """Return what lines are drawn of."""
    drawn = ("connections", "topics", "joins", "messages_in", "messages_out", "slow_now", "handlers", "deliveries")
    return {name: totals[name] for name in drawn if name in totals}
