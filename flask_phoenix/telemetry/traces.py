"""Traces of OpenTelemetry: a span for each handler, in the trace of its client or of its message."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..runtime.tracing import Tracing

TRACEPARENT = "traceparent"


class Traces(Tracing):
    """Writes spans with a tracer of a provider.

    :param provider: None: the one that is set for the process.
    :param broadcasts: broadcasts carry their trace.
    """

    def __init__(self, provider: Any, broadcasts: bool) -> None:
        self._tracer = trace.get_tracer("flask_phoenix", tracer_provider=provider)
        self._propagator = TraceContextTextMapPropagator()
        self.broadcasts = broadcasts

    def span(self, name: str, parent: str, about: dict[str, Any]) -> AbstractContextManager[Any]:
        """Return what writes a span of what happens in it."""
        context = self._propagator.extract({TRACEPARENT: parent}, Context()) if parent else Context()
        return self._tracer.start_as_current_span(
            name, context, trace.SpanKind.SERVER, {f"phoenix.{key}": value for key, value in about.items()}
        )

    def current(self) -> str:
        """Return the trace of what happens at this moment."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get(TRACEPARENT, "")
