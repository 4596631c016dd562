"""Sessions of other nodes: how a request that landed here reaches the process that has its session, and is answered."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from gevent.queue import Empty, Queue

from ... import clock
from ...exceptions import NotPublished
from ...protocol.messages import INTERNAL, Broadcast
from ...pubsub.local import Subscriber
from ...runtime.engine import Engine
from ...runtime.node import Service
from ..options import Options
from .session import GONE, LocalSession, Session

#: Nodes that are remembered to have ended.
ENDED_NODES = 1000

#: Requests of other nodes that are remembered for each session.
RECENT_REQUESTS = 8
#: Seconds after which a node is asked again that has not even acknowledged a request, and one that has: what it answers
#: may be lost with a link of its own, of which nobody is told here.
REPEAT_AFTER, REPEAT_ACKNOWLEDGED_AFTER = 0.5, 2.0

#: Events on a session's private topic, and on the topic of one answer.
PING, POLL, RESTORE, DISPATCH, ACK, DONE = "ping", "poll", "restore", "dispatch", "ack", "done"
#: Tells who waits for an answer that a link was lost, and perhaps the answer with it.
REPEAT = Broadcast("", "repeat", {})


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
        publish(self._engine, Broadcast(self._topic, RESTORE, {"frames": frames}))

    def dispatch(self, lines: list[str]) -> int:
        """Hand the lines over."""
        answer = self._ask(DISPATCH, {"lines": lines})
        return int(answer["status"]) if answer else GONE

    def _ask(self, event: str, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Ask the session's node; None when it has ended, or nobody answers in time.

        What is asked, and what is answered, may be lost with a link: then it is asked again, and answered as before.
        """
        assert self._engine.node.adapter is not None
        topic, options = topic_of(secrets.token_urlsafe(16)), self._options
        request = Broadcast(self._topic, event, {**payload, "reply": topic})
        with self._nodes.replies_of(self._node) as replies:
            subscriber = Subscriber(lambda reply: replies.put(self._engine.pubsub.read(reply)))
            self._engine.pubsub.subscribe(topic, subscriber)
            forget = self._engine.node.adapter.when_restored(lambda: replies.put(REPEAT))
            try:
                publish(self._engine, request)
                acked, deadline = False, clock.monotonic() + options.pubsub_timeout
                while (left := deadline - clock.monotonic()) > 0:
                    with suppress(Empty):
                        reply = replies.get(timeout=min(left, REPEAT_ACKNOWLEDGED_AFTER if acked else REPEAT_AFTER))
                        if reply is None:
                            return None
                        if reply.event == DONE:
                            return dict(reply.payload)
                        if reply.event == ACK:
                            if not acked:
                                acked, deadline = True, clock.monotonic() + options.window + options.pubsub_timeout
                            continue
                    publish(self._engine, request)
            finally:
                forget()
                self._engine.pubsub.unsubscribe(topic, subscriber)
        return None


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


class RequestsOfOthers:
    """Answers what other nodes ask of a session of this process.

    :param id: the session's, which names its private topic.
    """

    def __init__(self, engine: Engine, id: str, session: LocalSession) -> None:
        self._engine = engine
        self._topic = topic_of(id)
        self._session = session
        self._recent = RecentRequests()
        self._subscriber = Subscriber(self._receive)

    def open(self) -> None:
        """Begin; may block until the other nodes know."""
        self._engine.pubsub.subscribe(self._topic, self._subscriber)

    def close(self) -> None:
        """End."""
        self._engine.pubsub.unsubscribe(self._topic, self._subscriber)

    def _receive(self, request: Broadcast) -> None:
        gevent.spawn(self._answer, self._engine.pubsub.read(request))

    def _answer(self, request: Broadcast) -> None:
        """Do what a request that landed on another node asks."""
        if request.event == RESTORE:
            self._session.restore(request.payload["frames"])
            return
        reply = request.payload["reply"]
        asked_before = self._recent.ask(reply, request.event)
        publish(self._engine, Broadcast(reply, ACK, {}))
        if not asked_before:
            self._recent.answers[reply] = self._do(request)
        elif request.event == POLL:
            self._session.note_presence()
        answer = self._recent.answers.get(reply)
        if answer is not None:
            publish(self._engine, Broadcast(reply, DONE, answer))

    def _do(self, request: Broadcast) -> dict[str, Any]:
        if request.event == POLL:
            status, frames = self._session.poll()
            return {"status": status, "frames": frames}
        if request.event == DISPATCH:
            return {"status": self._session.dispatch(request.payload["lines"])}
        return {}


def publish(engine: Engine, message: Broadcast) -> None:
    """Publish what is asked or answered; where the other nodes cannot be reached now, it is lost, and asked again."""
    with suppress(NotPublished):
        engine.broadcast(message)


def topic_of(id: str) -> str:
    """Return the private topic of a session, or of an answer; nobody can guess it."""
    return f"{INTERNAL}lp:{id}"
