"""What a channel holds on to, and lets go of at its end: its place in the pubsub, other topics, timers, presences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from ..pubsub.local import PubSub, Subscriber


class Ties:
    """The subscriptions, the timers and the presences of one channel.

    :param own: the channel as a subscriber of its own topic.
    :param other: the channel as a subscriber of other topics.
    """

    __slots__ = ("_closed", "_other", "_own", "_pubsub", "_releases", "_timers", "_topic", "_topics")

    def __init__(self, pubsub: PubSub, topic: str, own: Subscriber, other: Subscriber) -> None:
        self._pubsub = pubsub
        self._topic = topic
        self._own = own
        self._other = other
        self._topics: set[str] | None = None
        self._timers: set[Any] | None = None
        self._releases: list[Callable[[], None]] | None = None
        self._closed = False

    def join(self) -> None:
        """Hear the channel's own topic."""
        self._enter(self._topic, self._own)

    def subscribe(self, topic: str) -> None:
        """Hear another topic."""
        if not self._closed:
            self._topics = self._topics or set()
            self._topics.add(topic)
            self._enter(topic, self._other)

    def unsubscribe(self, topic: str) -> None:
        """Hear another topic no more."""
        if self._topics is not None:
            self._topics.discard(topic)
        self._pubsub.unsubscribe(topic, self._other)

    def after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call back in so many seconds; the answer is a function that cancels it."""
        timer = gevent.get_hub().loop.timer(seconds)
        timers = self._timers = self._timers or set()

        def cancel() -> None:
            timers.discard(timer)
            timer.close()

        def ring() -> None:
            cancel()
            call()

        if not self._closed:
            timers.add(timer)
            timer.start(ring)
        return cancel

    def hold(self, release: Callable[[], None]) -> bool:
        """Call back at the end; False when that is over."""
        if not self._closed:
            self._releases = self._releases or []
            self._releases.append(release)
        return not self._closed

    def release(self) -> None:
        """Call back those who hold something for the channel."""
        releases, self._releases = self._releases, None
        for release in releases or ():
            release()

    def close(self) -> None:
        """Let go of everything."""
        self._closed = True
        self._pubsub.unsubscribe(self._topic, self._own)
        for topic in self._topics or ():
            self._pubsub.unsubscribe(topic, self._other)
        for timer in self._timers or ():
            timer.close()
        self._topics = self._timers = None
        self.release()

    def _enter(self, topic: str, subscriber: Subscriber) -> None:
        """Subscribe, which may take a while; the channel may end meanwhile."""
        self._pubsub.subscribe(topic, subscriber)
        if self._closed:
            self._pubsub.unsubscribe(topic, subscriber)
