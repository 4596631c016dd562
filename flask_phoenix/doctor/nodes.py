"""What joins the processes: nothing, a directory, or Redis."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from ..app_state import State
from ..broadcaster import NONE
from ..exceptions import InvalidOption
from ..pubsub.unix.directory import directory_of_server, directory_of_url, make_private, path_of
from .findings import Finding, found

#: The schemes of URLs that lead to Redis.
REDIS = ("redis", "rediss", "redis+cluster", "rediss+cluster", "unix")


def leads_to_redis(url: str | None) -> bool:
    """Tell whether a URL is that of a Redis."""
    return bool(url) and str(url).partition("://")[0] in REDIS


def check(state: State, workers: int) -> Iterator[Finding]:
    """Look at the way to other nodes.

    :param workers: the processes that the command starts.
    """
    url = state.pubsub_url
    if state.has_own_adapter:
        return
    if url == NONE:
        if workers > 1:
            yield found("processes", f"{workers} workers are started, and nothing joins them")
    elif leads_to_redis(url):
        module = import_module("..redis", __name__)
        yield from module.check(state, url)
    elif not url and workers > 1:
        yield from _check_directory(None, state.app.import_name)
    elif url and url.startswith("workers:"):
        yield from _check_directory(url, "")


def _check_directory(url: str | None, name: str) -> Iterator[Finding]:
    """Do what a worker does: make the directory, and listen in it; what was made is removed."""
    try:
        directory = directory_of_url(url) if url else directory_of_server(name)
        had = directory.exists()
        try:
            make_private(directory)
            _listen(directory)
        finally:
            if not had:
                with suppress(OSError):
                    directory.rmdir()
    except InvalidOption as error:
        yield found("directory", str(error))


def _listen(directory: Path) -> None:
    path = path_of(directory, f"doctor-{secrets.token_hex(4)}")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
    except OSError as error:
        raise InvalidOption(f"no socket can be made in {directory}: {error}") from error
    finally:
        path.unlink(missing_ok=True)
