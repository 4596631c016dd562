"""All that is looked at, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..app_state import State
from ..socket import Socket
from . import nodes, serving, setup, site
from .findings import PASS_THE_HOST, Finding
from .probe import blocking_drivers

#: What is looked at without a command: the app is loaded as ``flask run`` does, which patches by itself.
NO_COMMAND: dict[str, Any] = {"server": "flask", "settings": {}, "error": ""}


class Case(NamedTuple):
    """What there is to look at.

    :param state: what the app has of Phoenix; None: there is no app, but a URL.
    :param command: the words that start the server.
    :param url: of a site that runs, or empty.
    """

    state: State | None
    command: list[str]
    url: str
    visit: site.Visit


def examine(case: Case) -> list[Finding]:
    """Return what is wrong."""
    findings = list(_examine_set_up(case))
    if case.url:
        seen = site.check(targets(case.state, case.url), case.visit)
        told = {finding.name for finding in findings}
        findings += [_of_proxy(finding, case) for finding in seen if finding.name != "origin" or "origin" not in told]
    return findings


def _of_proxy(finding: Finding, case: Case) -> Finding:
    """Name the one remedy where the app would let those pages in: what stands before it tells it of another host."""
    if case.state is None or finding.name != "origin":
        return finding
    return finding._replace(remedy=f"the app allows them: where a proxy stands before it, {PASS_THE_HOST}")


def _examine_set_up(case: Case) -> Iterator[Finding]:
    facts = serving.look(case.command) if case.command else NO_COMMAND
    yield from serving.check(facts)
    state = case.state
    yield from serving.check_drivers(facts.get("drivers", blocking_drivers() if state else []))
    if state is None:
        return
    yield from setup.check_app(state)
    if case.url:
        parts = urlsplit(case.url if "://" in case.url else f"http://{case.url}")
        for endpoint in state.endpoints:
            scheme = {"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme)
            yield from setup.check_origin(endpoint.mount, scheme, parts.netloc)
    yield from setup.check_versions({"redis"} if nodes.leads_to_redis(state.pubsub_url) else set())
    yield from nodes.check(state, facts["settings"].get("workers", 1))
    most = state.engine.settings.max_connections
    if most is not None and not facts["settings"]:
        yield from serving.check_descriptors(most, "PHOENIX_MAX_CONNECTIONS")


def targets(state: State | None, url: str) -> list[site.Target]:
    """Return what to look at on a site: the mounts of the app, or, where the URL has a path, the one at that path."""
    base = (url if "://" in url else f"http://{url}").rstrip("/")
    path = urlsplit(base).path
    found = []
    for mount in [endpoint.mount for endpoint in state.endpoints] if state else []:
        if path.endswith(mount.path.rstrip("/")) if path else "<" not in mount.url:
            whole = f"{base}/{mount.options.path.strip('/')}" if path else f"{base}{mount.url}"
            channels = issubclass(mount.socket, Socket)
            found.append(site.Target(whole, mount.transport, channels, mount.options.window))
    if found or (state and not path):
        return found
    return [site.Target(f"{base}{'' if path else '/socket'}/websocket", "websocket")]
