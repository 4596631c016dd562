"""The wall between the runtime and who writes traces."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


class Tracing:
    """Writes a span for each handler. Traces are named as the header ``traceparent`` does (W3C Trace Context)."""

    #: Broadcasts carry the trace of who publishes them, to intercepting channels of all nodes.
    broadcasts = False

    def span(self, name: str, parent: str, about: dict[str, Any]) -> AbstractContextManager[Any]:
        """Return what writes a span of what happens in it; an exception is noted there, and passes.

        :param parent: the trace that it belongs to; empty: one of its own.
        """
        raise NotImplementedError

    def current(self) -> str:
        """Return the trace of what happens at this moment; empty: there is none."""
        raise NotImplementedError
