"""``flask phoenix types``: TypeScript declarations of what the app declares."""

from __future__ import annotations

from pathlib import Path

import click
from flask.cli import with_appcontext

from ..schema.typescript import typescript
from .declared import declared_clients, write_or_check

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("types")
@click.option("--check", type=FILE, help="Write nothing; fail where this file is stale, and show what has changed.")
@with_appcontext
def types(check: Path | None) -> None:
    """Write TypeScript declarations of the app's sockets, channels and payloads, for the npm package phoenix."""
    with declared_clients() as clients:
        text = typescript(clients)
    write_or_check(text, check, "types", [])
