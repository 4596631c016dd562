"""What a channel holds until it ends: its timers, the other topics that it hears, what is called at its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent

from ..pubsub.local import Notify, Subscriber
from .engine import Engine

log = logging.getLogger("flask_phoenix.channel")


class Resources:
    """What one channel holds; made by the first thing that it asks for, as most ask for nothing.

    :param receive: called with each broadcast on another topic.
    """

    __slots__ = ("_engine", "_releases", "_subscriber", "_tasks", "_timers", "_topics")

    def __init__(self, engine: Engine, receive: Notify) -> None:
        self._engine = engine
        self._subscriber = Subscriber(receive)
        self._topics: set[str] = set()
        self._timers: set[Any] = set()
        self._tasks: set[Any] = set()
        self._releases: list[Callable[[], None]] = []

    def call_after(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call a function in so many seconds; return a function that cancels it."""
        timer = gevent.get_hub().loop.timer(seconds)

        def cancel() -> None:
            self._timers.discard(timer)
            timer.close()

        def ring() -> None:
            cancel()
            call()

        self._timers.add(timer)
        timer.start(ring)
        return cancel

    def spawn(self, call: Callable[[], None]) -> None:
        """Call a function in a greenlet of its own, which ends with the channel."""
        task = gevent.spawn(call)
        self._tasks.add(task)
        task.rawlink(self._tasks.discard)

    def subscribe(self, topic: str) -> None:
        """Hear another topic; this may take a while, and the channel may end meanwhile."""
        self._topics.add(topic)
        self._engine.hear(topic, self._subscriber)
        if topic not in self._topics:
            self._engine.histories.leave(topic, self._subscriber)

    def unsubscribe(self, topic: str) -> None:
        """Hear it no more."""
        self._topics.discard(topic)
        self._engine.histories.leave(topic, self._subscriber)

    def at_end(self, release: Callable[[], None]) -> None:
        """Call a function when the channel ends."""
        self._releases.append(release)

    def release(self) -> None:
        """Call what :meth:`at_end` was given."""
        releases, self._releases = self._releases, []
        for release in releases:
            try:
                release()
            except Exception:  # of one; the others are called all the same
                log.exception("%r failed at the end of a channel", release)

    def free(self) -> None:
        """End the timers, the greenlets and the subscriptions, and call what :meth:`at_end` was given."""
        for topic in list(self._topics):
            self.unsubscribe(topic)
        for timer in self._timers:
            timer.close()
        self._timers.clear()
        for task in list(self._tasks):
            if task is not gevent.getcurrent():
                task.kill(block=False)
        self.release()
