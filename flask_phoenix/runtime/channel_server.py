"""One channel, as the engine runs it: what happens to it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..channel import GRACEFUL, Channel, as_reply
from ..exceptions import PhoenixError, Refused
from ..protocol.messages import Broadcast, Frame, Message, Reply
from ..protocol.state import JOIN_CRASHED, OK, JoinReceived, Protocol
from ..pubsub.local import Lane
from .connection import Connection
from .engine import FAILURES
from .inbox import LIMIT, Inbox
from .standing import Standing


class ChannelLink(Standing):
    """One channel, as the engine runs it: its inbox, its callbacks, its end.

    :param redo: handles a message that waited for the end of the join.
    """

    __slots__ = ("_redo", "channel", "ended", "inbox", "stopping")

    def __init__(
        self,
        connection: Connection,
        protocol: Protocol,
        lane: Lane,
        join: JoinReceived,
        redo: Callable[[Message], None],
    ) -> None:
        intercepted, heard = partial(self._told, self._pass_out), partial(self._told, self._inform)
        super().__init__(connection, protocol, lane, join, intercepted, heard)
        self._redo = redo
        self.inbox = Inbox(connection.engine.workers, self._settle)
        #: The author's object, made by the join.
        self.channel: Any = None
        self.ended = False
        #: What :meth:`stop` was given, in a tuple.
        self.stopping: tuple[Any] | None = None

    # What the connection asks for; each is a call in the inbox, but for the end.

    def join(self, join: JoinReceived) -> None:
        """Let the author decide, answer, and go on with what waited meanwhile."""
        reply = self._decide(join)
        if self.ended:
            return
        connection, protocol = self.connection, self.protocol
        try:
            frame = self._admit(join, reply) if reply.status == "ok" else protocol.refuse(join, reply)
        except FAILURES:
            self._log("cannot be joined")
            reply, frame = JOIN_CRASHED, protocol.refuse(join, JOIN_CRASHED)
        if frame is None:
            return
        connection.send(frame)
        if join.replaced is not None:
            connection.send(protocol.close(join.replaced))
        if not self.joined:
            protocol.forget(self.membership)
        for message in protocol.release(self.membership):
            self._redo(message)
        if self.joined:
            self._run(self.channel.after_join)
        elif reply is JOIN_CRASHED:
            self.ended = True
            self._forget()
        else:
            self.end("shutdown")

    def handle_in(self, message: Message) -> None:
        """Let the author handle an event, and answer."""
        self._message = message
        try:
            with self.connection.engine.context():
                reply = self.channel.dispatch(message.event, message.payload)
            if reply is not None:
                self._answer(message.ref, reply)
        except Refused as refused:
            self._run(self._answer, message.ref, Reply("error", refused.response))
        except FAILURES as failure:
            self._crash(failure)
        finally:
            self._message = None

    def leave(self, message: Message) -> None:
        """Let the client go."""
        self._answer(message.ref, OK)
        self._close("left")

    def end(self, reason: Any, start: Callable[[Inbox, Any, Any], None] = Inbox.put) -> None:
        """End without a word on the wire; what runs may finish, then the author cleans up."""
        if self.ended:
            return
        self.ended = True
        self._forget()
        start(self.inbox, self._terminate, reason)

    # What the author asks for.

    def stop(self, reason: Any) -> None:
        """End the channel behind the callback that runs."""
        self.stopping = (reason,)
        self._later(lambda _: None)  # _settle comes behind it

    def send(self, message: Any) -> None:
        """Queue a message for the channel's own ``handle_info``."""
        self._later(self._inform, message)

    # How it is done.

    def _decide(self, join: JoinReceived) -> Reply:
        try:
            with self.connection.engine.context():
                channel = self._make()
                return as_reply(channel.join(join.message.payload), channel, "join") or OK
        except Refused as refused:
            return Reply("error", refused.response)
        except FAILURES:
            self._log("crashed in its join")
            return JOIN_CRASHED

    def _make(self) -> Channel:
        socket, route, topic = self.connection.socket, self._route, self.membership.topic
        channel: Channel = route.channel(self, topic, route.subtopic(topic), {**socket.assigns, **route.assigns})
        channel.params, channel.transport = socket.params, socket.transport
        self.channel = channel
        return channel

    def _admit(self, join: JoinReceived, reply: Reply) -> Frame | None:
        """Let the client in; None: it ended while the other nodes were told of its topic.

        Until they know it is not joined, and what it sends waits. Nothing comes between its topic and its reply.
        """
        try:
            self._ties.join()
        except FAILURES:
            if not self.ended:
                raise
        if self.ended:
            return None
        frame = self.protocol.accept(join, reply)
        self.joined = True
        return frame

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call an author's method; its failure is the channel's crash."""
        try:
            with self.connection.engine.context():
                function(*arguments)
        except FAILURES as failure:
            self._crash(failure)

    def _later(self, call: Callable[[Any], None], argument: Any = None) -> None:
        if not self.ended:
            self.connection.engine.hub.call(self.inbox.put, call, argument)

    def _inform(self, message: Any) -> None:
        if not self.ended:
            self._run(self.channel.handle_info, message)

    def _told(self, call: Callable[[Any], None], broadcast: Broadcast) -> None:
        """Queue a broadcast, within bounds."""
        if len(self.inbox) < LIMIT:
            self._later(call, broadcast)
        elif self.stopping is None:
            self.stop(PhoenixError(f"{LIMIT} messages wait: its callbacks are slower than its broadcasts"))

    def _pass_out(self, broadcast: Broadcast) -> None:
        if not self.ended:
            self._run(self.channel.dispatch_out, broadcast.event, broadcast.payload)

    def _settle(self) -> None:
        """Do what a stop asked for, behind the callback that asked."""
        if self.stopping is None or self.ended:
            return
        (reason,) = self.stopping
        if reason in GRACEFUL or (isinstance(reason, tuple) and reason[:1] == ("shutdown",)):
            self._close(reason)
        else:
            self._crash(reason)

    def _close(self, reason: Any) -> None:
        """End on purpose: the notice first, then the author's cleaning up (``channel/server.ex``)."""
        self.ended = True
        self.connection.send(self.protocol.close(self.membership))
        self._forget()
        self._terminate(reason)

    def _crash(self, reason: Any) -> None:
        """End by accident: cleaning up first, then the notice, by which the client knows to join again."""
        self._log("crashed", reason)
        if self.ended:
            return
        self.ended = True
        self._ties.release()
        self._terminate(reason)
        self.connection.send(self.protocol.crash(self.membership))
        self._forget()

    def _forget(self) -> None:
        """Let go of the topic, of all ties, and of what waits."""
        self.protocol.forget(self.membership)
        self.inbox.clear()
        self._ties.close()

    def _terminate(self, reason: Any) -> None:
        if self.channel is None:
            return
        try:
            with self.connection.engine.context():
                self.channel.terminate(reason)
        except FAILURES:
            self._log("failed to terminate")
