"""How the nodes tell each other who is present: this node's replica of one presence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import gevent

from .. import clock
from ..exceptions import PhoenixError
from ..protocol.messages import INTERNAL, Broadcast, shown
from ..pubsub.failures import log_failure
from ..pubsub.local import Subscriber
from ..runtime.engine import Engine
from ..runtime.node import Service
from .state import Diffs, Gossip, Tracker

log = logging.getLogger("flask_phoenix.presence")

#: The event of what nodes tell each other.
GOSSIP = "gossip"
#: Seconds for which changes are gathered before the other nodes are told.
GATHER_PERIOD = 0.05
#: Seconds that the other nodes are given to answer a node that has just started.
SETTLE_TIMEOUT = 0.2
#: Heartbeats of a node in a down period.
HEARTBEATS = 6
#: Down periods of silence after which a node is forgotten, as in Phoenix.
PERMDOWN_PERIODS = 40


class Replica(Service):
    """Keeps this node's tracker in step with those of the other nodes.

    :param name: identifies the presence among those of the app, on all nodes.
    :param down_period: seconds within which the entries of a node that fell silent are gone.
    :param grace: seconds for which the entries of clients and nodes that have gone are kept for their coming back.
    """

    def __init__(self, engine: Engine, name: str, down_period: float, grace: float = 0.0) -> None:
        self.engine = engine
        self.tracker = Tracker(engine.node.name)
        self._topic = f"{INTERNAL}presence:{name}"
        self._heartbeat_period = down_period / HEARTBEATS
        # It is checked at each heartbeat, and has to be over within the down period.
        self._silence_limit = down_period - self._heartbeat_period
        #: None: there is no adapter, and no other node.
        self._subscriber: Subscriber | None = None
        self._heartbeat_timer: Any = None
        #: None: no changes wait.
        self._gather_timer: Any = None
        self._grace = grace
        #: None: nothing departs.
        self._expiry_timer: Any = None
        self._last_heartbeat = self._greeted_at = self._awake_since = 0.0

    def tell(self, diffs: Diffs) -> None:
        """Tell clients and hooks of this node what has changed; never blocks."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin, with no entries."""
        self.tracker = Tracker(
            self.engine.node.name, self._silence_limit, PERMDOWN_PERIODS * self._silence_limit, self._grace
        )

    def greet(self) -> None:
        """Ask the other nodes for their entries; may block."""
        if self.engine.node.adapter is None:
            return
        # A subscriber of this very start: in a stop and another start meanwhile, one must not end what the other needs.
        node, subscriber = self.engine.node.name, Subscriber(self._receive)
        try:
            for topic in self._own_topics(node):
                self.engine.pubsub.subscribe(topic, subscriber)
        finally:
            if self.engine.node.name == node:
                self._subscriber = subscriber
            else:  # it was stopped meanwhile
                self._unsubscribe(node, subscriber)
        if self._subscriber is subscriber:
            self._greeted_at = self._last_heartbeat = self._awake_since = clock.monotonic()
            self._heartbeat_timer = gevent.get_hub().loop.timer(self._heartbeat_period, self._heartbeat_period)
            self._heartbeat_timer.start(self._guard, self._heartbeat)
            self._send(self.tracker.hello())
            if self._grace:
                self.settle()  # the first client is to be told of those whose node ends at this moment

    def settle(self) -> None:
        """Wait until the other nodes have had the time to answer, if this one has just started.

        Where the event loop has not run for a while, as in a shell, they are asked anew.
        """
        if self._heartbeat_timer is None or gevent.getcurrent() is gevent.get_hub():
            return
        left = self._greeted_at + SETTLE_TIMEOUT - (now := clock.monotonic())
        if left <= 0 and self._is_late(now):
            self._greeted_at, left = now, SETTLE_TIMEOUT
            self._send(self.tracker.hello())
        if left > 0:
            gevent.sleep(left)

    def farewell(self) -> None:
        """Tell the other nodes that the entries of this one are gone; they would find out by its silence."""
        if self._heartbeat_timer is not None:
            self._flush()
            self._send(self.tracker.goodbye())

    def stop(self) -> None:
        """End."""
        self.farewell()
        for timer in (self._heartbeat_timer, self._gather_timer, self._expiry_timer):
            if timer is not None:
                timer.close()
        self._heartbeat_timer = self._gather_timer = self._expiry_timer = None
        subscriber, self._subscriber = self._subscriber, None
        if subscriber is not None:
            self._unsubscribe(self.engine.node.name, subscriber)

    def gone(self, node: str) -> None:
        """Remove the entries of a node that is known to have ended."""
        self.tell(self.tracker.gone(node, clock.monotonic()))
        self._expire_later()

    def hands_over(self) -> bool:
        """Tell whether clients that have gone may yet come back to another node."""
        return self._heartbeat_timer is not None and self.tracker.hands_over

    def changed(self, diffs: Diffs) -> None:
        """Tell of changes in the entries of this node: here, and soon the other nodes."""
        self.tell(diffs)
        if not self.tracker.changed:
            return
        if self._heartbeat_timer is None:
            self.tracker.flush()  # there is no other node
        elif self._gather_timer is None:
            self._gather_timer = gevent.get_hub().loop.timer(GATHER_PERIOD)
            self._gather_timer.start(self._guard, self._flush)

    def depart(self, refs: Iterable[str]) -> None:
        """Let entries of this node go, with their grace."""
        now = clock.monotonic()
        for ref in refs:
            self.changed(self.tracker.depart(ref, now))
        self._expire_later()

    def _expire_later(self) -> None:
        due = self.tracker.next_expiry
        if due is not None and self._expiry_timer is None:
            self._expiry_timer = gevent.get_hub().loop.timer(max(GATHER_PERIOD, due - clock.monotonic()))
            self._expiry_timer.start(self._guard, self._expire)

    def _expire(self) -> None:
        self._expiry_timer.close()
        self._expiry_timer = None
        self.changed(self.tracker.expire(clock.monotonic()))
        self._expire_later()

    def _guard(self, callback: Callable[[], None]) -> None:
        """Call what a timer calls: it fails once, the timer goes on."""
        try:
            callback()
        except BaseException:
            log_failure(log, "%r failed; it goes on", callback)

    def _flush(self) -> None:
        """Send the changes that were gathered."""
        if self._gather_timer is not None:
            self._gather_timer.close()
            self._gather_timer = None
        delta = self.tracker.flush()
        if delta is not None:
            self._send(delta)

    def _heartbeat(self) -> None:
        """Send a sign of life, and let nodes go down that gave none.

        A process that did not run for a while has received nothing meanwhile; that says nothing about the other nodes,
        which are given all the time that a silent one has.
        """
        now = clock.monotonic()
        if self._is_late(now):
            self._awake_since = now
        self._last_heartbeat = now
        self._send(self.tracker.heartbeat())
        if now - self._awake_since >= self._silence_limit:
            self.tell(self.tracker.tick(now))

    def _is_late(self, now: float) -> bool:
        return now - self._last_heartbeat > 2 * self._heartbeat_period

    def _receive(self, broadcast: Broadcast) -> None:
        try:
            diffs, answers = self.tracker.receive(self.engine.pubsub.read(broadcast).payload, clock.monotonic())
        except PhoenixError as error:
            log.error("gossip on %s is ignored: %s", shown(broadcast.topic), error)
            return
        self.changed(diffs)
        self._expire_later()
        for node, gossip in answers:
            self._send(gossip, node)

    def _send(self, gossip: Gossip, node: str | None = None) -> None:
        """Send gossip to one node, or to all."""
        try:
            self.engine.publish(Broadcast(self._topic_of(node) if node else self._topic, GOSSIP, gossip))
        # What is lost is asked for when the next heartbeat arrives.
        except PhoenixError as error:
            log.error("gossip on %s is lost: %s", shown(self._topic), error)
        except BaseException:
            log_failure(log, "gossip on %s is lost", shown(self._topic))

    def _unsubscribe(self, node: str, subscriber: Subscriber) -> None:
        for topic in self._own_topics(node):
            self.engine.pubsub.unsubscribe(topic, subscriber)

    def _own_topics(self, node: str) -> tuple[str, str]:
        """Return the topics of gossip for all nodes, and of gossip for this one."""
        return self._topic, self._topic_of(node)

    def _topic_of(self, node: str) -> str:
        return f"{self._topic}:{node}"
