"""``flask phoenix tail``: what is broadcast, live."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
from flask.cli import ScriptInfo, pass_script_info
from gevent.event import Event

from ..app_state import State
from ..operations.cluster import Cluster
from ..protocol.messages import Broadcast
from .operating import cut, operating, plain, require_answer

#: Topics of a pattern that are listened to.
TOPICS = 200
#: Seconds between two looks for topics of a pattern.
PERIOD = 1.0
#: Characters of a payload, unless all is wanted.
SHOWN = 160


@click.command("tail")
@click.argument("topic")
@click.option("--json", "as_json", is_flag=True, help="Write a line of JSON for each, with the whole payload.")
@pass_script_info
def tail(info: ScriptInfo, topic: str, as_json: bool) -> None:
    """Show what is broadcast on TOPIC, from whichever process, until Ctrl-C.

    TOPIC may be a pattern such as 'room:*': its topics that have subscribers are looked up each second, and the largest
    200 are listened to.
    """
    with operating(info) as (state, cluster):
        follower = Follower(state, cluster, as_line if as_json else as_text)
        cluster.reports()
        require_answer(cluster.nodes)  # whoever has no secret is shown nothing
        if not topic.endswith("*"):
            follower.listen([topic])
        while not follower.ended.wait(0 if topic.endswith("*") and not follower.begun else PERIOD):
            if topic.endswith("*"):
                follower.follow(topic)


class Follower:
    """Listens to topics, and writes what comes."""

    def __init__(self, state: State, cluster: Cluster, line_of: Callable[[Broadcast], str]) -> None:
        self._state = state
        self._cluster = cluster
        self._line_of = line_of
        #: Functions that end it, by topic.
        self._listening: dict[str, Callable[[], None]] = {}
        self._told = 0
        self.begun = False
        #: Nobody reads what is written.
        self.ended = Event()

    def follow(self, pattern: str) -> None:
        """Listen to the topics that a pattern has now."""
        self.begun = True
        count, topics = self._cluster.topics(pattern, TOPICS)
        self.listen(list(topics))
        if count > TOPICS and count > 2 * self._told:
            self._told = count
            click.echo(f"{count} topics are of {pattern}; the largest {TOPICS} are listened to", err=True)

    def listen(self, topics: list[str]) -> None:
        """Listen to these topics, and no others."""
        for topic in self._listening.keys() - set(topics):
            self._listening.pop(topic)()
        for topic in [topic for topic in topics if topic not in self._listening]:
            self._listening[topic] = self._state.subscribe(topic, self._write)

    def _write(self, broadcast: Broadcast) -> None:
        try:
            click.echo(self._line_of(broadcast))
        except OSError:
            self.ended.set()


def as_text(broadcast: Broadcast) -> str:
    """Return a line for people."""
    payload = broadcast.payload
    shown = f"{len(payload)} bytes" if isinstance(payload, bytes) else json.dumps(payload, ensure_ascii=False)
    return f"{now():%H:%M:%S.%f}"[:-3] + f"  {plain(broadcast.topic)}  {plain(broadcast.event)}  {cut(shown, SHOWN)}"


def as_line(broadcast: Broadcast) -> str:
    """Return a line for scripts; bytes are written in hexadecimal digits."""
    payload = broadcast.payload
    about: dict[str, Any] = {"at": now().isoformat(), "topic": broadcast.topic, "event": broadcast.event}
    about |= {"hex": payload.hex()} if isinstance(payload, bytes) else {"payload": payload}
    return json.dumps(about, ensure_ascii=False)


def now() -> datetime:
    """Return the time, with the zone of this host."""
    return datetime.now().astimezone()
