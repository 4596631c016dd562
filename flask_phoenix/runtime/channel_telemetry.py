"""What those who run the app are told of one channel: signals, log lines, times and traces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from blinker import Signal

from ..channel import level_of
from ..protocol.messages import Broadcast, Frame, Message, Reply, Traced, shown
from ..protocol.state import JOIN_CRASHED
from ..remedies import remedy_for
from ..signals import channel_crashed, channel_joined, channel_refused, handled_in
from ..socket import Route
from .connection import Connection
from .engine import FAILURES
from .logs import write_line

log = logging.getLogger("flask_phoenix.channel")


class ChannelTelemetry:
    """Tells of one channel; where nobody wants to know, it costs a look."""

    __slots__ = ("_connection", "_route", "_topic", "channel", "measured", "outcome")

    def __init__(self, connection: Connection, route: Route, topic: str) -> None:
        self._connection = connection
        self._route = route
        self._topic = topic
        #: The author's object, once the join has made it.
        self.channel: Any = None
        #: The status of the reply to the message that is handled; empty: none.
        self.outcome = ""
        #: Somebody measures what is handled, or a line tells of it.
        self.measured = False
        self.look()

    def look(self) -> None:
        """Look whether somebody measures what is handled, or a line tells of it."""
        engine = self._connection.engine
        measured = engine.timing is not None or engine.tracing is not None
        self.measured = measured or self._level("log_handle_in") is not None

    def follow_in(self, message: Message, answer: Callable[[Message], Frame | None]) -> Frame | None:
        """Have a message answered, and tell how long it took, and what came of it."""
        began, exception, tracing = perf_counter(), None, self._connection.engine.tracing
        try:
            if tracing is None:
                return answer(message)
            with self._span("handle_in", message.event, self._trace_of(message.payload)):
                return answer(message)
        except FAILURES as failure:
            exception = failure
            self.outcome = "crashed"
            raise
        finally:
            self._note_in(message, perf_counter() - began, exception)

    def follow_out(self, broadcast: Broadcast, call: Callable[..., Any], *arguments: Any) -> None:
        """Call what handles a broadcast, in a span of its trace."""
        trace = broadcast.trace if isinstance(broadcast, Traced) else self._connection.trace
        with self._span("handle_out", broadcast.event, trace):
            call(*arguments)

    def note_join(self, message: Message, reply: Reply, joined: bool, seconds: float) -> None:
        """Tell how a join was answered; of a crash it has been told."""
        if reply is not JOIN_CRASHED:
            verb = "JOINED" if joined else "REFUSED JOIN"
            self._write_line("log_join", f"{verb} {shown(self._topic)}", seconds, message, reply.status)
        if joined:
            self.tell(channel_joined, seconds=seconds)
        elif reply is not JOIN_CRASHED:
            self.tell(channel_refused, reason=reply.response, seconds=seconds)

    def note_crash(self, what: str, where: str, reason: Any, payload: Any) -> None:
        """Log that the channel has crashed, and tell it.

        :param payload: what was handled, if anything was.
        """
        self.log(what, reason)
        self.tell(channel_crashed, reason=reason, where=where, payload=payload)

    def tell(self, signal: Signal, **about: Any) -> None:
        """Send a signal about this channel."""
        if signal.receivers:
            self._connection.engine.tell(
                signal,
                connection=self._connection,
                mount=self._connection.bounds.mount,
                topic=self._topic,
                pattern=self._route.pattern,
                channel=self.channel,
                **about,
            )

    def log(self, what: str, reason: Any) -> None:
        """Log an error; of an exception, its traceback follows."""
        failed = isinstance(reason, BaseException)
        remedy = remedy_for(reason)
        log.error(
            "%s %s on topic %s (connection %d)%s%s",
            self._route.channel.__name__,
            what,
            shown(self._topic),
            self._connection.number,
            "" if failed else f", for the reason {shown(reason)}",
            f"; {remedy}" if remedy else "",
            exc_info=reason if failed else None,
        )

    def _trace_of(self, payload: Any) -> str:
        """Return the trace of a message: what its payload says, where the channel declares it, or its client's."""
        key = self._route.channel.trace_key
        told = payload.get(key) if key is not None and isinstance(payload, dict) else None
        return told if isinstance(told, str) else self._connection.trace

    def _span(self, kind: str, event: Any, parent: str) -> AbstractContextManager[Any]:
        tracing = self._connection.engine.tracing
        assert tracing is not None
        name = self._route.channel.handlers.get(event) if isinstance(event, str) else None
        known = event if name or kind == "handle_out" else "other"
        about = {
            "event": str(event),
            "topic": self._topic,
            "pattern": self._route.pattern,
            "mount": self._connection.bounds.mount,
            "connection": self._connection.number,
        }
        return tracing.span(f"{kind} {self._route.pattern} {known}", parent, about)

    def _note_in(self, message: Message, seconds: float, exception: BaseException | None) -> None:
        timing, outcome = self._connection.engine.timing, self.outcome or "noreply"
        if timing is not None:
            timing.handled(self._connection.bounds.mount, self._route.pattern, outcome, seconds)
        self.tell(handled_in, event=message.event, outcome=outcome, seconds=seconds, exception=exception)
        what = f"HANDLED {shown(message.event)} INCOMING ON {shown(message.topic)} ({self._route.channel.__name__})"
        self._write_line("log_handle_in", what, seconds, message, outcome)

    def _level(self, name: str) -> int | None:
        """Return the level of the lines of a kind, if anybody gets them."""
        level = level_of(getattr(self._route.channel, name), name)
        return level if level is not None and log.isEnabledFor(level) else None

    def _write_line(self, name: str, what: str, seconds: float, message: Message, outcome: str) -> None:
        level = self._level(name)
        if level is None:
            return
        write_line(
            log,
            level,
            what,
            seconds,
            self._connection.engine.filter_parameters(message.payload),
            connection=self._connection.number,
            mount=self._connection.bounds.mount,
            topic=message.topic,
            pattern=self._route.pattern,
            event=message.event,
            outcome=outcome,
        )
