"""A process that takes part in work that is done once per cluster, and writes down what it does."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import logging  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from flask import Flask, current_app  # noqa: E402

from flask_phoenix import Phoenix  # noqa: E402
from flask_phoenix.pubsub.redis import lease  # noqa: E402
from flask_phoenix.server.drain import drain  # noqa: E402

#: Shorter than in earnest.
lease.LEASE, lease.RENEWAL, lease.MARGIN = 3.0, 0.2, 0.5

logging.basicConfig()
app = Flask(__name__)
app.config["PHOENIX_PUBSUB_URL"] = sys.argv[1]
phoenix = Phoenix(app)


def say(what: str) -> None:
    os.write(1, f"{sys.argv[2]} {what}\n".encode())


@phoenix.background(once_per_cluster=True)
def work() -> None:
    assert current_app == app
    try:
        while True:
            say("works")
            gevent.sleep(0.02)
    finally:
        say("ends")


if __name__ == "__main__":
    engine = app.extensions["phoenix"].engine
    over = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, over.set)
    engine.node.serve()
    say("serves")
    over.wait(300)
    drain(engine)
    engine.stop()
