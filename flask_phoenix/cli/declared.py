"""What ``flask phoenix asyncapi`` and ``flask phoenix types`` share: what the app declares, and looking at a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff
from pathlib import Path

import click
from flask import current_app

from ..app_state import State
from ..dashboard.channels import DashboardSocket
from ..exceptions import InvalidOption
from ..schema.declarations import Client, read_declarations

#: Lines of a difference that are shown.
SHOWN_LINES = 60


@contextmanager
def declared_clients() -> Iterator[list[Client]]:
    """Give what the current app declares; what cannot be read is the command's error, in one line."""
    state: State | None = current_app.extensions.get("phoenix")
    if state is None:
        raise click.ClickException("this app has no sockets: call phoenix.init_app(app)")
    try:
        mounts = [endpoint.mount for endpoint in state.endpoints if endpoint.mount.socket is not DashboardSocket]
        yield read_declarations((mount.path, mount.socket) for mount in mounts)
    except InvalidOption as error:
        raise click.ClickException(str(error)) from error


def write_or_check(text: str, path: Path | None, command: str, changes: list[str]) -> None:
    """Write a text, or see that a file holds it.

    :param path: of the file.
    :param changes: from the file to the text, which would break clients.
    """
    if path is None:
        click.echo(text, nl=False)
        return
    held = path.read_text("utf-8")
    if held == text:
        return
    for change in changes:
        click.echo(f"incompatible: {change}", err=True)
    if not changes:
        lines = list(unified_diff(held.splitlines(), text.splitlines(), str(path), "the app", lineterm="", n=1))
        click.echo("\n".join(lines[:SHOWN_LINES]), err=True)
    raise click.ClickException(f"{path} is stale; type: flask phoenix {command} > {path}")
