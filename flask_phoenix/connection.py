"""The engine: one client's socket, its channels, their inboxes and greenlets, the way out."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import gevent

from .codec import Json
from .envelope import pack, unpack
from .exceptions import InvalidPayload, PhoenixError
from .hub import Hub
from .inbox import LIMIT, Inbox, Workers
from .message import DISCONNECT, Broadcast, Frame
from .pubsub import Adapter, Delivery, Each, Lane, PubSub, Subscriber, Write, call_each
from .serializer import Serializer
from .socket import BaseSocket, RawSocket

log = logging.getLogger(__name__)

#: What an author's code may end with. A handler that exits, is killed or runs out of time is a handler that crashed.
FAILURES = (Exception, gevent.GreenletExit, gevent.Timeout, SystemExit)

#: Seconds between two looks at whether all is quiet.
LOOK = 0.02

#: So many frames, or a frame of so many bytes, are written before the turn ends.
MANY = 32
LARGE = 16384

GOING_AWAY = 1001
INTERNAL_ERROR = 1011


class Carrier:
    """What carries one client's frames; each transport implements it."""

    #: How the author sees this transport: ``"websocket"``.
    transport: str
    #: Turns a frame into what :attr:`write` takes.
    frame: Callable[[Frame], Any]
    #: Writes at once, or queues within bounds; never blocks, never raises, never fails but by ending the connection.
    write: Write
    #: What :attr:`write` takes is bytes of a stream: pieces may be glued together.
    stream: bool
    #: Writes the same to many clients of this carrier's kind.
    each: Each = staticmethod(call_each)

    def lane(self, serializer: Serializer) -> Lane:
        """Return how broadcasts are written for this client; equal for all that can share the writing."""
        return Lane(serializer, self.frame, self.stream, self.each)

    def close(self, code: int, reason: str) -> None:
        """Say goodbye and end."""
        raise NotImplementedError


class Engine:
    """What the connections of one app share in one process.

    :param context: makes the context in which each callback of an author runs.
    :param adapter: the way to other nodes.
    """

    def __init__(
        self, context: Callable[[], AbstractContextManager[Any]], json: Json, adapter: Adapter | None = None
    ) -> None:
        self.context = context
        self.adapter = adapter
        self._json = json
        self.hub = Hub()
        self.pubsub = PubSub(self.hub.put, adapter)
        self.workers = Workers()
        self.connections: set[Connection] = set()
        #: The server of this process has been looked at.
        self.joined_server = False
        #: The process is about to end: nobody is let in any more.
        self.draining = False
        #: The name of this process among all; made in it, and empty before it starts.
        self.node = ""
        self._roads = 0

    def serve(self) -> None:
        """Start what connections need, in the process and the thread that serve them; a second call does nothing."""
        self.hub.start()
        self._start()

    def stop(self) -> None:
        """Stop what runs for the connections, which are to be closed by then."""
        if self.adapter is not None and self.node:
            self.adapter.stop()
        self.node = ""
        self.hub.stop()
        self.workers.close()

    def _start(self) -> None:
        if not self.node:
            self.node = secrets.token_hex(8)
            if self.adapter is not None:
                self.adapter.start(self.node, self._received, self._gone)

    def _received(self, topic: str, data: bytes) -> None:
        """Deliver what another node has published."""
        try:
            self.pubsub.broadcast(unpack(topic, data, self._json))
        except PhoenixError:
            log.exception("a broadcast of another node on %r is lost", topic)

    def _gone(self, node: str) -> None:
        """Hear that another node has ended."""
        log.info("node %s has ended", node)

    @contextmanager
    def carrying(self) -> Iterator[None]:
        """Count a road from its begin to its very end, behind that of its connection."""
        self._roads += 1
        try:
            yield
        finally:
            self._roads -= 1

    def wait_until_quiet(self, seconds: float) -> None:
        """Wait, so long at most, until no road is left and no author's code runs."""
        while seconds > 0 and (self._roads or self.workers.busy):
            gevent.sleep(LOOK)
            seconds -= LOOK

    def broadcast(self, broadcast: Broadcast, sender: Subscriber | None = None, local: bool = False) -> None:
        """Hand a broadcast to everybody who hears its topic; from any thread.

        :param local: to nobody on other nodes.
        :raises InvalidPayload: somebody here cannot take the payload; nobody has been served then.
        :raises NotPublished: other nodes cannot be reached; clients of this node have got it.
        """
        if not isinstance(broadcast.topic, str) or not isinstance(broadcast.event, str):
            raise InvalidPayload(
                f"topic and event of a broadcast are strings; got {broadcast.topic!r}, {broadcast.event!r}"
            )
        if self.hub.elsewhere:
            # It is delivered later: as it is now, and with its errors raised here.
            broadcast = broadcast._replace(payload=deepcopy(broadcast.payload))
            self.pubsub.check(broadcast)
        adapter = None if local else self.adapter
        packed = pack(broadcast, self._json) if adapter is not None else b""
        self.hub.call(self.pubsub.broadcast, broadcast, sender)
        if adapter is not None:
            self._start()
            adapter.publish(broadcast.topic, packed)


class Connection:
    """One client, as the engine runs it.

    Its carrier feeds :meth:`receive`, calls :meth:`closed` when the road has ended, and is written to through
    :meth:`send`.
    """

    def __init__(self, engine: Engine, socket: BaseSocket, name: str | None, carrier: Carrier) -> None:
        self.engine = engine
        self.socket = socket
        self.carrier = carrier
        #: What the socket's id names, for ``phoenix.disconnect``.
        self.id = name
        #: The topics whose broadcasts go to this client.
        self.topics: Collection[str] = ()
        self.open = False
        self._pieces: list[Any] = []
        self._disconnect = Subscriber(self._told)

    def opened(self) -> None:
        """Begin: the road is open."""
        self.engine.serve()
        self.open = True
        self.engine.connections.add(self)
        if self.id is not None:
            self.engine.pubsub.subscribe(self.id, self._disconnect)

    def receive(self, frame: Frame) -> None:
        """Handle a frame from the client; may block for as long as the client is too far ahead of its handlers.

        :raises InvalidMessage: the frame is no message; the carrier is to close with 1011.
        """
        raise NotImplementedError

    def send(self, frame: Frame) -> None:
        """Send a frame behind everything that was caused before it; from any thread."""
        hub, carrier = self.engine.hub, self.carrier
        data = carrier.frame(frame)
        if hub.owes(self, self.topics):
            hub.put(Delivery(self, data, [carrier.write], carrier.stream))
        elif not carrier.stream:
            carrier.write(data)
        else:
            if not self._pieces:
                hub.at_turn(self.flush)
            self._pieces.append(data)
            if len(self._pieces) == MANY or len(data) > LARGE:
                self.flush()

    def flush(self) -> None:
        """Write what was sent in this turn of the event loop, in one piece."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            self.carrier.write(b"".join(pieces) if len(pieces) > 1 else pieces[0])

    def close(self, code: int, reason: str) -> None:
        """Close the connection from this side; its channels end at once, for this reason."""
        if self.open:
            self.closed(reason)
            self.flush()
            self.carrier.close(code, reason)

    def closed(self, reason: str) -> None:
        """End: nothing can be written any more. A second call does nothing."""
        if self.open:
            self.open = False
            self.engine.connections.discard(self)
            if self.id is not None:
                self.engine.pubsub.unsubscribe(self.id, self._disconnect)
            self._end(reason)

    def _end(self, reason: str) -> None:
        raise NotImplementedError

    def _told(self, broadcast: Broadcast) -> None:
        if broadcast.event == DISCONNECT:
            self.close(GOING_AWAY, "disconnected")


class RawConnection(Connection):
    """A client whose frames the author handles: see :class:`.socket.RawSocket`."""

    socket: RawSocket

    def __init__(self, engine: Engine, socket: RawSocket, name: str | None, carrier: Carrier) -> None:
        super().__init__(engine, socket, name, carrier)
        self._inbox = Inbox(engine.workers)
        socket.bind(self.send, self.close)

    def opened(self) -> None:
        """Begin, and let the author speak first."""
        super().opened()
        self._inbox.put(self._call, (self.socket.open,))

    def receive(self, frame: Frame) -> None:
        """Hand a frame to the author; frames are handled one at a time."""
        self._inbox.hand_off(self._call, (self.socket.handle_frame, frame))
        while self.open and len(self._inbox) >= LIMIT:
            self._inbox.wait()

    def _call(self, call: tuple[Any, ...]) -> None:
        function, *arguments = call
        try:
            with self.engine.context():
                function(*arguments)
        except FAILURES:
            log.exception("%s failed; its connection is closed", type(self.socket).__name__)
            self.close(INTERNAL_ERROR, "crashed")

    def _end(self, reason: str) -> None:
        self._inbox.clear()
        self._inbox.put(self._call, (self.socket.terminate, reason))
