"""Many channels over one connection: joins, leaves and messages find their channel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..protocol.messages import Frame, Message
from ..protocol.state import Answered, Event, Held, JoinReceived, LeaveReceived, MessageReceived, Protocol
from ..socket import Socket
from .channel_server import ChannelLink
from .connection import Carrier, Connection
from .engine import Engine
from .inbox import LIMIT, Inbox

log = logging.getLogger(__name__)


class ChannelConnection(Connection):
    """A client that joins channels."""

    socket: Socket

    def __init__(self, engine: Engine, socket: Socket, name: str | None, carrier: Carrier, protocol: Protocol) -> None:
        super().__init__(engine, socket, name, carrier)
        self.protocol = protocol
        self.topics = protocol.memberships
        self.lane = carrier.lane(protocol.serializer)

    def receive(self, frame: Frame) -> None:
        """Handle a frame from the client; may block for as long as the client is too far ahead of its handlers.

        :raises InvalidMessage: the frame is no message; the carrier is to close with 1011.
        """
        event = self.protocol.receive(frame)
        if type(event) is MessageReceived:  # the hot path
            link: ChannelLink = event.membership.channel
            link.inbox.hand_off(link.handle_in, event.message)
            if link.inbox.running:
                self._pace(link)
        elif event is not None:
            self.handle(event, Inbox.hand_off)
            if type(event) is Held:
                self._pace(event.membership.channel)

    def handle(self, event: Event, start: Callable[[Inbox, Any, Any], None]) -> None:
        """Do what an event asks for.

        :param start: how a channel's inbox is given work: at once by the reader, later by everybody else.
        """
        if isinstance(event, Answered):
            self.send(event.frame)
            if event.problem:
                log.warning("%s: %s", type(self.socket).__name__, event.problem)
        elif isinstance(event, JoinReceived):
            self._join(event, start)
        elif not isinstance(event, Held):
            link: ChannelLink = event.membership.channel
            start(link.inbox, link.leave if isinstance(event, LeaveReceived) else link.handle_in, event.message)

    def _join(self, join: JoinReceived, start: Callable[[Inbox, Any, Any], None]) -> None:
        if join.replaced is not None:
            log.debug("duplicate join of %r: the newer one wins", join.membership.topic)
            join.replaced.channel.end("duplicate_join", start)
        link = join.membership.channel = ChannelLink(self, self.protocol, self.lane, join, self._redo)
        start(link.inbox, link.join, join)

    def _redo(self, message: Message) -> None:
        """Handle a message that waited for the end of a join."""
        event = self.protocol.dispatch(message)
        if event is not None:
            self.handle(event, Inbox.put)

    def _pace(self, link: ChannelLink) -> None:
        """Hold the reader back while a channel is too far behind."""
        while self.open and len(link.inbox) + len(link.membership.held) >= LIMIT:
            link.inbox.wait()

    def _end(self, reason: str) -> None:
        for membership in list(self.protocol.memberships.values()):
            membership.channel.end(reason)
        self.protocol.memberships.clear()
