"""``flask phoenix sockets``: who is connected, on all processes, and ending it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import click
from flask.cli import ScriptInfo, pass_script_info

from ..operations.answers import MOST, USUAL
from .operating import age, cut, operating, require_answer, size

#: The columns: the title, how wide at most, and what stands there.
COLUMNS: tuple[tuple[str, int, Callable[[dict[str, Any]], str]], ...] = (
    ("CONNECTION", 28, lambda each: each["connection"]),
    ("ID", 20, lambda each: each["id"] or "-"),
    ("MOUNT", 16, lambda each: each["mount"]),
    ("BY", 9, lambda each: each["transport"]),
    ("AGE", 5, lambda each: age(each["seconds"])),
    ("WAITS", 6, lambda each: size(each["outbox_bytes"])),
    ("TOPICS", 60, lambda each: topics_of(each)),
)


@click.command("sockets")
@click.option("--id", help="Those of a socket's id, as id() returns it.")
@click.option("--topic", help="Those that have joined a topic, or any of a pattern such as 'room:*'.")
@click.option("--mount", help="Those of a mount, such as /socket.")
@click.option("--transport", type=click.Choice(["websocket", "longpoll"]), help="Those that come this way.")
@click.option("--connection", help="The one of this name, as it is listed.")
@click.option("--limit", type=click.IntRange(1, MOST), default=USUAL, show_default=True, help="How many are listed.")
@click.option("--disconnect", is_flag=True, help="Close all that the filters leave, also those that are not listed.")
@click.option("--yes", is_flag=True, help="Do not ask before they are closed.")
@click.option("--json", "as_json", is_flag=True, help="Write one line of JSON.")
@pass_script_info
def sockets(info: ScriptInfo, /, limit: int, disconnect: bool, yes: bool, as_json: bool, **given: str | None) -> None:
    """List who is connected, on all processes: first those for which the most bytes wait.

    All filters that are given have to hold.
    """
    filters = {name: value for name, value in given.items() if value}
    if disconnect and not filters:
        raise click.UsageError("say which connections to close, such as --id or --topic")
    with operating(info) as (_, cluster):
        count, found = cluster.connections(limit, **filters)
        require_answer(cluster.nodes)
        if as_json:
            click.echo(json.dumps({"count": count, "connections": found}))
        else:
            for line in table(found):
                click.echo(line)
            click.echo(f"{len(found)} of {count} connections on {len(cluster.nodes)} processes")
        if disconnect and count and (yes or click.confirm(f"Close {count}?", err=True)):
            click.echo(f"{cluster.disconnect(**filters)} closed", err=True)


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a list."""
    cells = [[cut(value(each), width) for _, width, value in COLUMNS] for each in found]
    titles = [title for title, _, _ in COLUMNS]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for row in [titles, *cells] if cells else []:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def topics_of(each: dict[str, Any]) -> str:
    """Return the topics of a connection, as far as they are told."""
    more = each["channels"] - len(each["topics"])
    return " ".join(each["topics"]) + (f" and {more} more" if more else "") or "-"
