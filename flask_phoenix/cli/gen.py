"""``flask phoenix gen``: a socket, a channel or a presence, and its test."""

from __future__ import annotations

import os
import re
from keyword import iskeyword
from pathlib import Path

import click
from flask.cli import NoAppException, ScriptInfo

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
TEST = "Run its test: python -m pytest {test}\n"
#: How the names of classes end.
SUFFIXES = {"socket": "Socket", "channel": "Channel", "presence": ""}
#: Names of classes that a presence and its test make use of.
TAKEN = {"Any", "Channel", "Clients", "Flask", "Phoenix", "Presence", "RoomChannel", "Socket", "SomeSocket"}
NO_APP = (
    "Or say where to write, as in --to . (no app is needed then); flask phoenix new NAME makes an app to begin with."
)


@click.command("gen")
@click.argument("kind", type=click.Choice(list(NEXT)))
@click.argument("name")
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="The folder; the app's own, unless given.")
@click.pass_context
def gen(ctx: click.Context, kind: str, name: str, to: Path | None) -> None:
    """Write a socket, a channel or a presence, and its test. NAME is in capitals: Room makes class RoomChannel."""
    bare = name.removesuffix(SUFFIXES[kind]) if name != SUFFIXES[kind] else name
    _check_name(kind, name, bare)
    folder = to or _folder_of_app(ctx)
    cls, topic = bare + SUFFIXES[kind], re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", bare).lower()
    stem = f"{topic}_{kind}"  # no module of others is called so
    package, above = _package(folder, Path.cwd() if to else folder)
    module = ".".join([*package, stem])
    words = {"CLASS": cls, "TOPIC": topic, "IMPORT": module}
    test = _folder_of_tests(above) / f"test_{stem}.py"
    texts = {
        folder / f"{stem}.py": filled(f"gen/{kind}.py", words),
        test: filled(f"gen/test_{kind}.py", words),
    }
    if kind == "socket":
        texts |= _page(folder / "static", stem, words)
    write_new(texts)
    click.echo("\n" + NEXT[kind].format(module=module, name=cls, topic=topic))
    click.echo(TEST.format(test=os.path.relpath(test)))


def _check_name(kind: str, name: str, bare: str) -> None:
    """See that this can be the name of a class.

    :raises click.BadParameter: with one that can.
    """
    if not re.fullmatch("[A-Z][A-Za-z0-9]*", bare) or iskeyword(bare):
        likely = "".join(part[0].upper() + part[1:] for part in re.findall("[A-Za-z0-9]+", name))
        remedy = f"; take {likely}" if re.fullmatch("[A-Z][A-Za-z0-9]*", likely) and not iskeyword(likely) else ""
        raise click.BadParameter(
            f"{name!r} is no name of a class: a capital, then letters and digits, as in ChatRoom{remedy}",
            param_hint="NAME",
        )
    if kind == "presence" and bare in TAKEN:
        raise click.BadParameter("that is the name of a class that it makes use of; take Online", param_hint="NAME")


def _folder_of_app(ctx: click.Context) -> Path:
    """Return the folder in which the app stands.

    :raises NoAppException: there is none, or it cannot be loaded.
    """
    try:
        return Path(ctx.ensure_object(ScriptInfo).load_app().root_path)
    except NoAppException as error:
        raise NoAppException(f"{error.message} {NO_APP}") from error


def _folder_of_tests(above: Path) -> Path:
    """Return where the tests of a package are, which stands in a folder."""
    places = [above / "tests", *([above.parent / "tests"] if above.name == "src" else [])]
    return next((each for each in places if each.is_dir()), above)


def _page(static: Path, stem: str, words: dict[str, str]) -> dict[Path, str]:
    """Return what a page needs to connect: a module of its own, and the official client, unless that is there."""
    texts = {static / f"{stem}.mjs": filled("gen/socket.mjs", words)}
    if not (static / "phoenix.mjs").exists():
        texts[static / "phoenix.mjs"] = CLIENT.read_text("utf-8")
    return texts


def _package(folder: Path, base: Path) -> tuple[list[str], Path]:
    """Return the packages that a folder stands in, with itself, and the folder from which they are imported.

    A folder without ``__init__.py`` is one too, within a package, or below the base.
    """
    folder, base = folder.resolve(), base.resolve()
    chain = [folder, *folder.parents]
    inner = next((each for each in chain if (each / "__init__.py").exists()), None)
    if inner is not None:
        base = next(each for each in [inner, *inner.parents] if not (each / "__init__.py").exists())
    names = list(folder.relative_to(base).parts) if folder.is_relative_to(base) else []
    return (names, base) if names and all(name.isidentifier() for name in names) else ([], folder)
