"""One client with many channels: joins, leaves and messages are handed to the channel of their topic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from .. import clock
from ..protocol.messages import Frame, Message, shown
from ..protocol.state import Answered, Event, Held, JoinReceived, LeaveReceived, MessageReceived, Protocol
from ..socket import Socket, explain_unmatched
from .channel_server import ChannelServer, CheckedChannelServer
from .connection import Bounds, Carrier, Connection, Surroundings
from .engine import FAILURES, Engine
from .inbox import INBOX_LIMIT, Inbox

log = logging.getLogger("flask_phoenix.channel")

#: Bytes of a frame beyond which it is looked how long it takes to decode: what is smaller takes less than 1 ms.
LARGE = 16384

#: How an inbox is given a call, its argument, and the bytes that these hold.
Start = Callable[[Inbox, Any, Any, int], None]


class Farewell:
    """Calls a socket's ``disconnected`` when its connection has ended, and all of its channels have terminated."""

    __slots__ = ("_call", "_channels", "_reason")

    def __init__(self, call: Callable[[str], None]) -> None:
        self._call = call
        self._channels: set[Any] = set()
        self._reason: str | None = None

    def add(self, channel: ChannelServer) -> None:
        """Wait for one more channel."""
        self._channels.add(channel)

    def discard(self, channel: ChannelServer) -> None:
        """Wait for a channel no more."""
        self._channels.discard(channel)
        self._call_in_time()

    def end(self, reason: str) -> None:
        """Call it, now or after the last channel."""
        self._reason = reason
        self._call_in_time()

    def _call_in_time(self) -> None:
        if self._reason is not None and not self._channels:
            reason, self._reason = self._reason, None
            self._call(reason)
            del self._call  # which refers to the connection


class ChannelConnection(Connection):
    """A client that joins channels."""

    __slots__ = ("_explained", "_farewell", "lane", "protocol")

    socket: Socket

    def __init__(
        self,
        engine: Engine,
        socket: Socket,
        name: str | None,
        carrier: Carrier,
        protocol: Protocol,
        surroundings: Surroundings | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(engine, socket, name, carrier, surroundings, bounds)
        self.protocol = protocol
        self._explained = False
        self.topics = protocol.memberships
        self.lane = carrier.lane(protocol.serializer)
        #: Where the socket has a ``disconnected``.
        self._farewell: Farewell | None = None
        if type(socket).disconnected is not Socket.disconnected:
            self._farewell = Farewell(partial(Inbox(engine.runners, self.context).put, self._call_disconnected))

    def receive(self, frame: Frame) -> None:
        """Handle a frame from the client; may block while too many wait for a channel.

        :raises InvalidMessage: the frame is no message; the carrier is to close with 1011.
        """
        if self.engine.meter is not None:
            self.engine.meter.receive(len(frame))
        if self.pace is not None and not self.pace():
            return
        size = len(frame)
        if size > LARGE:
            self._receive_large(frame)
            return
        event = self.protocol.receive(frame)
        if type(event) is MessageReceived:  # the hot path
            server: ChannelServer = event.membership.server
            server.inbox.hand_off(server.handle_in, event.message, size)
            if server.inbox.running:
                self._pace(server)
        elif event is not None:
            self._take(event, size)

    def _receive_large(self, frame: Frame) -> None:
        """Handle a frame that may have taken long to decode, and then let the others go on for as long."""
        began = clock.monotonic()
        event = self.protocol.receive(frame)
        cost = clock.monotonic() - began
        if event is not None:
            self._take(event, len(frame))
        del event  # it may be large
        self.engine.turns.rest(cost)

    def _take(self, event: Event, size: int) -> None:
        server = event.membership.server if isinstance(event, Held | MessageReceived) else None
        self.handle(event, Inbox.hand_off, size)
        if type(event) is Held:
            self.account.hold(size)
        if server is not None:
            self._pace(server)

    def tell_expiring(self, left: float) -> None:
        """Tell the client on each of its channels that it has so many seconds left."""
        for membership in list(self.protocol.memberships.values()):
            membership.server.tell_expiring(left)

    def disconnect_topic(self, topic: str) -> None:
        """End the channel of a topic, if the client has joined it."""
        membership = self.protocol.memberships.get(topic)
        if membership is not None:
            membership.server.disconnect()

    def handle(self, event: Event, start: Start, size: int) -> None:
        """Do what an event asks for.

        :param start: how a channel's inbox is given work: at once by the reader, later by everybody else.
        :param size: of the frame.
        """
        if isinstance(event, Answered):
            self.send(event.frame)
            if event.unmatched is not None:
                self._log_problem(f"{event.problem}{self._explain(event.unmatched)}")
            elif event.problem and (event.limit is None or self.reach(event.limit)):
                self._log_problem(event.problem)
        elif isinstance(event, JoinReceived):
            self._join(event, start, size)
        elif isinstance(event, Held):
            pass
        else:
            server: ChannelServer = event.membership.server
            call = server.leave if isinstance(event, LeaveReceived) else server.handle_in
            start(server.inbox, call, event.message, size)

    def _explain(self, unmatched: Message) -> str:
        """Tell, once for each client, why its message comes to nobody."""
        if self._explained:
            return ""
        self._explained = True
        return f": {explain_unmatched(type(self.socket), unmatched.topic)}"

    def _log_problem(self, problem: str) -> None:
        log.warning("%s: %s (connection %d)", type(self.socket).__name__, problem, self.number)

    def _join(self, join: JoinReceived, start: Start, size: int) -> None:
        kind = CheckedChannelServer if self.engine.checks() else ChannelServer
        server = join.membership.server = kind(self, self.protocol, self.lane, join, self._redispatch)
        if self._farewell is not None:
            self._farewell.add(server)
        if join.replaced is not None:
            log.debug("duplicate join of %s: the newer one wins", shown(join.membership.topic))
            join.replaced.server.end("duplicate_join", start)
            if server.ended:  # the connection was closed while the older one terminated
                return
        start(server.inbox, server.join, join, size)
        if server.inbox.running:
            server.limit_join(join)

    def _redispatch(self, message: Message, size: int) -> None:
        """Handle a message that waited for the end of a join."""
        self.account.release(size)
        event = self.protocol.dispatch(message, size)
        if type(event) is Held:  # one of them was a join
            self.account.hold(size)
        elif event is not None:
            self.handle(event, Inbox.put, size)

    def _pace(self, server: ChannelServer) -> None:
        """Hold the reader back while too much waits for the author's code."""
        while self.open and len(server.inbox) + len(server.membership.held) >= INBOX_LIMIT:
            server.inbox.wait()
        self.account.wait()

    def _end(self, reason: str) -> None:
        for membership in list(self.protocol.memberships.values()):
            self.account.release(sum(size for _, size in self.protocol.release(membership)))
            membership.server.end(reason)
        self.protocol.memberships.clear()
        if self._farewell is not None:
            self._farewell.end(reason)

    def observe(self) -> None:
        """Let the channels take note that handlers are measured from now on, or no more."""
        for membership in self.protocol.memberships.values():
            membership.server.telemetry.look()

    def channel_over(self, channel: ChannelServer) -> None:
        """Take note that a channel has terminated."""
        if self._farewell is not None:
            self._farewell.discard(channel)

    def _call_disconnected(self, reason: str) -> None:
        try:
            self.call(self.socket.disconnected, reason)
        except FAILURES as failure:
            log.exception("%s failed in disconnected (connection %d)", type(self.socket).__name__, self.number)
            self.engine.caught(failure)
