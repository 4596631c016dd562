"""A client of an app for its tests: it joins, pushes, and waits for what comes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import gevent
from flask import Flask, abort, request
from gevent.queue import Queue

from ..exceptions import Refused
from ..extension import State
from ..protocol.messages import JOIN, LEAVE, REPLY, Message, Reply
from .frames import write_client_frame
from .in_memory import MemoryCarrier

#: Seconds within which an expected message has to come.
EXPECT_WITHIN = 2.0
#: Seconds for which a refuted message is waited for.
REFUTE_WITHIN = 0.05


class Client:
    """One client of an app, through the app's real handshake, engine and serializer, without a network.

    ``before_request`` functions run; cookies and headers count. It speaks vsn 2.0.0, and needs a socket with channels.

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
        self._carrier = MemoryCarrier(self._arrived.put_nowait)
        state: State = app.extensions["phoenix"]
        query = {"vsn": "2.0.0", **(params or {})}
        with app.test_request_context(f"{path}/websocket", query_string=query, headers=headers):
            answer = app.preprocess_request()
            if answer is not None:
                abort(app.make_response(answer))
            endpoint = state.endpoint(request.endpoint)
            self._connection = endpoint.accept(self._carrier, request.view_args or {})
        self._connection.opened()

    @property
    def closed(self) -> tuple[int, str] | None:
        """The close code and the reason, once the server has closed the connection."""
        return self._carrier.closed

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

    def reply(self, ref: str, within: float = EXPECT_WITHIN) -> Reply:
        """Wait for the reply to a ref.

        :raises AssertionError: it does not come.
        """
        message = self.receive(
            lambda message: message.event == REPLY and message.ref == ref, f"a reply to {ref}", within
        )
        return Reply(message.payload["status"], message.payload["response"])

    def receive(
        self, fits: Callable[[Message], bool], what: str = "a message", within: float = EXPECT_WITHIN
    ) -> Message:
        """Wait for the first message that fits; the others are kept for later.

        :raises AssertionError: none comes.
        """
        message = self._take(fits, within)
        if message is None:
            raise AssertionError(f"expected {what} within {within} s; what came: {self._kept}")
        return message

    def refute(self, fits: Callable[[Message], bool], what: str = "message", within: float = REFUTE_WITHIN) -> None:
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

    def call(self, event: str, payload: Any = None, within: float = EXPECT_WITHIN) -> Reply:
        """Send an event and wait for the reply.

        :raises AssertionError: it does not come.
        """
        return self.client.reply(self.push(event, payload), within)

    def leave(self) -> Reply:
        """Leave the topic."""
        return self.call(LEAVE)

    def expect(self, event: str, within: float = EXPECT_WITHIN) -> Any:
        """Wait for an event, pushed or broadcast; return its payload.

        :raises AssertionError: it does not come.
        """
        return self.client.receive(self._fits(event), f"{event!r} on {self.topic!r}", within).payload

    def refute(self, event: str, within: float = REFUTE_WITHIN) -> None:
        """See that an event does not come.

        :raises AssertionError: it does.
        """
        self.client.refute(self._fits(event), f"{event!r} on {self.topic!r}", within)

    def _fits(self, event: str) -> Callable[[Message], bool]:
        # What the JavaScript client checks: a frame with another join_ref belongs to a channel that is gone.
        refs = (None, self.join_ref)
        return lambda message: message.event == event and message.topic == self.topic and message.join_ref in refs
