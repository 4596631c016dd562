"""Frames over nothing: a client for tests, that joins, pushes and sees what comes back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import count
from typing import Any

import gevent
from flask import Flask, abort, request
from gevent.queue import Queue

from ..exceptions import NotPublished, PhoenixError, Refused
from ..extension import State
from ..protocol.messages import JOIN, LEAVE, REPLY, Frame, Message, Reply
from ..pubsub.adapter import RUNS_ALREADY, WRONG_THREAD, Adapter, Publisher
from ..pubsub.hub import thread_id
from ..runtime.connection import Carrier

log = logging.getLogger("flask_phoenix.pubsub")

#: Seconds that something expected may take.
TIMEOUT = 2.0
#: Seconds in which something refuted must not come.
QUIET = 0.05

#: The header fields of the binary frames that a server sends, by their first byte.
LAYOUTS = (("join_ref", "topic", "event"), ("join_ref", "ref", "topic", "status"), ("topic", "event"))


class Client:
    """One connection to an app, through its handshake and its engine, without a network.

    ``before_request`` functions run, cookies and headers count, every frame passes the real serializer. It speaks vsn
    2.0.0, and needs a socket with channels.

    :param path: where the socket is mounted, with its variables filled in: ``"/shop/7"``.
    :param params: the client's parameters.
    :param headers: of the handshake request, such as an Origin or a Cookie.
    :raises Refused: the socket refuses.
    :raises werkzeug.exceptions.HTTPException: the handshake refuses, for its origin or version.
    """

    def __init__(
        self, app: Flask, path: str = "/socket", params: dict[str, Any] | None = None, headers: Any = None
    ) -> None:
        self._arrived: Queue[Message] = Queue()
        self._kept: list[Message] = []
        self._refs = count(1)
        #: The close code and the reason, once the server has closed the connection.
        self.closed: tuple[int, str] | None = None
        state: State = app.extensions["phoenix"]
        query = {"vsn": "2.0.0", **(params or {})}
        with app.test_request_context(f"{path}/websocket", query_string=query, headers=headers):
            answer = app.preprocess_request()
            if answer is not None:
                abort(app.make_response(answer))
            endpoint = state.endpoint(request.endpoint)
            self._connection = endpoint.accept(MemoryCarrier(self), request.view_args or {})
        self._connection.opened()

    def join(self, topic: str, payload: Any = None) -> Joined:
        """Join a topic.

        :raises Refused: the channel refuses; the exception carries the response.
        """
        ref = next(self._refs)
        self._send(Message(str(ref), str(ref), topic, JOIN, {} if payload is None else payload))
        reply = self.reply(str(ref))
        if reply.status != "ok":
            raise Refused(reply.response)
        return Joined(self, topic, str(ref), reply.response)

    def push(self, topic: str, event: str, payload: Any, join_ref: str | None = None) -> str:
        """Send an event, with bytes as a binary frame; return its ref."""
        ref = str(next(self._refs))
        self._send(Message(join_ref, ref, topic, event, payload))
        return ref

    def reply(self, ref: str, within: float = TIMEOUT) -> Reply:
        """Wait for the reply to a ref.

        :raises AssertionError: it does not come.
        """
        message = self.receive(
            lambda message: message.event == REPLY and message.ref == ref, f"a reply to {ref}", within
        )
        return Reply(message.payload["status"], message.payload["response"])

    def receive(self, fits: Callable[[Message], bool], what: str = "a message", within: float = TIMEOUT) -> Message:
        """Wait for the first message that fits; the others are kept for later.

        :raises AssertionError: none comes.
        """
        message = self._take(fits, within)
        if message is None:
            raise AssertionError(f"expected {what} within {within} s; what came: {self._kept}")
        return message

    def refute(self, fits: Callable[[Message], bool], what: str = "message", within: float = QUIET) -> None:
        """See that no message comes that fits.

        :raises AssertionError: one does.
        """
        message = self._take(fits, within)
        if message is not None:
            raise AssertionError(f"expected no {what}; got {message}")

    def close(self) -> None:
        """Go away, as when a page is closed."""
        self._connection.closed("closed")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, message: Message) -> None:
        self._connection.receive(write_client_frame(message))

    def _take(self, fits: Callable[[Message], bool], within: float) -> Message | None:
        for message in self._kept:
            if fits(message):
                self._kept.remove(message)
                return message
        timeout = gevent.Timeout.start_new(within)
        try:
            while not fits(message := self._arrived.get()):
                self._kept.append(message)
            return message
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            return None
        finally:
            timeout.close()


class Joined:
    """A topic that a :class:`Client` has joined."""

    def __init__(self, client: Client, topic: str, join_ref: str, response: Any) -> None:
        self.client = client
        self.topic = topic
        self.join_ref = join_ref
        #: The response of the join's reply.
        self.response = response

    def push(self, event: str, payload: Any = None) -> str:
        """Send an event; return its ref, for :meth:`Client.reply`."""
        return self.client.push(self.topic, event, {} if payload is None else payload, self.join_ref)

    def call(self, event: str, payload: Any = None, within: float = TIMEOUT) -> Reply:
        """Send an event and wait for the reply.

        :raises AssertionError: it does not come.
        """
        return self.client.reply(self.push(event, payload), within)

    def leave(self) -> Reply:
        """Leave the topic."""
        return self.call(LEAVE)

    def expect(self, event: str, within: float = TIMEOUT) -> Any:
        """Wait for an event, pushed or broadcast; return its payload.

        :raises AssertionError: it does not come.
        """
        return self.client.receive(self._fits(event), f"{event!r} on {self.topic!r}", within).payload

    def refute(self, event: str, within: float = QUIET) -> None:
        """See that an event does not come.

        :raises AssertionError: it does.
        """
        self.client.refute(self._fits(event), f"{event!r} on {self.topic!r}", within)

    def _fits(self, event: str) -> Callable[[Message], bool]:
        # What the JavaScript client checks: a frame with another join_ref belongs to a channel that is gone.
        refs = (None, self.join_ref)
        return lambda message: message.event == event and message.topic == self.topic and message.join_ref in refs


class MemoryAdapter(Adapter):
    """Joins several apps in one process, as another adapter joins the nodes of a network.

    ``Phoenix(adapter=MemoryAdapter(network))`` with the same list for each app.
    """

    def __init__(self, network: list[MemoryAdapter]) -> None:
        self._network = network
        self._topics: set[str] = set()

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Join the network.

        :raises PhoenixError: it is of the network already.
        """
        if self in self._network:
            raise PhoenixError(RUNS_ALREADY)
        self._thread = thread_id()
        self.node = node
        self._receive = receive
        self._gone = gone
        self._loop = gevent.get_hub().loop
        self._network.append(self)

    def stop(self) -> None:
        """Leave the network; the others hear of it."""
        if self in self._network:
            self._network.remove(self)
            self._topics.clear()
            for other in self._network:
                other._loop.run_callback_threadsafe(other._tell, other._gone, self.node)

    def subscribe(self, topic: str) -> None:
        """Ask for a topic.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        self._topics.add(topic)

    def unsubscribe(self, topic: str) -> None:
        """Ask for a topic no more.

        :raises PhoenixError: it is called in another thread than :meth:`start`.
        """
        self._check_thread()
        self._topics.discard(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every other node that asks for the topic, in the next turns of the event loop.

        :raises NotPublished: this one is not of the network.
        """
        if self not in self._network:
            raise NotPublished("this adapter is not started: an app starts its own, with the first connection")
        for other in list(self._network):
            if other is not self and topic in other._topics:
                other._loop.run_callback_threadsafe(other._hear, topic, data)

    def publisher(self) -> Publisher:
        """Make what publishes to the network from outside."""
        return MemoryPublisher(self._network)

    def _hear(self, topic: str, data: bytes) -> None:
        if topic in self._topics and self in self._network:
            self._tell(self._receive, topic, data)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            log.exception("%s, told of %r, failed", function, args)

    def _check_thread(self) -> None:
        if self in self._network and thread_id() != self._thread:
            raise PhoenixError(WRONG_THREAD)


class MemoryPublisher(Publisher):
    """Publishes to a network of :class:`MemoryAdapter`, without being one of them."""

    def __init__(self, network: list[MemoryAdapter]) -> None:
        self._network = network

    def publish(self, topic: str, data: bytes) -> None:
        """Hand data to every node that asks for the topic.

        :raises NotPublished: nobody is there.
        """
        if not self._network:
            raise NotPublished("no app of this network serves anybody yet: one does with its first connection")
        for node in list(self._network):
            if topic in node._topics:
                node._loop.run_callback_threadsafe(node._hear, topic, data)

    def close(self) -> None:
        """Hold nothing."""


class MemoryCarrier(Carrier):
    """Carries frames to a :class:`Client`."""

    transport = "websocket"
    stream = False

    def __init__(self, client: Client) -> None:
        self._client = client
        self.to_wire = read_server_frame
        self.write = client._arrived.put_nowait

    def close(self, code: int, reason: str) -> None:
        """Tell the client."""
        self._client.closed = code, reason


def write_client_frame(message: Message) -> Frame:
    """Write a message as a client of vsn 2.0.0 does: bytes in a binary frame, anything else as JSON."""
    if not isinstance(message.payload, bytes):
        return json.dumps(message)
    fields = [str(field or "").encode() for field in message[:4]]
    return bytes([0, *map(len, fields)]) + b"".join(fields) + message.payload


def read_server_frame(frame: Frame) -> Message:
    """Read a frame as a client of vsn 2.0.0 does."""
    if isinstance(frame, str):
        return Message(*json.loads(frame))
    names = LAYOUTS[frame[0]]
    fields: dict[str, str | None] = {}
    start = 1 + len(names)
    for name, size in zip(names, frame[1:start], strict=True):
        fields[name], start = frame[start : start + size].decode() or None, start + size
    payload: Any = frame[start:]
    if "status" in fields:
        payload = {"status": fields["status"], "response": payload}
    return Message(fields.get("join_ref"), fields.get("ref"), fields["topic"], fields.get("event", REPLY), payload)
