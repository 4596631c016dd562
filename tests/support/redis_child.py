"""A node in a process of its own, patched by gevent or not: ``python -m tests.support.redis_child patched redis://...``.

At a word of its parent it asks for one more topic and counts what runs meanwhile; then it answers two messages.
"""

import sys

from gevent import monkey

if sys.argv[1] == "patched":
    monkey.patch_all()

import gevent

from flask_phoenix.pubsub.redis.adapter import RedisAdapter
from tests.support.contract import Node


def say(word: object) -> None:
    """Tell the parent."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main(url: str) -> None:
    """Do all of it."""
    ticks: list[None] = []

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            ticks.append(None)

    node = Node(RedisAdapter.from_url(url), "child").start("ping")
    say("ready")
    sys.stdin.readline()
    ticker = gevent.spawn(tick)
    gevent.sleep(0)
    node.adapter.subscribe("late")
    say(len(ticks))
    ticker.kill()
    for _ in range(2):
        topic, data = node.hear()
        node.publish("pong", topic.encode() + b" " + data)
    node.adapter.stop()
    say(node.adapter.unpublished)


if __name__ == "__main__":
    main(sys.argv[2])
