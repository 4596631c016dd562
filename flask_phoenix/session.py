"""Where a long-poll session lives: its token, the sessions of this process, and the way to those of other nodes."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import Queue
from itsdangerous import BadData, URLSafeTimedSerializer

from .connection import INTERNAL_ERROR, Engine
from .exceptions import InvalidMessage, Unsupported
from .longpoll import LongPollCarrier
from .message import Broadcast, Frame
from .pubsub import Subscriber

log = logging.getLogger(__name__)

#: What a session answers: the statuses of ``transports/long_poll.ex``, which travel inside the body.
TAKEN, NOTHING, NOT_TAKEN, GONE = 200, 204, 408, 410

#: Events on a session's private topic, and on the topic of one answer.
POLL, DISPATCH, ACK, DONE = "poll", "dispatch", "ack", "done"


class Session:
    """One client's session, wherever it lives."""

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames: TAKEN with all there are, NOTHING, or GONE."""
        raise NotImplementedError

    def dispatch(self, frames: list[Frame]) -> int:
        """Hand frames to the session, in order: TAKEN, NOT_TAKEN in time, or GONE."""
        raise NotImplementedError


class LocalSession(Session):
    """A session of this process."""

    def __init__(self, carrier: LongPollCarrier) -> None:
        self.carrier = carrier

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames, for a window at most."""
        frames = self.carrier.poll()
        if frames:
            return TAKEN, frames
        return (NOTHING if self.carrier.connection.open else GONE), []

    def dispatch(self, frames: list[Frame]) -> int:
        """Hand frames to the connection; a channel that is far behind holds them up, for a window at most."""
        connection = self.carrier.connection
        timeout = gevent.Timeout.start_new(self.carrier.window)
        try:
            for frame in frames:
                if not connection.open:
                    return GONE
                connection.receive(frame)
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

    :param patience: seconds in which the other node has to say that it has the session.
    """

    def __init__(self, engine: Engine, id: str, window: float, patience: float) -> None:
        self._engine = engine
        self._topic = topic_of(id)
        self._window = window
        self._patience = patience

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames there."""
        answer = self._ask(POLL, {})
        return (answer["status"], answer["frames"]) if answer else (GONE, [])

    def dispatch(self, frames: list[Frame]) -> int:
        """Hand frames over."""
        answer = self._ask(DISPATCH, {"frames": [write_frame(frame) for frame in frames]})
        return int(answer["status"]) if answer else GONE

    def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the session's node; None when nobody answers."""
        replies: Queue[Broadcast] = Queue()
        subscriber, reply_topic = Subscriber(replies.put), topic_of(secrets.token_urlsafe(16))
        self._engine.pubsub.subscribe(reply_topic, subscriber)
        try:
            self._engine.broadcast(Broadcast(self._topic, event, {**payload, "reply": reply_topic}))
            with gevent.Timeout(self._patience, exception=_NoAnswer):
                replies.get()
            with gevent.Timeout(self._window + self._patience, exception=_NoAnswer):
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
    :param max_age: seconds for which a token is valid.
    :param patience: seconds in which another node has to say that a session is there.
    """

    def __init__(
        self, engine: Engine, salt: str, keys: Callable[[], list[Any]], max_age: float, patience: float
    ) -> None:
        self._engine = engine
        self._salt = salt
        self._keys = keys
        self._max_age = max_age
        self._patience = patience
        self._carriers: dict[str, LongPollCarrier] = {}
        self._relays: dict[str, Subscriber] = {}

    def open(self, window: float, limit: int) -> tuple[LongPollCarrier, str]:
        """Make a carrier, and the token by which its client finds it again."""
        id = secrets.token_urlsafe(16)
        carrier = self._carriers[id] = LongPollCarrier(window, limit, lambda: self._forget(id))
        if self._engine.adapter is not None:
            session = LocalSession(carrier)
            relay = self._relays[id] = Subscriber(lambda asked: gevent.spawn(self._answer, session, asked))
            self._engine.pubsub.subscribe(topic_of(id), relay)
        return carrier, self._signer().dumps([self._engine.node, id])

    def find(self, token: str, window: float) -> Session | None:
        """Return the session of a token; None when it is gone, forged, too old, or out of reach."""
        try:
            node, id = self._signer().loads(token, max_age=self._max_age)
        except (BadData, ValueError):
            return None
        if id in self._carriers:
            return LocalSession(self._carriers[id])
        if node == self._engine.node or self._engine.adapter is None:
            return None
        return RemoteSession(self._engine, id, window, self._patience)

    def _signer(self) -> URLSafeTimedSerializer:
        keys = self._keys()
        if not keys[-1]:
            raise Unsupported("long polling signs its tokens: set app.secret_key (SECRET_KEY), the same in every process")
        return URLSafeTimedSerializer(keys, salt=self._salt)

    def _forget(self, id: str) -> None:
        self._carriers.pop(id, None)
        relay = self._relays.pop(id, None)
        if relay is not None:
            self._engine.pubsub.unsubscribe(topic_of(id), relay)

    def _answer(self, session: Session, asked: Broadcast) -> None:
        """Do what a request that landed on another node asks of a session here."""
        reply = asked.payload["reply"]
        self._engine.broadcast(Broadcast(reply, ACK, {}))
        if asked.event == POLL:
            status, frames = session.poll()
            answer = {"status": status, "frames": frames}
        else:
            answer = {"status": session.dispatch([read_frame(frame) for frame in asked.payload["frames"]])}
        self._engine.broadcast(Broadcast(reply, DONE, answer))


def topic_of(id: str) -> str:
    """Return the private topic of a session, or of an answer; nobody can guess it."""
    return f"phx:lp:{id}"


def write_frame(frame: Frame) -> list[str]:
    """Write a frame for another node."""
    return ["text", frame] if isinstance(frame, str) else ["binary", base64.b64encode(frame).decode()]


def read_frame(written: list[str]) -> Frame:
    """Read a frame of another node."""
    kind, content = written
    return content if kind == "text" else base64.b64decode(content)
