"""``flask phoenix asyncapi``: an AsyncAPI document of what the app declares."""

from __future__ import annotations

import json
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from ..schema.asyncapi import Document
from ..schema.asyncapi import asyncapi as document_of
from ..schema.compatibility import incompatible_changes
from .declared import declared_clients, write_or_check

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("asyncapi")
@click.option("--title", help="The name of the interface; the app's, unless given.")
@click.option("--version", default="1.0.0", show_default=True, help="The version of the interface.")
@click.option("--check", type=FILE, help="Write nothing; fail where this file is stale, and tell what is incompatible.")
@click.option("--compatible", type=FILE, help="Write nothing; fail where clients of this document would break.")
@with_appcontext
def asyncapi(title: str | None, version: str, check: Path | None, compatible: Path | None) -> None:
    """Write an AsyncAPI 3.0 document of the app's sockets, channels and payloads."""
    with declared_clients() as clients:
        document = document_of(clients, title or current_app.name, version)
    if compatible is None:
        changes = incompatible_changes(_read(check), document) if check is not None else []
        write_or_check(json.dumps(document, indent=2, ensure_ascii=False) + "\n", check, "asyncapi", changes)
    elif changes := incompatible_changes(_read(compatible), document):
        raise click.ClickException("\n".join([f"clients of {compatible} would break:", *changes]))


def _read(path: Path) -> Document:
    try:
        document: Document = json.loads(path.read_bytes())
        document["channels"], document["operations"]
    except (ValueError, TypeError, KeyError) as error:
        raise click.ClickException(f"{path} is no document of flask phoenix asyncapi: {error!r}") from error
    return document
