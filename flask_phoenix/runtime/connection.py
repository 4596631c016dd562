"""One client as the runtime runs it, the interface of what carries its frames, and clients of a RawSocket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from contextvars import Context
from itertools import count
from typing import Any, NamedTuple

from .. import clock
from ..exceptions import InvalidPayload, Refused
from ..protocol.messages import DISCONNECT, DISCONNECT_TOPIC, Broadcast, Frame, shown
from ..protocol.serializers import Serializer
from ..pubsub.local import Delivery, Each, Lane, Subscriber, Write, call_each
from ..signals import broadcast_missed, slow_client, socket_connected, socket_disconnected
from ..socket import BaseSocket, RawSocket
from .budget import Account, ignore_close
from .engine import FAILURES, Engine
from .expiry import Expiry
from .inbox import EMPTY, INBOX_LIMIT, Inbox
from .logs import identified

log = logging.getLogger("flask_phoenix.connection")

#: So many frames are written, or a frame of so many bytes, without waiting for the end of the turn.
FLUSH_FRAMES = 32
FLUSH_BYTES = 16384

#: The connections of this process are numbered.
numbers = count(1)

#: The limits that a client has reached, until it has.
NOTHING_REACHED: frozenset[str] = frozenset()

GOING_AWAY = 1001
#: The close code of a connection that ends without one (RFC 6455, 7.1.5).
ABNORMAL_CLOSURE = 1006
INTERNAL_ERROR = 1011


class Carrier:
    """Carries the frames of one client; each transport implements it."""

    __slots__ = ()

    #: How the author sees this transport: ``"websocket"`` or ``"longpoll"``.
    transport: str
    #: Turns a frame into what :attr:`write` takes.
    to_wire: Callable[[Frame], Any]
    #: Writes at once, or queues within bounds; never blocks, never raises, never fails but by ending the connection.
    write: Write
    #: What :attr:`write` takes is bytes of a stream: pieces may be glued together.
    stream: bool
    #: Of broadcasts that wait for the client, those with the same key of their channel's may be replaced by the newest.
    conflates: bool = False
    #: Writes the same to many clients of this carrier's kind.
    each: Each = staticmethod(call_each)

    @property
    def waiting(self) -> int:
        """Bytes, or characters, that wait for the client."""
        return 0

    def lane(self, serializer: Serializer) -> Lane:
        """Return how broadcasts are written for this client; equal for all that can share the writing."""
        return Lane(serializer, self.to_wire, self.stream, self.each)

    def close(self, code: int, reason: str) -> None:
        """Tell the client that the connection ends, and end it."""
        raise NotImplementedError


class Surroundings(NamedTuple):
    """What the callbacks for one client run in."""

    #: The context variables that each starts from.
    context: Context
    #: Makes the application context of each.
    app_context: Callable[[], AbstractContextManager[Any]]


class Bounds(NamedTuple):
    """What the mount's options say of each client."""

    #: Bytes of messages that wait, in one channel and in all of one client, before it is read no further.
    inbox_limit: int = 1 << 20
    #: Seconds that the author's code may take for a join; None: any time.
    join_timeout: float | None = 60.0
    #: Seconds before its ``expires_at`` at which a client is told.
    expiry_notice: float = 60.0
    #: Where it is mounted.
    mount: str = ""


BOUNDS = Bounds()


class Connection:
    """One client as the runtime runs it.

    Its carrier calls :meth:`opened` first, :meth:`receive` with each frame, and :meth:`closed` when nothing can be
    carried any more.

    :param name: the socket's id, for ``phoenix.disconnect``.
    :param surroundings: what callbacks for this client run in.
    """

    __slots__ = (
        "_disconnect",
        "_id_wait",
        "_pieces",
        "_reached",
        "_since",
        "account",
        "app_context",
        "bounds",
        "carrier",
        "context",
        "engine",
        "expiry",
        "id",
        "missed_count",
        "number",
        "open",
        "pace",
        "socket",
        "topics",
        "trace",
    )

    def __init__(
        self,
        engine: Engine,
        socket: BaseSocket,
        name: str | None,
        carrier: Carrier,
        surroundings: Surroundings | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.engine = engine
        self.bounds = bounds or BOUNDS
        #: What of this client's messages waits for the author's code.
        self.account = Account(engine.budget, self.close, self.bounds.inbox_limit)
        #: Tells this connection from others in log lines.
        self.number = next(numbers)
        context, self.app_context = surroundings or Surroundings(EMPTY, engine.context)
        self.context = identified(context, self.number)
        self.socket = socket
        self.carrier = carrier
        self.id = name
        #: The topics whose broadcasts go to this client.
        self.topics: Collection[str] = ()
        self.open = False
        #: Waits for the turn of this client's next message, where there is a rate; returns False if it is gone then.
        self.pace: Callable[[], bool] | None = None
        #: Closes the connection in time, where the socket says when.
        self.expiry: Expiry | None = None
        self._reached = NOTHING_REACHED
        #: How many broadcasts this client went without, since its transport or its vsn cannot carry them.
        self.missed_count = 0
        self._pieces: list[Any] | None = None
        self._disconnect = Subscriber(self._receive_disconnect) if name is not None else None
        #: The trace of its handshake, where traces are written.
        self.trace = ""
        #: When it was opened.
        self._since = 0.0
        #: How many seconds the other nodes took to know the id, and when they did.
        self._id_wait = (0.0, 0.0)

    def opened(self) -> None:
        """Begin: frames can be carried."""
        self.engine.serve()
        self.open, self._since = True, clock.monotonic()
        self.engine.connections.add(self)
        self.engine.tell(socket_connected, connection=self, mount=self.bounds.mount)
        if self.id is not None and (disconnect := self._disconnect) is not None:
            began = clock.monotonic()
            self.engine.pubsub.subscribe(self.id, disconnect)
            self._id_wait = ((now := clock.monotonic()) - began, now)
            if not self.open:  # ended meanwhile
                self.engine.pubsub.unsubscribe(self.id, disconnect)
        if self.socket.expires_at is not None:
            self.expire()

    def expire(self) -> None:
        """Close the connection when the socket says, which may be another time than before."""
        if self.open:
            self.expiry = self.expiry or Expiry(self.socket, self.bounds.expiry_notice, self.tell_expiring, self.close)
            self.expiry.start()

    def tell_expiring(self, left: float) -> None:
        """Tell the client that it has so many seconds left; here, there is nobody to tell."""

    def time_to_confirm(self) -> float | None:
        """Return the seconds that a join may wait for the other nodes, where these are fewer than the adapter's own.

        It may have come while they were told the id, which took a part of that time.
        """
        spent, known = self._id_wait
        adapter = self.engine.node.adapter
        if adapter is None or not spent or clock.monotonic() - known > adapter.subscribe_timeout:
            return None
        return adapter.subscribe_timeout - spent

    def receive(self, frame: Frame) -> None:
        """Handle a frame from the client; may block while too many wait for the author's code.

        :raises InvalidMessage: the frame is no message; the carrier is to close with 1011.
        """
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        """Send a frame after everything that was caused before it; from any thread."""
        engine, carrier = self.engine, self.carrier
        hub, data = engine.hub, carrier.to_wire(frame)
        if engine.meter is not None:
            engine.meter.send(1, len(data))
        if hub.owes(self, self.topics):
            hub.put(Delivery(self, data, [carrier.write], carrier.stream))
        elif not carrier.stream:
            carrier.write(data)
        else:
            pieces = self._pieces
            if pieces is None:
                pieces = self._pieces = []
                hub.at_end_of_turn(self.flush)
            pieces.append(data)
            if len(pieces) == FLUSH_FRAMES or len(data) > FLUSH_BYTES:
                self.flush()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call an author's function in an application context of its own; the app is told of its failure, too.

        :raises BaseException: what the function raises.
        """
        with self.app_context():
            try:
                return function(*arguments)
            except Refused:
                raise
            except FAILURES as failure:
                self.engine.report(failure)
                raise

    def flush(self) -> None:
        """Write what was sent in this turn of the event loop, in one piece."""
        pieces, self._pieces = self._pieces, None
        if pieces:
            self.carrier.write(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def reach(self, limit: str) -> bool:
        """Count that this client has reached a limit; return whether for the first time, which is to be logged."""
        self.engine.reach(limit, connection=self)
        first = limit not in self._reached
        self._reached |= {limit}
        return first

    def tell_slow(self, size: int) -> None:
        """Tell that this client reads too slowly, while so many bytes wait for it."""
        self.engine.tell(slow_client, connection=self, mount=self.bounds.mount, size=size)

    def missed(self, broadcast: Broadcast, error: InvalidPayload) -> None:
        """Count a broadcast that this client cannot be sent; the first is logged."""
        self.missed_count += 1
        self.engine.missed += 1
        self.engine.tell(
            broadcast_missed, connection=self, mount=self.bounds.mount, topic=broadcast.topic, event=broadcast.event
        )
        if self.missed_count == 1:
            log.warning(
                "%s: a client goes without %s on %s, and without others like it: %s",
                type(self.socket).__name__,
                shown(broadcast.event),
                shown(broadcast.topic),
                error,
            )

    def close(self, code: int, reason: str) -> None:
        """Close the connection from this side; its channels end at once, for this reason."""
        if self.open:
            self.closed(reason, code)
            try:
                self.flush()
                self.carrier.close(code, reason)
            except Exception:  # of a carrier; who closes many connections closes the others all the same
                log.exception("a carrier of %s failed to close connection %d", type(self.socket).__name__, self.number)

    def closed(self, reason: str, code: int = ABNORMAL_CLOSURE) -> None:
        """End: nothing can be written any more. A second call does nothing."""
        if self.open:
            self.open = False
            self.engine.connections.discard(self)
            if self.expiry is not None:
                self.expiry.end()
            if self.id is not None and self._disconnect is not None:
                self.engine.pubsub.unsubscribe(self.id, self._disconnect)
            self.expiry = self._disconnect = self.pace = None
            self._end(reason)
            self.account.end()
            if socket_disconnected.receivers:
                self.engine.tell(
                    socket_disconnected,
                    connection=self,
                    mount=self.bounds.mount,
                    code=code,
                    reason=reason,
                    seconds=self.seconds,
                )

    @property
    def seconds(self) -> float:
        """How long this connection has been open, or was."""
        return clock.monotonic() - self._since

    def _end(self, reason: str) -> None:
        raise NotImplementedError

    def _receive_disconnect(self, broadcast: Broadcast) -> None:
        if broadcast.event == DISCONNECT:
            self.close(GOING_AWAY, "disconnected")
        elif broadcast.event == DISCONNECT_TOPIC:
            self.disconnect_topic(self.engine.pubsub.read(broadcast).payload["topic"])

    def disconnect_topic(self, topic: str) -> None:
        """End the channel of a topic; here, there are none."""

    def channel_over(self, channel: Any) -> None:
        """Take note that a channel has terminated; here, there are none."""

    def observe(self) -> None:
        """Take note that handlers are measured from now on, or no more; here, none are."""


def ignore_frame(frame: Frame) -> None:
    """Send a frame to a client that is gone."""


class RawConnection(Connection):
    """A client of a :class:`.RawSocket`: the author handles its frames."""

    __slots__ = ("_inbox",)

    socket: RawSocket

    def __init__(
        self,
        engine: Engine,
        socket: RawSocket,
        name: str | None,
        carrier: Carrier,
        surroundings: Surroundings | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        super().__init__(engine, socket, name, carrier, surroundings, bounds)
        self._inbox = Inbox(engine.runners, self.context, self.account)
        socket.bind(self.send, self.close)

    def opened(self) -> None:
        """Begin, and call the socket's ``open``."""
        super().opened()
        if self.open:
            self._inbox.put(self._call, (self.socket.open,))

    def receive(self, frame: Frame) -> None:
        """Hand a frame to the author; frames are handled one at a time."""
        if self.engine.meter is not None:
            self.engine.meter.receive(len(frame))
        if self.pace is not None and not self.pace():
            return
        self._inbox.hand_off(self._call, (self.socket.handle_frame, frame), len(frame))
        while self.open and len(self._inbox) >= INBOX_LIMIT:
            self._inbox.wait()
        self.account.wait()

    def _call(self, call: tuple[Any, ...]) -> None:
        function, *arguments = call
        try:
            self.call(function, *arguments)
        except FAILURES as failure:
            log.exception(
                "%s failed in %s (connection %d), which is closed",
                type(self.socket).__name__,
                getattr(function, "__name__", function),
                self.number,
            )
            self.close(INTERNAL_ERROR, "crashed")
            self.engine.caught(failure)

    def _end(self, reason: str) -> None:
        self._inbox.clear()
        self._inbox.put(self._terminate, reason)

    def _terminate(self, reason: str) -> None:
        self._call((self.socket.terminate, reason))
        self.socket.bind(ignore_frame, ignore_close)
