"""An adapter whose subscriptions are confirmed when a test says so."""

from __future__ import annotations

from collections.abc import Callable

from gevent.event import AsyncResult

from flask_phoenix.protocol.messages import INTERNAL
from flask_phoenix.pubsub.adapter import Adapter
from tests.support.loop import turn


class SlowAdapter(Adapter):
    """Lets those who subscribe wait until the test confirms; there are no other nodes.

    :param quick: topics that are confirmed at once.
    """

    def __init__(self, *quick: str) -> None:
        self.quick = quick
        #: The topics that somebody waits for, in order.
        self.asked: list[str] = []
        #: What has been asked for and was not left since.
        self.topics: list[str] = []
        self._confirmed: list[AsyncResult[None]] = []

    def start(self, node: str, receive: Callable[[str, bytes], None], gone: Callable[[str], None]) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def subscribe(self, topic: str) -> None:
        """Wait for the test; topics on which nodes speak among themselves are confirmed at once."""
        if topic.startswith(INTERNAL):
            return
        if topic not in self.topics:
            self.topics.append(topic)
        if topic not in self.quick:
            self.asked.append(topic)
            self._confirmed.append(AsyncResult())
            self._confirmed[-1].get()

    def unsubscribe(self, topic: str) -> None:
        """Leave a topic."""
        if topic in self.topics:
            self.topics.remove(topic)

    def publish(self, topic: str, data: bytes) -> None:
        """Do nothing."""

    def confirm(self, failure: Exception | None = None) -> None:
        """Let the first of those go on who wait, or fail; and let the event loop do what follows."""
        del self.asked[0]
        waiting = self._confirmed.pop(0)
        if failure is None:
            waiting.set(None)
        else:
            waiting.set_exception(failure)
        turn()
