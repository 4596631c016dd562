"""The head of a request, read without the parser for mail that pywsgi would use."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

#: Bytes of a line, and lines of a head, at most: those of ``http.client``.
LINE_LIMIT = 65536
FIELD_LIMIT = 100

#: A field on one line (RFC 9112, 5): its name is a token, and nothing stands between that and the colon.
FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r\n]*)\r?\n")
#: A number of bytes (RFC 9110, 8.6).
NUMBER = re.compile("[0-9]+")


class Head(dict[str, str]):
    """The fields of a head as pywsgi asks for them: the first of each name, and all lines.

    :raises ValueError: the head is not as RFC 9112 wants it, or larger than the limits.
    :raises ConnectionError: it has no end.
    """

    #: What pywsgi takes for a problem.
    status = ""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        #: The lines, which pywsgi turns into the variables of WSGI.
        self.headers: list[str] = []
        while (line := stream.readline(LINE_LIMIT + 1)) not in (b"\r\n", b"\n"):
            if not line:
                raise ConnectionAbortedError("the stream ends within the head")
            if len(line) > LINE_LIMIT or len(self.headers) == FIELD_LIMIT:
                raise ValueError(f"more than {FIELD_LIMIT} fields in the head, or {LINE_LIMIT} bytes in one of them")
            self._add(line.decode("latin-1"))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the first field of that name."""
        return super().get(name.lower(), default)

    getheader = get

    @property
    def typeheader(self) -> str | None:
        """The type of the body."""
        return super().get("content-type")

    def _add(self, line: str) -> None:
        field = FIELD.fullmatch(line)
        if field is None:
            raise ValueError(f"no field of a head: {line[:100]!r}")
        name, value = field[1].lower(), field[2].strip(" \t")
        if name == "content-length" and (not NUMBER.fullmatch(value) or self.get(name, value) != value):
            raise ValueError(f"what is the length of the body? Content-Length: {value[:100]!r}")
        self.headers.append(line)
        self.setdefault(name, value)
