"""Who is here, told between nodes: this node's replica of a presence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent

from .engine import Engine, Service
from .exceptions import PhoenixError
from .message import Broadcast
from .pubsub import Subscriber
from .tracker import Diffs, Entry, Tracker

log = logging.getLogger(__name__)

#: The event of what nodes tell each other.
GOSSIP = "gossip"
#: Seconds for which changes are gathered before other nodes are told.
GATHER = 0.05
#: A node is heard so many times in a down period.
BEATS = 6
#: After so many down periods of silence a node is forgotten, as in Phoenix.
FORGOTTEN = 40


class Replica(Service):
    """Keeps a tracker level with those of the other nodes, and tells what has changed.

    :param told: called with each diff, at once.
    :param down_period: seconds in which the entries of a node that fell silent are gone.
    """

    def __init__(self, engine: Engine, name: str, told: Callable[[Diffs], None], down_period: float) -> None:
        self.engine = engine
        self.tracker = Tracker(engine.node)
        self._topic = f"phx:presence:{name}"
        self._told = told
        self._beat_period = down_period / BEATS
        # It is looked at once in each beat, and has to be over by the down period.
        self._silence = down_period - self._beat_period
        self._subscriber = Subscriber(self._heard)
        self._timers: list[Any] = []
        self._gathering = False
        self._beaten = 0.0

    def start(self) -> None:
        """Begin, and ask the others what they hold."""
        self.tracker = Tracker(self.engine.node, self._silence, FORGOTTEN * self._silence)
        if self.engine.adapter is None:
            return
        loop = gevent.get_hub().loop
        self._gather, self._beat_timer = loop.timer(GATHER), loop.timer(self._beat_period, self._beat_period)
        self._timers = [self._gather, self._beat_timer]
        for topic in (self._topic, self._topic_of(self.engine.node)):
            self.engine.pubsub.subscribe(topic, self._subscriber)
        self._say(self.tracker.hello())
        self._beaten = monotonic()
        self._beat_timer.start(self._beat)

    def farewell(self) -> None:
        """Tell the others that this node's entries are gone, which they would find out by its silence."""
        if self._timers:
            self._flush()
            self._say(self.tracker.goodbye())

    def stop(self) -> None:
        """End."""
        self.farewell()
        for timer in self._timers:
            timer.close()
        self._timers = []
        for topic in (self._topic, self._topic_of(self.engine.node)):
            self.engine.pubsub.unsubscribe(topic, self._subscriber)

    def gone(self, node: str) -> None:
        """Let the entries of a node go that is known to have ended."""
        self._told(self.tracker.gone(node))

    def join(self, entry: Entry) -> None:
        """Hold an entry of this node."""
        self._changed(self.tracker.join(entry))

    def update(self, ref: str, entry: Entry) -> None:
        """Put an entry in the place of another."""
        self._changed(self.tracker.update(ref, entry))

    def leave(self, ref: str) -> None:
        """Hold an entry no more."""
        self._changed(self.tracker.leave(ref))

    def _changed(self, diffs: Diffs) -> None:
        self._told(diffs)
        if not self._timers:
            self.tracker.flush()  # there is nobody else to tell
        elif not self._gathering:
            self._gathering = True
            self._gather.start(self._flush)

    def _flush(self) -> None:
        self._gathering = False
        self._gather.stop()
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
            self._told(self.tracker.tick(now))

    def _heard(self, broadcast: Broadcast) -> None:
        try:
            diffs, answers = self.tracker.receive(broadcast.payload, monotonic())
        except PhoenixError as error:
            log.error("gossip on %r is ignored: %s", broadcast.topic, error)
            return
        self._told(diffs)
        for to, message in answers:
            self._say(message, to)

    def _say(self, message: Any, to: str | None = None) -> None:
        try:
            self.engine.publish(Broadcast(self._topic_of(to) if to else self._topic, GOSSIP, message))
        except PhoenixError as error:
            # What is lost is asked for by the next heartbeat that arrives.
            log.error("gossip on %r is lost: %s", self._topic, error)

    def _topic_of(self, node: str) -> str:
        return f"{self._topic}:{node}"
