"""``flask phoenix routes``: what the app serves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from ..app_state import State, state_of
from ..channel import Channel
from ..exceptions import PhoenixError
from ..protocol.messages import shown
from ..socket import BaseSocket, Route, Socket, hiding
from ..transports.options import Mount, Options


@click.command("routes")
@with_appcontext
def routes() -> None:
    """Show what the app serves: mounts, topic patterns, channels, events, and options that differ from the default."""
    try:
        state = state_of(current_app)
    except PhoenixError as error:
        raise click.ClickException(str(error)) from error
    for line in describe(state):
        click.echo(line)


def describe(state: State) -> Iterator[str]:
    """Yield lines that say what an app serves."""
    mounts: dict[tuple[str, type[BaseSocket]], list[Mount]] = {}
    for endpoint in state.endpoints:
        mounts.setdefault((endpoint.mount.path, endpoint.mount.socket), []).append(endpoint.mount)
    if not mounts:
        yield "no socket is mounted: write @phoenix.socket('/socket') above a class, in a module that the app imports"
    for (path, socket), transports in mounts.items():
        yield f"{path}  {_name(socket)}"
        for mount in transports:
            yield f"  {mount.transport:<10} {mount.url}{_changed(mount)}"
        if issubclass(socket, Socket):
            yield from _describe_patterns(socket)
        yield ""


def _describe_patterns(socket: type[Socket]) -> Iterator[str]:
    if not socket.channels:
        yield f"  no channels: write @{socket.__name__}.channel('room:*') above one, in a module that the app imports"
    width = max((len(route.pattern) for route in socket.channels), default=0)
    for number, route in enumerate(socket.channels):
        yield f"  {route.pattern:<{width}}  {_name(route.channel)}{_hidden(socket.channels[:number], route)}"
        for what, names in _events(route.channel).items():
            yield f"  {'':<{width}}    {what:<10} {', '.join(names)}"


def _events(channel: type[Channel]) -> dict[str, list[str]]:
    """Return what a channel does with which events."""
    events = list(channel.handlers)
    if channel.handle_in is not Channel.handle_in:
        events.append("and any other")
    found = {"takes": events, "intercepts": list(channel.interceptors), "conflates": list(channel.conflate)}
    if channel.history.size:
        found["keeps"] = [f"{channel.history.size} messages for {channel.history.ttl:g} s"]
    if name := getattr(channel.presence, "name", ""):
        found["presence"] = [name]
    return {what: names for what, names in found.items() if names}


def _hidden(earlier: tuple[Route, ...], route: Route) -> str:
    """Tell which earlier pattern takes all topics of this one."""
    other = hiding(earlier, route)
    return f"  (never: {other.pattern!r} comes before it, and fits all its topics)" if other is not None else ""


def _changed(mount: Mount) -> str:
    """Return the options of a mount that are not the default."""
    usual = Options(path="/longpoll") if mount.transport == "longpoll" else Options()
    pairs = [(field.name, getattr(mount.options, field.name)) for field in fields(Options)]
    changed = [f"{name}={_value(value)}" for name, value in pairs if value != getattr(usual, name)]
    return f"  {' '.join(changed)}" if changed else ""


def _value(value: Any) -> str:
    return str(getattr(value, "__name__", None) or shown(value))


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
