"""``flask phoenix``: its commands, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

import click

#: Where each command stands: a module of this folder. The function has the command's name.
COMMANDS = {
    "asyncapi": "asyncapi",
    "broadcast": "publish",
    "client": "client",
    "disconnect": "publish",
    "doctor": "doctor",
    "gen": "gen",
    "new": "new",
    "routes": "routes",
    "sockets": "sockets",
    "tail": "tail",
    "top": "top",
    "types": "types",
    "worker": "worker",
}


class Commands(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"..{COMMANDS[cmd_name]}", __name__), cmd_name)
        return command


@click.group("phoenix", cls=Commands)
def phoenix() -> None:
    """Look at what the app serves, and speak to those who are connected to it."""
