"""A worker in a process of its own, that is told what to do over the adapter itself.

It does what comes on the topic of its name, one order at a time, and says on :data:`SAID` what came of it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from typing import Any

from gevent import monkey
from gevent.queue import Queue

from flask_phoenix.pubsub.unix.adapter import WorkersAdapter

#: The topics on which workers answer, and tell of others that have ended.
SAID, GONE = "said", "gone"


class Worker:
    """An adapter, and the orders that it can follow."""

    def __init__(self, directory: str, name: str, limit: int) -> None:
        self.name = name
        self.adapter = WorkersAdapter(directory, limit)
        self.orders: Queue[list[Any]] = Queue()
        self.heard: list[str] = []

    def run(self) -> None:
        self.adapter.start(self.name, self.receive, lambda node: self.say(GONE, node))
        self.adapter.subscribe(self.name)
        self.say(SAID, "ready")
        while True:
            order, *arguments = self.orders.get()
            self.say(SAID, getattr(self, order)(*arguments))

    def receive(self, topic: str, data: bytes) -> None:
        if topic == self.name:
            self.orders.put(json.loads(data))
        else:
            self.heard.append(data.decode("latin-1").rstrip())

    def say(self, topic: str, what: Any) -> None:
        self.adapter.publish(topic, json.dumps([self.name, what]).encode())

    def subscribe(self, topic: str) -> None:
        self.adapter.subscribe(topic)

    def publish(self, topic: str, start: int, end: int) -> int:
        for number in range(start, end):
            self.adapter.publish(topic, f"{self.name} {number}".encode())
        return self.adapter.unpublished

    def report(self) -> list[str]:
        heard, self.heard = self.heard, []
        return heard

    def fork(self) -> int:
        """Fork a process that does nothing but live."""
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pause()
        return pid


if __name__ == "__main__":
    if "patched" in sys.argv:
        monkey.patch_all()
    logging.basicConfig()
    Worker(sys.argv[1], sys.argv[2], int(sys.argv[3])).run()
