"""A line for each connect, join and handled event, and what such lines may tell (in Phoenix: ``logger.ex``)."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextvars import Context, ContextVar
from typing import Any

from ..exceptions import InvalidOption
from ..protocol.messages import shown

#: What stands in a line instead of a value that is not to be told.
FILTERED = "[FILTERED]"
#: What is not told unless the app says otherwise, as in Phoenix.
SECRETS = ("password", "token")
SETTING = "PHOENIX_FILTER_PARAMETERS"

#: The number of the connection whose callback runs.
_connection: ContextVar[int | str] = ContextVar("phoenix_connection", default="-")


class ParameterFilter:
    """Takes out of parameters what nobody is to read in a log, however deep it is.

    :param terms: parts of keys whose values are not told; or ``{"keep": [...]}``: keys of which alone they are.
    :raises InvalidOption: it is neither.
    """

    def __init__(self, terms: Any = SECRETS) -> None:
        self._keep = isinstance(terms, Mapping) and set(terms) == {"keep"}
        names = terms["keep"] if self._keep else terms
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise InvalidOption(f"{SETTING} is a list of words, or {{'keep': [...]}}; got {terms!r}")
        self._names = tuple(names) if self._keep else tuple(name.lower() for name in names)

    def __call__(self, value: Any) -> Any:
        """Return parameters as they may be told; of bytes, their number."""
        if isinstance(value, bytes):
            return f"<{len(value)} bytes>"
        if isinstance(value, dict):
            return {key: self._of_key(key, each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self(each) for each in value]
        return FILTERED if self._keep else value

    def of_text(self, text: str) -> str:
        """Return text without the lines that name such a key and a value (``password='...'``, ``"token": ...``)."""
        if self._keep or not self._names:
            return text
        names = "|".join(map(re.escape, self._names))
        secret = re.compile(rf"(?:{names})\w*[\"']?\s*[=:]", re.IGNORECASE)
        return "".join(FILTERED + "\n" if secret.search(line) else line for line in text.splitlines(keepends=True))

    def _of_key(self, key: Any, value: Any) -> Any:
        if self._keep:
            return value if key in self._names else self(value)
        hides = any(name in str(key).lower() for name in self._names)
        hides = hides or (isinstance(value, str) and any(f"{name}=" in value.lower() for name in self._names))
        return FILTERED if hides else self(value)


class ConnectionFilter(logging.Filter):
    """Gives each line of a client's callbacks the number of its connection: ``%(phoenix_connection)s`` in a format.

    Add it to a handler of ``logging``, before the first client comes. Other lines get ``-``.
    """

    #: One was made: connections keep their numbers for it.
    used = False

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        ConnectionFilter.used = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line pass."""
        if not hasattr(record, "phoenix_connection"):
            record.phoenix_connection = _connection.get()
        return True


def identified(context: Context, number: int) -> Context:
    """Return context variables from which a :class:`ConnectionFilter` knows the connection."""
    if not ConnectionFilter.used:
        return context
    context = context.copy()
    context.run(_connection.set, number)
    return context


def duration(seconds: float) -> str:
    """Write a time as Phoenix does: whole milliseconds, or microseconds below the second of these."""
    micros = round(seconds * 1e6)
    return f"{micros // 1000}ms" if micros > 1000 else f"{micros}µs"


def write_line(log: logging.Logger, level: int, what: str, seconds: float, parameters: Any, **about: Any) -> None:
    """Write a line of what has happened, and the same as fields of the record, for formatters of JSON.

    :param parameters: as they may be told.
    :param about: fields, which get ``phoenix_`` before their names.
    """
    fields = {f"phoenix_{name}": value for name, value in about.items()}
    extra = {**fields, "phoenix_seconds": seconds, "phoenix_parameters": parameters}
    log.log(
        level,
        "%s in %s: parameters %s (connection %s)",
        what,
        duration(seconds),
        shown(parameters),
        about["connection"],
        extra=extra,
    )
