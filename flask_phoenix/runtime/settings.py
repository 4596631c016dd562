"""What is set once for a process: ``PHOENIX_*`` keys of the app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any

from ..exceptions import InvalidOption
from ..pubsub.history import TOTAL


@dataclass(frozen=True)
class Settings:
    """The settings of a process; each is the ``PHOENIX_*`` key of its name."""

    #: Seconds at most over which the clients of a process that ends are let go.
    drain_window: float = 5.0
    #: Clients of this process, by WebSocket or by long polling; None: any number.
    max_connections: float | None = None
    #: The same of one address: an IPv4 address, or the /64 network of an IPv6 address.
    max_connections_per_address: float | None = None
    #: Handshakes that are let through; those beyond it wait.
    handshakes_per_second: float | None = None
    #: Joins that are handled; those beyond it wait.
    joins_per_second: float | None = None
    #: Bytes of clients' messages that wait for handlers; past it, the client with the most is closed.
    inbox_total: int = 16 << 20
    #: Bytes that the histories of all topics keep.
    history_total: int = TOTAL
    #: Bytes of all bodies of long polling that are being read.
    bodies_total: int = 64 << 20
    #: Our own server: seconds for the head of a request.
    head_timeout: float = 10.0
    #: Our own server: seconds for each 64 KiB of a body.
    upload_timeout: float = 20.0
    #: Our own server: seconds between two requests of a connection.
    keepalive_timeout: float = 75.0

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Settings:
        """Read the settings of an app.

        :raises InvalidOption: one is no positive number.
        """
        keys = {field.name: f"PHOENIX_{field.name.upper()}" for field in fields(cls)}
        given = {name: config[key] for name, key in keys.items() if key in config}
        for name, value in given.items():
            if value is None and getattr(cls, name) is None:
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < inf:
                raise InvalidOption(f"{keys[name]} is a positive number; got {value!r}")
        return cls(**given)


#: The keys of an app that are read here.
KEYS = [f"PHOENIX_{field.name.upper()}" for field in fields(Settings)]
