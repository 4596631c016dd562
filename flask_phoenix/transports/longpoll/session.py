"""Long-poll sessions: those of this process, their tokens, and requests to those of other nodes."""

from __future__ import annotations

import base64
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import Empty, Queue
from itsdangerous import BadData, URLSafeTimedSerializer

from ...exceptions import InvalidMessage, NotPublished, PhoenixError, Unsupported
from ...protocol.messages import INTERNAL, Broadcast, Frame
from ...pubsub.local import Subscriber
from ...runtime.connection import INTERNAL_ERROR
from ...runtime.engine import Engine, Service
from ..options import Options
from .carrier import LongPollCarrier

log = logging.getLogger("flask_phoenix.connection")
longpoll_log = logging.getLogger("flask_phoenix.longpoll")

#: What a session answers: the statuses of ``transports/long_poll.ex``, which travel inside the body.
TAKEN, NOTHING, NOT_TAKEN, GONE = 200, 204, 408, 410

#: Stands before a line that is text whatever it looks like; base64 has no such character.
TEXT_MARK = "\t"

#: Stands for a body that cannot be read: it is no line of a batch, and so it ends the session as other nonsense does.
NOT_UTF8 = "(not UTF-8)"

#: Sessions of one client that may be unused; the next one has to wait for so many seconds.
UNUSED_SESSIONS = 4
UNUSED_DELAY = 2.0

UNUSED = (
    "a client that polls has begun %d sessions and used none: something of the app may refuse what it sends, such as a"
    " check against forged requests (CSRF), from which the path of the mount is to be exempted; it has to wait now"
)

#: Nodes that are remembered to have ended.
ENDED_NODES = 1000

#: Requests of other nodes that are remembered for each session.
RECENT_REQUESTS = 8
#: Seconds after which a node that has not even acknowledged a request is asked again.
REPEAT_AFTER = 0.5

#: Events on a session's private topic, and on the topic of one answer.
PING, POLL, RESTORE, DISPATCH, ACK, DONE = "ping", "poll", "restore", "dispatch", "ack", "done"
#: Tells who waits for an answer that a link was lost, and perhaps the answer with it.
REPEAT = Broadcast("", "repeat", {})


class Session:
    """One client's session, wherever it lives."""

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames: TAKEN with all there are, NOTHING, or GONE."""
        raise NotImplementedError

    def restore(self, frames: list[str]) -> None:
        """Give frames back that a poll has taken, and whose answer has not reached the client."""
        raise NotImplementedError

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines of a batch to the session, in order: TAKEN, NOT_TAKEN in time, or GONE."""
        raise NotImplementedError


class LocalSession(Session):
    """A session of this process."""

    def __init__(self, carrier: LongPollCarrier, max_frame_size: int, used: Callable[[], None]) -> None:
        self.carrier = carrier
        self._max_frame_size = max_frame_size
        self._used = used
        self._answered = False
        self.recent = RecentRequests()

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames, for a window at most."""
        if self._answered:
            self._used()
        frames = self.carrier.poll()
        self._answered = True
        if frames:
            return TAKEN, frames
        return (NOTHING if self.carrier.connection.open else GONE), []

    def restore(self, frames: list[str]) -> None:
        """Keep frames for the next poll."""
        self.carrier.restore(frames)

    def dispatch(self, lines: list[str]) -> int:
        """Hand frames to the connection; a channel whose inbox is full delays them, for a window at most."""
        self._used()
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


class RecentRequests:
    """What other nodes have lately asked of a session, by the topics of the answers: done once, and told again."""

    def __init__(self) -> None:
        #: The answers; None for what is under way.
        self.answers: OrderedDict[str, dict[str, Any] | None] = OrderedDict()

    def ask(self, reply: str, event: str) -> bool:
        """Take in a request; return whether it was asked before."""
        if reply in self.answers:
            return True
        if event == POLL:  # the client has the frames of the polls before
            for old in [old for old, answer in self.answers.items() if answer is not None and "frames" in answer]:
                del self.answers[old]
        self.answers[reply] = None
        if len(self.answers) > RECENT_REQUESTS:
            self.answers.popitem(last=False)
        return False


class OtherNodes(Service):
    """The other nodes, whose answers are waited for, and which are known to have ended."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[Queue[Broadcast | None]]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    def start(self) -> None:
        """Begin."""

    def greet(self) -> None:
        """Say nothing."""

    def farewell(self) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """End."""

    def gone(self, node: str) -> None:
        """Wait for no answer of a node any more."""
        self._ended[node] = None
        if len(self._ended) > ENDED_NODES:
            self._ended.popitem(last=False)
        for replies in self._waiting.get(node, ()):
            replies.put(None)

    def has_ended(self, node: str) -> bool:
        """Tell whether a node is known to have ended."""
        return node in self._ended

    @contextmanager
    def replies_of(self, node: str) -> Iterator[Queue[Broadcast | None]]:
        """Return a queue for a node's answers; None comes when it has ended."""
        replies: Queue[Broadcast | None] = Queue()
        self._waiting.setdefault(node, set()).add(replies)
        if self.has_ended(node):
            replies.put(None)
        try:
            yield replies
        finally:
            self._waiting[node].discard(replies)
            if not self._waiting[node]:
                del self._waiting[node]


class RemoteSession(Session):
    """A session of another node, spoken to through the pubsub (``transports/long_poll.ex`` does the same).

    :param options: its ``pubsub_timeout`` is how long the other node has to say that it has the session.
    """

    def __init__(self, engine: Engine, nodes: OtherNodes, node: str, id: str, options: Options) -> None:
        self._engine = engine
        self._nodes = nodes
        self._node = node
        self._topic = topic_of(id)
        self._options = options

    def alive(self) -> bool:
        """Ask whether the other node still has the session."""
        return self._ask(PING, {}) is not None

    def poll(self) -> tuple[int, list[str]]:
        """Wait for frames there."""
        answer = self._ask(POLL, {})
        return (answer["status"], answer["frames"]) if answer else (GONE, [])

    def restore(self, frames: list[str]) -> None:
        """Send frames back."""
        with suppress(NotPublished):  # out of reach, as is all that the other node has for the client
            self._engine.broadcast(Broadcast(self._topic, RESTORE, {"frames": frames}))

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines over."""
        answer = self._ask(DISPATCH, {"lines": lines})
        return int(answer["status"]) if answer else GONE

    def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the session's node; None when it has ended, or nobody answers in time.

        What is asked, and what is answered, may be lost with a link: then it is asked again, and answered as before.
        """
        assert self._engine.adapter is not None
        topic, options = topic_of(secrets.token_urlsafe(16)), self._options
        request = Broadcast(self._topic, event, {**payload, "reply": topic})
        with self._nodes.replies_of(self._node) as replies, suppress(NotPublished):
            subscriber = Subscriber(replies.put)
            self._engine.pubsub.subscribe(topic, subscriber)
            forget = self._engine.adapter.when_restored(lambda: replies.put(REPEAT))
            try:
                self._engine.broadcast(request)
                acked, deadline = False, monotonic() + options.pubsub_timeout
                while (left := deadline - monotonic()) > 0:
                    with suppress(Empty):
                        reply = replies.get(timeout=left if acked else min(left, REPEAT_AFTER))
                        if reply is None:
                            return None
                        if reply.event == DONE:
                            return dict(reply.payload)
                        if reply.event == ACK:
                            if not acked:
                                acked, deadline = True, monotonic() + options.window + options.pubsub_timeout
                            continue
                    self._engine.broadcast(request)
            finally:
                forget()
                self._engine.pubsub.unsubscribe(topic, subscriber)
        return None


class UnusedSessions:
    """The sessions that clients have begun, and not used yet: those who begin many are slowed.

    A client does so whose messages are refused on their way, as by a check against forged requests: it begins again as
    soon as that is noticed, hundreds of times in ten seconds.
    """

    def __init__(self) -> None:
        self._ids: dict[Hashable, set[str]] = {}
        self._logged: set[Hashable] = set()
        self._waiting: dict[Hashable, set[Event]] = {}

    def add(self, client: Hashable, id: str) -> None:
        """Take in a session."""
        self._ids.setdefault(client, set()).add(id)

    def discard(self, client: Hashable, id: str) -> None:
        """Forget a session, which is used, or has ended."""
        ids = self._ids.get(client)
        if ids is None:
            return
        ids.discard(id)
        if not ids:
            del self._ids[client]
            self._logged.discard(client)
        for event in self._waiting.get(client, ()):
            event.set()

    def are_many(self, client: Hashable) -> bool:
        """Tell whether a client has begun so many that the next one has to wait."""
        return len(self._ids.get(client, ())) >= UNUSED_SESSIONS

    def wait(self, client: Hashable) -> None:
        """Wait until there are fewer, for :data:`UNUSED_DELAY` seconds at most."""
        if client not in self._logged:
            self._logged.add(client)
            longpoll_log.warning(UNUSED, UNUSED_SESSIONS)
        freed = Event()
        waiting = self._waiting.setdefault(client, set())
        waiting.add(freed)
        deadline = monotonic() + UNUSED_DELAY
        while self.are_many(client) and (left := deadline - monotonic()) > 0:
            freed.clear()
            freed.wait(left)
        waiting.discard(freed)
        if not waiting:
            self._waiting.pop(client, None)


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
        self._nodes = OtherNodes()
        engine.add(self._nodes)
        self.unused = UnusedSessions()
        #: What hears the requests that other nodes hand over, by the ids of the sessions.
        self._requests: dict[str, Subscriber] = {}

    def open(self, client: Hashable) -> tuple[LongPollCarrier, str, str]:
        """Make a carrier, its id, and the token by which its client finds it again."""
        id, options = secrets.token_urlsafe(16), self._options
        token = self._signer().dumps([self._engine.node, id])
        carrier = LongPollCarrier(options.window, options.outbox_limit, lambda: self._forget(client, id))
        session = LocalSession(carrier, options.max_frame_size, lambda: self.unused.discard(client, id))
        self._local[id] = session
        if self._engine.adapter is not None:
            requests = self._requests[id] = Subscriber(lambda request: self._receive(session, request))
            self._engine.pubsub.subscribe(topic_of(id), requests)
        return carrier, id, token

    def hand_out(self, client: Hashable, id: str) -> None:
        """Count a session, which its client is told of now, until it is used."""
        if id in self._local:
            self.unused.add(client, id)

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
        with suppress(PhoenixError):  # said when its client begins anew
            self._engine.serve()  # this may be the first request of this process, and the session another node's
        if node == self._engine.node or self._engine.adapter is None or self._nodes.has_ended(node):
            return None
        remote = RemoteSession(self._engine, self._nodes, node, id, self._options)
        return remote if not ask or remote.alive() else None

    def _signer(self) -> URLSafeTimedSerializer:
        keys = self._keys()
        if not keys[-1]:
            raise Unsupported(
                "long polling signs its tokens: set app.secret_key (SECRET_KEY), the same in every process"
            )
        return URLSafeTimedSerializer(keys, salt=self._salt)

    def _forget(self, client: Hashable, id: str) -> None:
        self._local.pop(id, None)
        self.unused.discard(client, id)
        requests = self._requests.pop(id, None)
        if requests is not None:
            self._engine.pubsub.unsubscribe(topic_of(id), requests)

    def _receive(self, session: LocalSession, request: Broadcast) -> None:
        gevent.spawn(self._answer, session, request)

    def _answer(self, session: LocalSession, request: Broadcast) -> None:
        """Do what a request that landed on another node asks of a session here."""
        if request.event == RESTORE:
            session.restore(request.payload["frames"])
            return
        reply = request.payload["reply"]
        asked_before = session.recent.ask(reply, request.event)
        self._engine.broadcast(Broadcast(reply, ACK, {}))
        if not asked_before:
            session.recent.answers[reply] = self._do(session, request)
        answer = session.recent.answers.get(reply)
        if answer is not None:
            self._engine.broadcast(Broadcast(reply, DONE, answer))

    def _do(self, session: LocalSession, request: Broadcast) -> dict[str, Any]:
        if request.event == POLL:
            status, frames = session.poll()
            return {"status": status, "frames": frames}
        if request.event == DISPATCH:
            return {"status": session.dispatch(request.payload["lines"])}
        return {}


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
