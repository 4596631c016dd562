"""A node in a process of its own, patched by gevent or not: ``python redis_child.py patched redis://...``."""

import sys

from gevent import monkey

if sys.argv[1] == "patched":
    monkey.patch_all()

import gevent
from gevent.queue import Queue

from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from tests.processes import DEADLINE


def say(word: object) -> None:
    """Tell the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(url: str) -> None:
    """At a word of the parent, ask for one more topic and count what runs meanwhile; then answer two messages."""
    heard: Queue[tuple[str, bytes]] = Queue()
    ticks: list[None] = []

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            ticks.append(None)

    adapter = RedisAdapter.from_url(url)
    adapter.start("child", lambda topic, data: heard.put((topic, data)), lambda node: None)
    adapter.subscribe("ping")
    say("ready")
    sys.stdin.readline()
    ticker = gevent.spawn(tick)
    gevent.sleep(0)
    adapter.subscribe("late")
    say(len(ticks))
    ticker.kill()
    for _ in range(2):
        topic, data = heard.get(timeout=DEADLINE)
        adapter.publish("pong", topic.encode() + b" " + data)
    adapter.stop()
    say(adapter.unpublished)


if __name__ == "__main__":
    main(sys.argv[2])
