"""``flask phoenix gen``: a socket, a channel or a presence, and its test."""

from __future__ import annotations

import re
from keyword import iskeyword
from pathlib import Path

import click
from flask import current_app
from flask.cli import with_appcontext

from .files import CLIENT, filled, write_new

#: What to do with what was written.
NEXT = {
    "socket": (
        "Mount it, where phoenix is:\n\n    from {module} import {name}\n\n    phoenix.socket('/socket')({name})\n"
    ),
    "channel": (
        "Let a socket serve it, in the socket's module:\n\n    from {module} import {name}\n\n"
        "    UserSocket.channel('{topic}:*')({name})\n"
    ),
    "presence": (
        "Make it, where phoenix is:\n\n    from {module} import {name}\n\n    online = phoenix.presence({name})\n\n"
        "Use it in a channel's class, presence = online, and in its after_join:\n\n"
        "    self.push('presence_state', self.presences())\n    self.track(self.assigns['name'])\n"
    ),
}
#: How the names of classes end.
SUFFIXES = {"socket": "Socket", "channel": "Channel", "presence": ""}


@click.command("gen")
@click.argument("kind", type=click.Choice(list(NEXT)))
@click.argument("name")
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="The folder; the app's own, unless given.")
@with_appcontext
def gen(kind: str, name: str, to: Path | None) -> None:
    """Write a socket, a channel or a presence, and its test. NAME is in capitals: Room makes class RoomChannel."""
    folder = to or Path(current_app.root_path)
    bare = name.removesuffix(SUFFIXES[kind]) if name != SUFFIXES[kind] else name
    if not re.fullmatch("[A-Z][A-Za-z0-9]*", bare) or iskeyword(bare):
        raise click.BadParameter(
            f"{name!r} is no name of a class: a capital, then letters and digits, as in ChatRoom", param_hint="NAME"
        )
    if kind == "presence" and bare == "Presence":
        raise click.BadParameter("that is the name of the class that it makes use of; take Online", param_hint="NAME")
    cls, topic = bare + SUFFIXES[kind], re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()
    stem = f"{topic}_{kind}"  # no module of others is called so
    package, above = _package(folder)
    module = f"{package}.{stem}" if package else stem
    words = {"CLASS": cls, "TOPIC": topic, "IMPORT": module}
    tests = above / "tests" if (above / "tests").is_dir() else above
    texts = {
        folder / f"{stem}.py": filled(f"gen/{kind}.py", words),
        tests / f"test_{stem}.py": filled(f"gen/test_{kind}.py", words),
    }
    if kind == "socket":
        texts |= _page(folder / "static", stem, words)
    write_new(texts)
    click.echo("\n" + NEXT[kind].format(module=module, name=cls, topic=topic))


def _page(static: Path, stem: str, words: dict[str, str]) -> dict[Path, str]:
    """Return what a page needs to connect: a module of its own, and the official client, unless that is there."""
    texts = {static / f"{stem}.mjs": filled("gen/socket.mjs", words)}
    if not (static / "phoenix.mjs").exists():
        texts[static / "phoenix.mjs"] = CLIENT.read_text("utf-8")
    return texts


def _package(folder: Path) -> tuple[str, Path]:
    """Return the package that a folder is, if it is one, and the folder that the whole package stands in."""
    names: list[str] = []
    folder = folder.resolve()
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names), folder
