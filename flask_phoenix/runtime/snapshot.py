"""One process at a moment, as a dict of JSON: what health, metrics, commands and a dashboard show of it."""

from __future__ import annotations

import os
from collections import Counter
from heapq import nlargest
from typing import Any

from ..protocol.messages import INTERNAL
from .engine import Engine

#: The topics with the most subscribers that are named.
LARGEST = 10


def inspect(engine: Engine, largest: int = LARGEST) -> dict[str, Any]:
    """Return what a process has and does; it begins to count what passes with the first call.

    It looks at each connection and each topic once, about a microsecond for each.
    """
    meter, connections = engine.watch(), list(engine.connections)
    ids = {connection.id for connection in connections}  # each is a topic, too, by which its client is disconnected
    topics = {
        topic: size
        for topic, size in engine.pubsub.sizes().items()
        if topic not in ids and not topic.startswith(INTERNAL)
    }
    transports = Counter(connection.carrier.transport for connection in connections)
    return {
        "node": engine.node.name,
        "pid": os.getpid(),
        "draining": engine.draining,
        "connections": len(connections),
        "transports": dict(transports),
        "channels": sum(len(connection.topics) for connection in connections),
        "topics": len(topics),
        "largest_topics": [
            {"topic": topic, "subscribers": size}
            for topic, size in nlargest(largest, topics.items(), key=lambda item: item[1])
        ],
        "rates": meter.rates,
        "totals": meter.totals,
        "loop_lag": round(meter.lag, 6),
        "handlers": engine.runners.busy,
        "inbox_bytes": engine.budget.total,
        "outbox_bytes": sum(connection.carrier.waiting for connection in connections),
        "missed": engine.missed,
        "limits": dict(engine.limits),
        "adapter": _adapter(engine),
        "nodes": sorted(engine.node.others),
    }


def _adapter(engine: Engine) -> dict[str, Any] | None:
    adapter = engine.node.adapter
    if adapter is None:
        return None
    return {"kind": type(adapter).__name__, "lost": bool(adapter.lost), "unpublished": adapter.unpublished}
