"""Who is here, told between nodes: this node's replica of a presence."""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

import gevent

from ..exceptions import PhoenixError
from ..protocol.messages import INTERNAL, Broadcast
from ..pubsub.local import Subscriber
from ..runtime.engine import Engine, Service
from .state import Diffs, Tracker

log = logging.getLogger(__name__)

#: The event of what nodes tell each other.
GOSSIP = "gossip"
#: Seconds for which changes are gathered before other nodes are told.
GATHER = 0.05
#: Seconds that the answers to a node that has just begun may take.
SETTLE = 0.2
#: A node is heard so many times in a down period.
BEATS = 6
#: After so many down periods of silence a node is forgotten, as in Phoenix.
FORGOTTEN = 40


class Replica(Service):
    """Keeps a tracker level with those of the other nodes.

    :param name: tells it from the replicas of other presences.
    :param down_period: seconds in which the entries of a node that fell silent are gone.
    """

    def __init__(self, engine: Engine, name: str, down_period: float) -> None:
        self.engine = engine
        self.tracker = Tracker(engine.node)
        self._topic = f"{INTERNAL}presence:{name}"
        self._beat_period = down_period / BEATS
        # It is looked at once in each beat, and has to be over by the down period.
        self._silence = down_period - self._beat_period
        self._subscriber = Subscriber(self._heard)
        #: It rings in each beat; None: there is no other node to hear from.
        self._beat_timer: Any = None
        #: It rings when changes have been gathered; None: there are none.
        self._gather_timer: Any = None
        self._beaten = self._greeted = 0.0

    def told(self, diffs: Diffs) -> None:
        """Hear what has changed, at once."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin, with nobody here."""
        self.tracker = Tracker(self.engine.node, self._silence, FORGOTTEN * self._silence)

    def greet(self) -> None:
        """Ask the other nodes what they hold."""
        if self.engine.adapter is None:
            return
        node = self.engine.node
        for topic in self._own_topics(node):
            self.engine.pubsub.subscribe(topic, self._subscriber)
        if self.engine.node != node:  # stopped meanwhile
            self._unsubscribe(node)
            return
        self._greeted = self._beaten = monotonic()
        self._beat_timer = gevent.get_hub().loop.timer(self._beat_period, self._beat_period)
        self._beat_timer.start(self._beat)
        self._say(self.tracker.hello())

    def settle(self) -> None:
        """Wait until the other nodes have had the time to answer one that has just begun."""
        left = self._greeted + SETTLE - monotonic()
        if self._beat_timer is not None and left > 0 and gevent.getcurrent() is not gevent.get_hub():
            gevent.sleep(left)

    def farewell(self) -> None:
        """Tell the others that this node's entries are gone, which they would find out by its silence."""
        if self._beat_timer is not None:
            self._flush()
            self._say(self.tracker.goodbye())

    def stop(self) -> None:
        """End."""
        self.farewell()
        for timer in (self._beat_timer, self._gather_timer):
            if timer is not None:
                timer.close()
        self._beat_timer = self._gather_timer = None
        self._unsubscribe(self.engine.node)

    def gone(self, node: str) -> None:
        """Let the entries of a node go that is known to have ended."""
        self.told(self.tracker.gone(node))

    def changed(self, diffs: Diffs) -> None:
        """Pass on what has changed in the entries of this node."""
        self.told(diffs)
        if self._beat_timer is None:
            self.tracker.flush()  # there is nobody else to tell
        elif self._gather_timer is None:
            self._gather_timer = gevent.get_hub().loop.timer(GATHER)
            self._gather_timer.start(self._flush)

    def _flush(self) -> None:
        if self._gather_timer is not None:
            self._gather_timer.close()
            self._gather_timer = None
        message = self.tracker.flush()
        if message is not None:
            self._say(message)

    def _beat(self) -> None:
        """Give a sign of life, and look who has given none.

        A process that did not run for a while has heard nobody, and finds nothing out about others by that.
        """
        now = monotonic()
        late, self._beaten = now - self._beaten > 2 * self._beat_period, now
        self._say(self.tracker.heartbeat())
        if not late:
            self.told(self.tracker.tick(now))

    def _heard(self, broadcast: Broadcast) -> None:
        try:
            diffs, answers = self.tracker.receive(broadcast.payload, monotonic())
        except PhoenixError as error:
            log.error("gossip on %r is ignored: %s", broadcast.topic, error)
            return
        self.told(diffs)
        for to, message in answers:
            self._say(message, to)

    def _say(self, message: Any, to: str | None = None) -> None:
        try:
            self.engine.publish(Broadcast(self._topic_of(to) if to else self._topic, GOSSIP, message))
        except PhoenixError as error:
            # What is lost is asked for by the next heartbeat that arrives.
            log.error("gossip on %r is lost: %s", self._topic, error)

    def _unsubscribe(self, node: str) -> None:
        for topic in self._own_topics(node):
            self.engine.pubsub.unsubscribe(topic, self._subscriber)

    def _own_topics(self, node: str) -> tuple[str, str]:
        """Return where gossip for everybody is heard, and that for this node."""
        return self._topic, self._topic_of(node)

    def _topic_of(self, node: str) -> str:
        return f"{self._topic}:{node}"
