"""What is said under debug where a client asks for a mount that is not there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..protocol.messages import shown
from .options import TRANSPORTS, Mount

log = logging.getLogger("flask_phoenix.handshake")


def tell_missing(environ: dict[str, Any], mounts: Sequence[Mount]) -> None:
    """Log what a request that was answered with 404 has missed, if it was for a mount."""
    path = str(environ.get("PATH_INFO", ""))
    transport = path.rpartition("/")[2]
    if transport in TRANSPORTS or "HTTP_UPGRADE" in environ:
        log.warning("no socket is mounted at %s: %s", shown(path), _remedy(path, transport, mounts))


def _remedy(path: str, transport: str, mounts: Sequence[Mount]) -> str:
    """Tell what to ask for instead, or what to mount."""
    for mount in mounts:
        if path.rstrip("/") == mount.path.rstrip("/") or path.startswith(f"{mount.url}/"):
            return f"clients append the transport themselves, so give them {mount.path!r}: new Socket({mount.path!r})"
        if path == f"{mount.path.rstrip('/')}/{transport}" and transport in TRANSPORTS:
            return f"write @phoenix.socket({mount.path!r}, {transport}=True) above {mount.socket.__name__}"
    return f"there are {', '.join(mount.url for mount in mounts) or 'none: mount one with @phoenix.socket(path)'}"
