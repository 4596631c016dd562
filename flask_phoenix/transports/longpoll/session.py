"""Long-poll sessions: those of this process, their tokens, and requests to those of other nodes."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import Queue
from itsdangerous import BadData, URLSafeTimedSerializer

from ...exceptions import InvalidMessage, Unsupported
from ...protocol.messages import INTERNAL, Broadcast, Frame
from ...pubsub.local import Subscriber
from ...runtime.connection import INTERNAL_ERROR
from ...runtime.engine import Engine
from ..options import Options
from .carrier import LongPollCarrier

log = logging.getLogger("flask_phoenix.connection")

#: What a session answers: the statuses of ``transports/long_poll.ex``, which travel inside the body.
TAKEN, NOTHING, NOT_TAKEN, GONE = 200, 204, 408, 410

#: Stands before a line that is text whatever it looks like; base64 has no such character.
TEXT_MARK = "\t"

#: Stands for a body that cannot be read: it is no line of a batch, and so it ends the session as other nonsense does.
NOT_UTF8 = "(not UTF-8)"

#: Events on a session's private topic, and on the topic of one answer.
PING, POLL, DISPATCH, ACK, DONE = "ping", "poll", "dispatch", "ack", "done"


class Session:
    """One client's session, wherever it lives."""

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames: TAKEN with all there are, NOTHING, or GONE."""
        raise NotImplementedError

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines of a batch to the session, in order: TAKEN, NOT_TAKEN in time, or GONE."""
        raise NotImplementedError


class LocalSession(Session):
    """A session of this process."""

    def __init__(self, carrier: LongPollCarrier, max_frame_size: int) -> None:
        self.carrier = carrier
        self._max_frame_size = max_frame_size

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames, for a window at most."""
        frames = self.carrier.poll()
        if frames:
            return TAKEN, frames
        return (NOTHING if self.carrier.connection.open else GONE), []

    def dispatch(self, lines: list[str]) -> int:
        """Hand frames to the connection; a channel whose inbox is full delays them, for a window at most."""
        connection = self.carrier.connection
        timeout = gevent.Timeout.start_new(self.carrier.window)
        try:
            for line in lines:
                if not connection.open:
                    return GONE
                connection.receive(read_line(line, self._max_frame_size))
        except InvalidMessage as error:
            # Phoenix lets the POST run into its window; its answer is all that could be waited for.
            log.error("a client of %s sent what is no message: %s", type(connection.socket).__name__, error)
            connection.close(INTERNAL_ERROR, "invalid message")
            return NOT_TAKEN
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            return NOT_TAKEN
        finally:
            timeout.close()
        return TAKEN


class RemoteSession(Session):
    """A session of another node, spoken to through the pubsub (``transports/long_poll.ex`` does the same).

    :param pubsub_timeout: seconds in which the other node has to say that it has the session.
    """

    def __init__(self, engine: Engine, id: str, window: float, pubsub_timeout: float) -> None:
        self._engine = engine
        self._topic = topic_of(id)
        self._window = window
        self._pubsub_timeout = pubsub_timeout

    def alive(self) -> bool:
        """Ask whether the other node still has the session."""
        return self._ask(PING, {}) is not None

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames there."""
        answer = self._ask(POLL, {})
        return (answer["status"], answer["frames"]) if answer else (GONE, [])

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines over."""
        answer = self._ask(DISPATCH, {"lines": lines})
        return int(answer["status"]) if answer else GONE

    def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the session's node; None when nobody answers."""
        replies: Queue[Broadcast] = Queue()
        subscriber, reply_topic = Subscriber(replies.put), topic_of(secrets.token_urlsafe(16))
        self._engine.pubsub.subscribe(reply_topic, subscriber)
        try:
            self._engine.broadcast(Broadcast(self._topic, event, {**payload, "reply": reply_topic}))
            with gevent.Timeout(self._pubsub_timeout, exception=_NoAnswer):
                replies.get()
            with gevent.Timeout(self._window + self._pubsub_timeout, exception=_NoAnswer):
                answer: dict[str, Any] = replies.get().payload
                return answer
        except _NoAnswer:
            return None
        finally:
            self._engine.pubsub.unsubscribe(reply_topic, subscriber)


class _NoAnswer(Exception):
    """Nobody has that session."""


class Sessions:
    """The sessions of one mount in this process, by their tokens.

    :param keys: returns the app's secret keys, the one to sign with last.
    """

    def __init__(self, engine: Engine, salt: str, keys: Callable[[], list[Any]], options: Options) -> None:
        self._engine = engine
        self._salt = salt
        self._keys = keys
        self._options = options
        self._local: dict[str, LocalSession] = {}
        #: What hears the requests that other nodes hand over, by the ids of the sessions.
        self._requests: dict[str, Subscriber] = {}

    def open(self) -> tuple[LongPollCarrier, str]:
        """Make a carrier, and the token by which its client finds it again."""
        id, options = secrets.token_urlsafe(16), self._options
        token = self._signer().dumps([self._engine.node, id])
        carrier = LongPollCarrier(options.window, options.outbox_limit, lambda: self._forget(id))
        session = self._local[id] = LocalSession(carrier, options.max_frame_size)
        if self._engine.adapter is not None:
            requests = self._requests[id] = Subscriber(lambda request: self._receive(session, request))
            self._engine.pubsub.subscribe(topic_of(id), requests)
        return carrier, token

    def find(self, token: str, ask: bool = True) -> Session | None:
        """Return the session of a token; None when it is gone, forged, too old, or out of reach.

        :param ask: whether to ask another node if it still has the session; else its next answer tells.
        """
        try:
            node, id = self._signer().loads(token, max_age=self._options.token_max_age)
        except (BadData, ValueError):
            return None
        if id in self._local:
            return self._local[id]
        self._engine.serve()  # this may be the first request of this process, and the session another node's
        if node == self._engine.node or self._engine.adapter is None:
            return None
        remote = RemoteSession(self._engine, id, self._options.window, self._options.pubsub_timeout)
        return remote if not ask or remote.alive() else None

    def _signer(self) -> URLSafeTimedSerializer:
        keys = self._keys()
        if not keys[-1]:
            raise Unsupported(
                "long polling signs its tokens: set app.secret_key (SECRET_KEY), the same in every process"
            )
        return URLSafeTimedSerializer(keys, salt=self._salt)

    def _forget(self, id: str) -> None:
        self._local.pop(id, None)
        requests = self._requests.pop(id, None)
        if requests is not None:
            self._engine.pubsub.unsubscribe(topic_of(id), requests)

    def _receive(self, session: Session, request: Broadcast) -> None:
        gevent.spawn(self._answer, session, request)

    def _answer(self, session: Session, request: Broadcast) -> None:
        """Do what a request that landed on another node asks of a session here."""
        reply = request.payload["reply"]
        self._engine.broadcast(Broadcast(reply, ACK, {}))
        answer: dict[str, Any] = {}
        if request.event == POLL:
            status, frames = session.poll()
            answer = {"status": status, "frames": frames}
        elif request.event == DISPATCH:
            answer = {"status": session.dispatch(request.payload["lines"])}
        self._engine.broadcast(Broadcast(reply, DONE, answer))


def topic_of(id: str) -> str:
    """Return the private topic of a session, or of an answer; nobody can guess it."""
    return f"{INTERNAL}lp:{id}"


def text_line(text: str) -> str:
    """Write a body that is one text frame as a line of a batch."""
    return TEXT_MARK + text


def read_line(line: str, limit: int) -> Frame:
    """Read a line of a batch: JSON of either version begins with a bracket, anything else is base64.

    :raises InvalidMessage: it is neither, or too long.
    """
    if len(line) > limit:
        raise InvalidMessage(f"a line of {len(line)} characters; max_frame_size is {limit}")
    if line.startswith(TEXT_MARK):
        return line.removeprefix(TEXT_MARK)
    if line.startswith(("[", "{")):
        return line
    try:
        return base64.b64decode(line, validate=True)
    except ValueError as error:
        raise InvalidMessage(f"a line that is neither JSON nor base64: {line[:40]!r}") from error
