"""``flask phoenix broadcast`` and ``disconnect``: to the clients that are connected to the app's processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from flask import current_app
from flask.cli import with_appcontext

from ..broadcaster import SETTING, Broadcaster
from ..exceptions import PhoenixError
from ..protocol.json import Json


@click.command("broadcast")
@click.argument("topic")
@click.argument("event")
@click.argument("payload", default="{}")
@click.option("--url", help="How the processes are joined; the app's PHOENIX_PUBSUB_URL, unless given.")
@with_appcontext
def broadcast(topic: str, event: str, payload: str, url: str | None) -> None:
    """Send an event to everybody on a topic. PAYLOAD is a JSON object."""
    with _broadcaster(url) as broadcaster:
        broadcaster.broadcast(topic, event, Json().loads(payload))


@click.command("disconnect")
@click.argument("id")
@click.option("--topic", help="End the channel of this topic alone, in each of these connections.")
@click.option("--url", help="How the processes are joined; the app's PHOENIX_PUBSUB_URL, unless given.")
@with_appcontext
def disconnect(id: str, topic: str | None, url: str | None) -> None:
    """Close every connection whose socket has this id."""
    with _broadcaster(url) as broadcaster:
        broadcaster.disconnect(id, topic)


@contextmanager
def _broadcaster(url: str | None) -> Iterator[Broadcaster]:
    """Make a broadcaster for the app; what goes wrong is the command's error, in one line."""
    try:
        with Broadcaster(url or current_app.config.get(SETTING)) as broadcaster:
            yield broadcaster
    except PhoenixError as error:
        raise click.ClickException(str(error)) from error
