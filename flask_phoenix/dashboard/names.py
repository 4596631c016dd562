"""The names that the dashboard uses on the wire, to its pages and between nodes."""

from __future__ import annotations

from ..protocol.messages import INTERNAL

#: The topic of the pages, and the beginning of those of what is opened in them.
TOPIC = "phoenix_dashboard"
#: Where a node with viewers asks all others to report, and where they do.
WATCHING, REPORTS = f"{INTERNAL}dashboard", f"{INTERNAL}dashboard:reports"
