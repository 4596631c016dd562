"""``flask phoenix top``: what all processes have and do, live."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from importlib import import_module
from typing import Any

import click
import gevent
from flask.cli import ScriptInfo, pass_script_info

from ..operations.cluster import Cluster
from .operating import operating, require_answer

RICH = "top draws with rich, which is not installed: type pip install 'flask-phoenix[top]', or ask for --json"


@click.command("top")
@click.option("--every", type=click.FloatRange(0.5), default=1.0, show_default=True, help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Look once; so it is where nobody sits before a terminal.")
@click.option("--json", "as_json", is_flag=True, help="Write a line of JSON for each look.")
@pass_script_info
def top(info: ScriptInfo, every: float, once: bool, as_json: bool) -> None:
    """Show what all processes have and do: connections, rates, the lag of event loops, large topics, slow clients.

    Messages per second are those of the last ten seconds, and none at the very first look: nobody counted before.
    """
    rich = None if as_json else find_rich()
    with operating(info) as (_, cluster):
        require_answer(cluster.reports())
        gevent.sleep(every)
        if rich is None:
            print_lines(cluster, every, once)
        elif once or not sys.stdout.isatty():
            rich.draw_once(cluster.reports())
        else:
            rich.draw(cluster, every)


def find_rich() -> Any:
    """Return the module that draws.

    :raises ClickException: it lacks a package.
    """
    try:
        return import_module("..picture", __name__)
    except ImportError as error:
        raise click.ClickException(RICH) from error


def print_lines(cluster: Cluster, every: float, once: bool) -> None:
    """Write a line for each look."""
    while True:
        click.echo(json.dumps({"at": datetime.now().astimezone().isoformat(), "nodes": cluster.reports()}))
        if once:
            return
        gevent.sleep(every)
